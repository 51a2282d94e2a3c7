"""Latent statistics are those of samples, exactly; the source of batches is a function of the step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.data.order import batch_indices
from sfumato.first_stages.identity import IdentityConfig, IdentityFirstStage
from sfumato.first_stages.kl import KLConfig, KLFirstStage
from sfumato.generation.pixels import to_unit
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.training.conditions import Stored
from sfumato.training.latents import Cached, LatentSource, Moments, fit_preview, measure, normalize, statistics
from tiny_runs import CPU, all_pixels, awaken, small_first_stage


@pytest.fixture
def moments() -> Moments:
    """Uneven channels, on purpose: a mean far from 0 beside a small spread."""
    rng = torch.Generator().manual_seed(0)
    mean = torch.randn(300, 3, 4, 5, generator=rng) * torch.tensor([0.1, 3, 1]).view(3, 1, 1)
    mean = mean + torch.tensor([20.0, -1, 0]).view(3, 1, 1)
    log_variance = torch.randn(300, 3, 4, 5, generator=rng) - torch.tensor([4.0, 0, 9]).view(3, 1, 1)
    return Moments(mean.half(), log_variance.half())


def brute_force(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Law of total variance over (picture, place), in float64 with two passes: Var z = Var mu + E sigma^2."""
    mean, std = [], []
    for channel in range(moments.mean.shape[1]):
        mu = moments.mean[:, channel].numpy().astype(np.float64).ravel()
        spread = 0.0
        if moments.log_variance is not None:
            spread = np.exp(moments.log_variance[:, channel].numpy().astype(np.float64)).mean()
        mean.append(mu.mean())
        std.append(np.sqrt(((mu - mu.mean()) ** 2).mean() + spread))
    return np.array(mean), np.array(std)


def test_statistics_against_brute_force(moments: Moments) -> None:
    for case in (moments, Moments(moments.mean, None), Moments(moments.mean[:1], moments.log_variance[:1])):
        mean, std = statistics(case)
        assert mean.dtype == std.dtype == torch.float64
        expected_mean, expected_std = brute_force(case)
        np.testing.assert_allclose(mean.numpy(), expected_mean, rtol=1e-12)
        np.testing.assert_allclose(std.numpy(), expected_std, rtol=1e-9)  # E mu^2 - (E mu)^2 loses some digits


def test_statistics_are_those_of_samples(moments: Moments) -> None:
    rng = torch.Generator().manual_seed(1)
    spread = (0.5 * moments.log_variance.double()).exp()
    z = torch.stack([moments.mean.double() + spread * torch.randn(spread.shape, generator=rng) for _ in range(20)])
    mean, std = statistics(moments)
    sampled = z.movedim(2, 0).flatten(1)
    assert ((sampled.mean(1) - mean).abs() < 5 * std / 6000**0.5).all()  # 6000 modes a channel
    torch.testing.assert_close(sampled.std(1), std, rtol=0.02, atol=0)


def test_constant_latents_do_not_divide_by_zero() -> None:
    _, std = statistics(Moments(torch.ones(4, 2, 3, 3).half(), None))
    assert (std > 0).all()


def test_normalized_latents_have_mean_0_and_variance_1() -> None:
    stage, pixels = awaken(small_first_stage()), all_pixels(40)
    batches = list(to_unit(pixels).split(16))
    found, small = measure(stage, iter(batches))
    assert found.mean.shape == found.log_variance.shape == (40, 2, 8, 8)
    assert found.mean.dtype == torch.float16
    assert small.shape == (40, 3, 8, 8)
    numbers = normalize(stage, found, small)
    assert stage.shift.tolist() == pytest.approx(numbers["mean"], rel=1e-6)
    assert stage.scale.tolist() == pytest.approx(numbers["std"], rel=1e-6)
    with torch.no_grad():
        unit = stage.posterior(to_unit(pixels))
    mean = unit.mean.double().mean((0, 2, 3))
    variance = unit.mean.double().var((0, 2, 3), correction=0) + unit.log_variance.double().exp().mean((0, 2, 3))
    assert mean.abs().max() < 1e-3  # the cache rounds the modes to fp16
    assert (variance - 1).abs().max() < 2e-3
    rng = torch.Generator().manual_seed(2)
    z = torch.stack([unit.sample(rng) for _ in range(30)]).movedim(2, 0).flatten(1)
    assert z.mean(1).abs().max() < 0.02
    assert (z.var(1) - 1).abs().max() < 0.03


def test_measuring_does_not_depend_on_batches() -> None:
    stage, x = small_first_stage(), to_unit(all_pixels(12))
    one, other = measure(stage, iter([x]))[0], measure(stage, iter(x.split(5)))[0]
    torch.testing.assert_close(one.mean, other.mean, rtol=2e-3, atol=1e-3)
    assert one.mean.shape == other.mean.shape


def test_identity_has_statistics_but_keeps_its_pixels() -> None:
    stage, x = IdentityFirstStage(IdentityConfig(3)), to_unit(all_pixels(6))
    found, small = measure(stage, iter([x]))
    numbers = normalize(stage, found, small)
    assert found.log_variance is None
    np.testing.assert_allclose(numbers["mean"], x.double().mean((0, 2, 3)).numpy(), atol=1e-3)
    assert torch.equal(stage.decode(x), x)


def test_previews_of_transparent_pictures_are_on_white() -> None:
    stage, x = IdentityFirstStage(IdentityConfig(4)), torch.rand(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found, small = measure(stage, iter(x.split(4)))
    assert found.mean.shape == (6, 4, 8, 8)
    assert torch.equal(small, x[:, :3].half())
    kl = KLFirstStage(KLConfig(AutoencoderConfig(4, 8, (1, 2), 1, mid_attention=False, latent_channels=3)))
    normalize(kl, *measure(kl, iter([x])))
    assert kl.preview.shape == (4, 3)
    assert kl.preview.any()


def test_preview_is_the_least_squares_map(moments: Moments) -> None:
    """Where small pictures are an affine map of the unit latents, the map is found again."""
    mean, std = statistics(moments)
    truth = torch.tensor([[0.2, -0.1, 0.3], [0.5, 0.1, 0], [0, -0.4, 0.2], [0.1, 0.2, -0.3]], dtype=torch.float64)
    z = ((moments.mean.double() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)).movedim(1, -1)
    small = (z @ truth[:3] + truth[3]).movedim(-1, 1)
    found = fit_preview(moments, small, mean, std)
    torch.testing.assert_close(found, truth, rtol=1e-3, atol=1e-4)  # a ridge of 1e-6 keeps it solvable


def test_preview_of_constant_pictures_is_its_bias(moments: Moments) -> None:
    mean, std = statistics(moments)
    found = fit_preview(moments, torch.full((300, 3, 4, 5), 0.25), mean, std)
    torch.testing.assert_close(found[3], torch.full((3,), 0.25, dtype=torch.float64), rtol=1e-4, atol=1e-5)
    assert found[:3].abs().max() < 1e-4


def test_moments_survive_the_disk(moments: Moments, tmp_path: Path) -> None:
    moments.save(tmp_path / "a")
    Moments(moments.mean, None).save(tmp_path / "b")
    back, point = Moments.read(tmp_path / "a"), Moments.read(tmp_path / "b")
    assert torch.equal(back.mean, moments.mean)
    assert torch.equal(back.log_variance, moments.log_variance)
    assert point.log_variance is None
    cached = Cached.read([tmp_path / "a", tmp_path / "b"], {})
    assert cached.flipped is not None
    assert torch.equal(cached.shift, torch.zeros(3))
    assert torch.equal(cached.scale, torch.ones(3))


def source(moments: Moments, flipped: Moments | None = None, variants: int = 1, seed: int = 3) -> LatentSource:
    count = len(moments.mean)
    prepared = torch.arange(count * variants).view(count, variants)
    scale = (torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 4, 8]))
    return LatentSource(moments, flipped, scale, Stored(prepared, torch.full((count,), variants), CPU), CPU, seed)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_batches_are_a_function_of_the_step(moments: Moments) -> None:
    one, other = source(moments), source(moments)
    for step in range(4):
        other.batch(step, 9, rng(77))  # another history
    for step in (0, 50, 3):
        for a, b in zip(one.batch(step, 16, rng(step)), other.batch(step, 16, rng(step)), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(one.batch(3, 16, rng(3))[0], one.batch(3, 16, rng(4))[0])
    assert not torch.equal(one.batch(3, 16, rng(3))[1], source(moments, seed=4).batch(3, 16, rng(3))[1])


def test_batches_are_scaled_samples_of_the_right_pictures(moments: Moments) -> None:
    sharp = Moments(moments.mean, torch.full_like(moments.mean, -30))
    z, prepared = source(sharp).batch(5, 16, rng(0))
    index = batch_indices(300, 16, 3, 5)
    assert torch.equal(prepared, index)
    shift, scale = torch.tensor([1.0, 2, 3]).view(3, 1, 1), torch.tensor([2.0, 4, 8]).view(3, 1, 1)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, (moments.mean[index].float() - shift) / scale, rtol=1e-4, atol=1e-5)
    point = source(Moments(moments.mean, None)).batch(5, 16, rng(0))[0]
    torch.testing.assert_close(point, z, rtol=1e-4, atol=1e-5)


def test_every_picture_once_an_epoch(moments: Moments) -> None:
    ours = source(moments)
    seen = torch.cat([ours.batch(step, 25, rng(step))[1] for step in range(12)])
    assert torch.equal(seen.sort().values, torch.arange(300))


def test_mirrored_and_worded_variants_share_the_draws() -> None:
    count = 64
    zeros, ones = torch.zeros(count, 3, 2, 2).half(), torch.ones(count, 3, 2, 2).half()
    ours = source(Moments(zeros, None), Moments(ones, None), variants=4)
    sides: list[Tensor] = []
    words: list[Tensor] = []
    for step in range(40):
        z, prepared = ours.batch(step, count, rng(step))
        sides.append(((z[:, 0, 0, 0] * 2 + 1) > 0.5).float())
        words.append(prepared % 4)
        assert torch.equal(prepared // 4, batch_indices(count, count, 3, step))
    assert float(torch.cat(sides).mean()) == pytest.approx(0.5, abs=0.05)
    shares = torch.bincount(torch.cat(words), minlength=4) / (40 * count)
    assert (shares - 0.25).abs().max() < 0.04


def test_only_the_variants_that_count_are_drawn() -> None:
    ours = source(Moments(torch.zeros(8, 3, 2, 2).half(), None), variants=3)
    counts = torch.tensor([1, 2, 3, 1, 2, 3, 1, 2])
    ours.conditions = Stored(torch.arange(24).view(8, 3), counts, CPU)
    for step in range(30):
        _, prepared = ours.batch(step, 8, rng(step))
        assert (prepared % 3 < counts[prepared // 3]).all()
