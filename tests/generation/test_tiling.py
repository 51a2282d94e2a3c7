"""Coding in tiles: the untiled result where the receptive field allows, no seams elsewhere, memory of one tile."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tiny_models
from sfumato.errors import InputError
from sfumato.first_stages.identity import IdentityConfig, IdentityFirstStage
from sfumato.first_stages.kl import KLConfig, KLFirstStage
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.shared_norms import Core, SharedNorms
from sfumato.generation.tiling import TILING, Tiling, decode, encode, spans
from sfumato.networks.conv_autoencoder import AutoencoderConfig

FACTOR = 2
ROUNDING = 2e-4  # fp32 convolutions of another shape differ in their last bits, and norms enlarge them


def first_stage(norms: bool = True, attention: bool = False) -> KLFirstStage:
    """Factor 2, random weights that keep the size of activations; without norms it sees a bounded neighbourhood only."""
    config = KLConfig(
        AutoencoderConfig(channels=8, multipliers=(1, 2), num_res_blocks=1, mid_attention=attention, norm_groups=4)
    )
    stage = KLFirstStage(config).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in stage.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * (0.2 if p.ndim == 1 else p[0].numel() ** -0.5))
        stage.scale.fill_(0.7)
    if not norms:
        for module in list(stage.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.GroupNorm):
                    setattr(module, name, nn.Identity())
    return stage


def inputs(kind: str, channels: int, height: int, width: int) -> Tensor:
    if kind == "random":
        return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1)).clamp(-2, 2) / 2
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.stack([torch.sin((i + 2) * x + y) * torch.cos(i * y - x) for i in range(channels)]).repeat(2, 1, 1, 1)


kinds = pytest.mark.parametrize("kind", ["smooth", "random"])


def reach(stage: KLFirstStage) -> int:
    """How many pixels away a latent, or a pixel, still matters: seen by changing one in the middle."""
    z = torch.zeros(1, 4, 41, 41)
    moved = z.clone()
    moved[..., 20, 20] = 1.0
    touched = (stage.decode(z) != stage.decode(moved)).any(1)[0].nonzero()  # (n, 2)
    down = max(20 * FACTOR - int(touched.min()), int(touched.max()) - 21 * FACTOR + 1)
    x = torch.zeros(1, 3, 41 * FACTOR, 41 * FACTOR)
    moved = x.clone()
    moved[..., 20 * FACTOR : 21 * FACTOR, 20 * FACTOR : 21 * FACTOR] = 1.0
    touched = (stage.posterior(x).mean != stage.posterior(moved).mean).any(1)[0].nonzero()
    up = FACTOR * max(20 - int(touched.min()), int(touched.max()) - 20)
    return max(down, up)


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(3, 80), st.integers(0, 26), st.integers(0, 13))
def test_spans_partition_the_axis(length: int, tile: int, overlap: int, margin: int) -> None:
    overlap = min(overlap, tile // 3)
    margin = min(margin, overlap // 2)
    found = spans(length, tile, overlap, margin)
    assert all(0 <= s.start <= s.first < s.last <= s.stop <= length for s in found)
    assert all(s.stop - s.start == min(tile, length) for s in found)
    total, counted, cores = torch.zeros(length, dtype=torch.float64), torch.zeros(length), torch.zeros(length)
    for s in found:
        total[s.first : s.last] += s.weights(total)
        counted[s.first : s.last] += 1
        begin, end = (round(v * (s.stop - s.start)) + s.start for v in s.core)
        cores[begin:end] += 1
        assert s.first == 0 or s.first - s.start >= margin
        assert s.last == length or s.stop - s.last >= margin
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    assert counted.max() <= 2
    assert torch.equal(cores, torch.ones(length))


def fitting() -> Tiling:
    """A margin as wide as the first stage sees, and a blend of 8 pixels."""
    margin = -(-reach(first_stage(norms=False)) // FACTOR) * FACTOR
    assert 16 < margin < 48
    return Tiling(largest=0, tile=3 * (2 * margin + 8), overlap=2 * margin + 8, margin=margin)


@kinds
@pytest.mark.parametrize("size", [(100, 100), (101, 64), (91, 163)])  # of latents
def test_exact_where_the_receptive_field_allows(kind: str, size: tuple[int, int]) -> None:
    stage = first_stage(norms=False)
    tiling = fitting()
    z, x = inputs(kind, 4, *size)[:1], inputs(kind, 3, size[0] * FACTOR, size[1] * FACTOR)[:1]
    with torch.no_grad():
        whole = stage.decode(z)
        torch.testing.assert_close(decode(stage, z, tiling), whole, rtol=1e-5, atol=1e-5)
        found, expected = encode(stage, x, tiling), stage.posterior(x)
        assert tiling.tile // FACTOR < size[0]
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-5, atol=1e-5)
    assert found.log_variance is not None
    torch.testing.assert_close(found.log_variance, expected.log_variance, rtol=1e-5, atol=1e-5)


@kinds
def test_measuring_every_norm_in_its_turn_is_exact(kind: str) -> None:
    """Each pass makes one more norm exact; after as many as there are, tiles are normalised as the whole picture is."""
    stage = first_stage()
    tiling = fitting()
    z, x = inputs(kind, 4, 95, 60), inputs(kind, 3, 95 * FACTOR, 60 * FACTOR)[:1]
    with torch.no_grad():
        passes = len(SharedNorms(stage.decoder).norms)
        got = decode(stage, z, dataclasses.replace(tiling, passes=passes))
        torch.testing.assert_close(got, stage.decode(z), rtol=ROUNDING, atol=ROUNDING)
        passes = len(SharedNorms(stage.encoder).norms)
        mean = encode(stage, x, dataclasses.replace(tiling, passes=passes)).mean
        torch.testing.assert_close(mean, stage.posterior(x).mean, rtol=ROUNDING, atol=ROUNDING)


def test_without_overlap_tiles_are_not_exact() -> None:
    stage, tile = first_stage(norms=False), 40
    z = inputs("random", 4, 2 * tile, 20)
    with torch.no_grad():
        wrong = (decode(stage, z, Tiling(0, FACTOR * tile, 0, 0)) - stage.decode(z)).abs().amax((0, 1, 3))  # (H,)
    assert wrong.max() > 0.1
    assert wrong.argmax() in (FACTOR * tile - 1, FACTOR * tile)


@kinds
def test_one_pass_is_nearer_than_none(kind: str) -> None:
    stage, tiling = first_stage(), fitting()
    z = inputs(kind, 4, 150, 60)[:1]
    with torch.no_grad():
        whole = stage.decode(z)
        none, one = (decode(stage, z, dataclasses.replace(tiling, passes=p)) - whole for p in (0, 1))
    assert one.square().mean() < 0.5**2 * none.square().mean()
    assert one.std() < 0.05 * whole.std()


@kinds
def test_attention_of_a_tile_is_near_that_of_the_picture(kind: str) -> None:
    """It averages values over positions: over a tile much as over the picture. Most on smooth inputs, 5 % of the spread."""
    stage, z = first_stage(attention=True), inputs(kind, 4, 150, 60)[:1]
    with torch.no_grad():
        whole = stage.decode(z)
        assert (decode(stage, z, fitting()) - whole).std() < 0.06 * whole.std()


@kinds
def test_tiles_of_one_measure_have_no_seam(kind: str) -> None:
    """With shared statistics neighbours agree: the result is that of the whole picture under the same statistics."""
    stage, tiling = first_stage(), fitting()
    z = inputs(kind, 4, 150, 60)[:1]
    rows, columns = (spans(n, *(v // FACTOR for v in (tiling.tile, tiling.overlap, tiling.margin))) for n in (150, 60))
    norms = SharedNorms(stage)
    with torch.no_grad():
        tiled = decode(stage, z, tiling)
        for row, column in itertools.product(rows, columns):
            with norms.measuring(Core(*row.core, *column.core)):
                stage.decode(z[..., row.start : row.stop, column.start : column.stop])
        norms.share()
        torch.testing.assert_close(tiled, stage.decode(z), rtol=ROUNDING, atol=ROUNDING)


def test_the_first_norm_is_that_of_the_whole_picture_and_all_are_released() -> None:
    stage = first_stage()
    z = inputs("random", 4, 24, 40)
    norms = SharedNorms(stage.decoder)
    first = norms.norms[0]
    seen: list[Tensor] = []
    handle = first.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        before = stage.decode(z)
        handle.remove()
        with norms.measuring(Core(0, 1, 0, 1)):
            stage.decode(z)
        mean, variance = norms.moments[first].statistics()
        groups = seen[0].double().reshape(2, first.num_groups, -1)
        torch.testing.assert_close(mean, groups.mean(2), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(variance, groups.var(2, correction=0), rtol=1e-5, atol=0)
        norms.share()
        torch.testing.assert_close(stage.decode(z), before, rtol=ROUNDING, atol=ROUNDING)
        assert not torch.equal(stage.decode(2 * z), before)
        norms.release()
        assert torch.equal(stage.decode(z), before)


def test_a_failure_releases_the_norms() -> None:
    stage = first_stage()
    z = inputs("random", 4, 24, 40)
    with torch.no_grad():
        before = stage.decode(z)
        with pytest.raises(RuntimeError, match="size of tensor"):
            decode(stage, z[:, :3], Tiling(0, 24, 8, 2))
        assert torch.equal(stage.decode(z), before)


def calls(stage: KLFirstStage) -> list[int]:
    """Numbers of elements of the largest tensor that went into any layer, one a call of the decoder."""
    seen: list[int] = []
    stage.decoder.register_forward_pre_hook(lambda module, given: seen.append(0))

    def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if seen:
            seen[-1] = max(seen[-1], given[0].numel())

    for module in stage.decoder.modules():
        if not list(module.children()):
            module.register_forward_pre_hook(look)
    return seen


def test_memory_is_that_of_one_tile() -> None:
    stage = first_stage()
    seen = calls(stage)
    tiling = Tiling(0, 24 * FACTOR, 8 * FACTOR, 2 * FACTOR)
    with torch.no_grad():
        stage.decode(torch.zeros(1, 4, 24, 24))  # one tile
        [most] = seen
        for size in ((40, 30), (100, 120)):
            seen.clear()
            decode(stage, torch.zeros(1, 4, *size), tiling)
            assert len(seen) > 2
            assert max(seen) == most


def test_small_pictures_are_coded_whole() -> None:
    stage = first_stage()
    seen = calls(stage)
    z, x = inputs("random", 4, 20, 30), inputs("random", 3, 20 * FACTOR, 30 * FACTOR)
    area = 600 * FACTOR**2
    with torch.no_grad():
        expected = stage.decode(z)
        for tiling in (TILING, None, Tiling(largest=area, tile=24, overlap=8, margin=2)):
            seen.clear()
            assert torch.equal(decode(stage, z, tiling), expected)
            assert len(seen) == 1
            found, whole = encode(stage, x, tiling), stage.posterior(x)
            assert torch.equal(found.mean, whole.mean)
            assert torch.equal(found.log_variance, whole.log_variance)
        seen.clear()
        decode(stage, z, Tiling(largest=area - 1, tile=24, overlap=8, margin=2))
        assert len(seen) > 1


def test_a_first_stage_of_factor_one_needs_no_tiles() -> None:
    stage, x = IdentityFirstStage(IdentityConfig(3)), inputs("random", 3, 40, 40)
    assert torch.equal(decode(stage, x, Tiling(0, 12, 4, 1)), x)
    found = encode(stage, x, Tiling(0, 12, 4, 1))
    assert torch.equal(found.mean, x)
    assert found.log_variance is None


def test_a_pipeline_decodes_in_tiles_above_its_size() -> None:
    """96x64 pictures of the tiny model in tiles of 72, norms measured in their turn; its factor is 2."""
    loaded = tiny_models.loaded(tiny_models.text_config())
    whole = Pipeline(loaded, torch.device("cpu"))
    passes = len(SharedNorms(loaded.model.first_stage).norms)
    tiled = Pipeline(loaded, torch.device("cpu"), Tiling(largest=32 * 32, tile=72, overlap=24, margin=12, passes=passes))
    [one], [other] = (p.generate("cat", seed=3, size=(96, 64)) for p in (whole, tiled))
    assert max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True)) <= 1
    [small], [again] = (p.generate("cat", seed=3, size=(32, 32)) for p in (whole, tiled))
    assert small.tobytes() == again.tobytes()


@pytest.mark.parametrize(
    "values", [{"tile": 0}, {"overlap": 257}, {"margin": 97}, {"largest": -1}, {"passes": -1}, {"overlap": -1}, {"margin": -1}]
)
def test_silly_tilings_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(InputError, match="tiling"):
        Tiling(**values)
