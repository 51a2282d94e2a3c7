"""A VQ first stage in training: its loss by hand, its averages through the loop, and a whole run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import go, times

from sfumato.cli.train import read_config
from sfumato.errors import InputError
from sfumato.first_stages.vq import VQConfig, VQFirstStage
from sfumato.first_stages.vq2 import VQ2Config, VQ2FirstStage
from sfumato.io.pretrained import load_pretrained
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.nn.packaged import PackagedConfig
from sfumato.recipes import RECIPES
from sfumato.training.check import check
from sfumato.training.config import FirstStageLossConfig
from sfumato.training.pixels import PixelSource
from sfumato.training.stages import ADDED, key
from sfumato.training.state import TrainState
from sfumato.training.tasks.autoencoder import AutoencoderTask
from tiny_runs import CPU, SMALL, all_pixels, awaken, differences, run, small_optim, trainer

NETWORK = AutoencoderConfig(channels=8, multipliers=(1, 2), num_res_blocks=1, latent_channels=2, double_moments=False)
AVERAGED = {"codebook_decay": 0.9, "codebook_revive": 0.5}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vq_task(levels: tuple[int, ...] = (), **loss: Any) -> AutoencoderTask:
    """Stage 1 with 15 codes on eleven pictures."""
    torch.manual_seed(0)
    stage = VQFirstStage(VQConfig(NETWORK, codebook_size=15, levels=levels))
    options: dict[str, Any] = {"perceptual": "none", "gan_start": "never"} | loss
    pixels = all_pixels()
    source = PixelSource(list(pixels), pixels, CPU, 0)  # type: ignore[arg-type]  # resident: only the length is asked for
    return AutoencoderTask(stage, FirstStageLossConfig(**options), source, CPU)


@pytest.mark.parametrize("averaged", [False, True])
def test_the_loss_by_hand(averaged: bool) -> None:
    """nll(x, D(z_q)) + w (||sg z - e||^2 + beta ||z - sg e||^2); without its first part where codes are averages."""
    task = vq_task(codebook_weight=0.5, commitment_weight=0.3, **(AVERAGED if averaged else {}))
    stage = awaken(task.first_stage)
    x = task.batch(0, small_optim(), rng())["x"]
    loss = task.loss("autoencoder", {"x": x}, 0, rng(1))
    with torch.no_grad():
        z = stage.quant_conv(stage.encoder(x))
        book = stage.quantize.embedding.weight
        codes = torch.cdist(z.permute(0, 2, 3, 1).flatten(0, 2), book).argmin(1)
        e = book[codes].unflatten(0, (4, 8, 8)).permute(0, 3, 1, 2)
        nll = (stage.decoder(stage.post_quant_conv(e)) - x).abs().flatten(1).sum(1).mean()
        distance = (z - e).square().flatten(1).sum(1).mean()
    torch.testing.assert_close(loss.total.detach(), nll + 0.5 * (0.3 + (not averaged)) * distance, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(loss.parts["commitment"], distance / z[0].numel())
    p = codes.bincount(minlength=15).double() / len(codes)
    torch.testing.assert_close(loss.parts["perplexity"].double(), torch.exp(-(p * p.log()).nansum()), rtol=1e-5, atol=0)
    torch.testing.assert_close(loss.parts["codes/used"].double(), (p > 0).double().mean(), rtol=1e-6, atol=0)
    assert "kl" not in loss.parts


@pytest.mark.parametrize("loss", [{}, AVERAGED, {"levels": (5, 3)}, {"half_size_weight": 0.5}])
def test_every_parameter_is_owned_and_moved(loss: dict[str, Any]) -> None:
    """By one optimizer, but codes that are averages by none."""
    task = vq_task(**loss)
    awaken(task.first_stage)
    held = {
        id(p) for o in TrainState(task, small_optim(), CPU).optimizers.values() for g in o.param_groups for p in g["params"]
    }
    names = {n for n, p in task.first_stage.named_parameters() if id(p) not in held}
    assert names == ({"quantize.embedding.weight"} if loss == AVERAGED else set())
    batch = task.batch(0, small_optim(batch_size=8), rng())
    task.loss("autoencoder", batch, 0, rng(1)).total.backward()
    assert [n for n, p in task.first_stage.named_parameters() if n not in names and (p.grad is None or not p.grad.any())] == []


def test_a_step_in_parts_moves_codes_as_a_whole_one(tmp_path: Path) -> None:
    """N grows to 0.9 times 15 codes and 0.1 times 4 pictures of 64 latents."""
    whole, parted = (
        run(trainer(vq_task(codebook_decay=0.9), tmp_path / str(parts), small_optim(steps=1, accumulate=parts))).task
        for parts in (1, 2)
    )
    assert whole.codebook_average.size.sum().item() == pytest.approx(0.9 * 15 + 0.1 * 4 * 64)
    for name in ("size", "total"):
        torch.testing.assert_close(getattr(whole.codebook_average, name), getattr(parted.codebook_average, name))


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """Averages and what is revived included, bit for bit."""
    run(trainer(vq_task(**AVERAGED), tmp_path / "half", small_optim(steps=4, decay="constant")))
    first = trainer(vq_task(**AVERAGED), tmp_path / "constant", small_optim(decay="constant"))
    again = trainer(vq_task(**AVERAGED), tmp_path / "half", small_optim(decay="constant"))
    assert again.resume() == 4
    assert differences(run(first).state.tensors(), run(again).state.tensors()) == []


def test_codes_move_in_training_and_a_dropped_step_moves_none(tmp_path: Path) -> None:
    task = vq_task(**AVERAGED)
    before = task.first_stage.quantize.embedding.weight.clone()
    made = trainer(task, tmp_path, small_optim(steps=1))
    whole, broken = task.batch, {"x": torch.full((4, 3, 16, 16), float("nan"))}
    task.batch = lambda *given: whole(*given) and broken  # type: ignore[method-assign]
    run(made)
    assert torch.equal(task.first_stage.quantize.embedding.weight, before)
    task.batch = whole  # type: ignore[method-assign]
    made.config = small_optim(steps=2)
    run(made)
    weight = task.first_stage.quantize.embedding.weight
    assert weight.isfinite().all()
    assert not torch.equal(weight, before)


def two_level_task(**loss: Any) -> AutoencoderTask:
    """Stage 1 with 15 codes on each of two levels, on eleven pictures."""
    torch.manual_seed(0)
    stage = awaken(VQ2FirstStage(VQ2Config(NETWORK, codebook_size=15, embed_channels=0)))
    assert isinstance(stage, VQ2FirstStage)
    options: dict[str, Any] = {"perceptual": "none", "gan_start": "never"} | loss
    pixels = all_pixels()
    source = PixelSource(list(pixels), pixels, CPU, 0)  # type: ignore[arg-type]  # resident: only the length is asked for
    return AutoencoderTask(stage, FirstStageLossConfig(**options), source, CPU)


@pytest.mark.parametrize("averaged", [False, True])
def test_the_loss_of_two_levels_is_the_sum(averaged: bool) -> None:
    """nll(x, D(e_t, e_b)) + w sum over levels of (||sg z - e||^2 + beta ||z - sg e||^2), each summed over its own grid."""
    task = two_level_task(codebook_weight=0.5, commitment_weight=0.3, **(AVERAGED if averaged else {}))
    stage = task.first_stage
    assert isinstance(stage, VQ2FirstStage)
    x = task.batch(0, small_optim(), rng())["x"]
    loss = task.loss("autoencoder", {"x": x}, 0, rng(1))
    with torch.no_grad():
        z = stage.posterior(x).mean
        z_t, z_b = z[:, :2, ::2, ::2], z[:, 2:]
        nll = (stage.decode(z) - x).abs().flatten(1).sum(1).mean()
        distances = {}
        for name, part, book in (("top", z_t, stage.top_quantize), ("bottom", z_b, stage.quantize)):
            vectors = part.permute(0, 2, 3, 1).flatten(0, 2)
            each = torch.cdist(vectors, book.embedding.weight).min(1)
            distances[name] = each.values.square().sum() / len(x)
            torch.testing.assert_close(loss.parts[f"commitment/{name}"], distances[name] / part[0].numel())
            used = len(each.indices.unique()) / 15
            torch.testing.assert_close(loss.parts[f"codes/used/{name}"], torch.tensor(used))
            assert 1 <= loss.parts[f"perplexity/{name}"] <= 15 * used + 1e-3
    wanted = nll + 0.5 * (0.3 + (not averaged)) * sum(distances.values())
    torch.testing.assert_close(loss.total.detach(), wanted, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("loss", [{}, AVERAGED, {"half_size_weight": 0.5}])
def test_every_parameter_of_two_levels_is_owned_and_moved(loss: dict[str, Any]) -> None:
    task = two_level_task(**loss)
    held = {
        id(p) for o in TrainState(task, small_optim(), CPU).optimizers.values() for g in o.param_groups for p in g["params"]
    }
    names = {n for n, p in task.first_stage.named_parameters() if id(p) not in held}
    books = {"quantize.embedding.weight", "top_quantize.embedding.weight"}
    assert names == (books if loss == AVERAGED else set())
    task.loss("autoencoder", task.batch(0, small_optim(batch_size=8), rng()), 0, rng(1)).total.backward()
    assert [n for n, p in task.first_stage.named_parameters() if n not in names and (p.grad is None or not p.grad.any())] == []


def test_two_levels_move_in_training_and_resume(tmp_path: Path) -> None:
    """Averages of both levels included, bit for bit."""
    before = two_level_task().first_stage.state_dict()
    run(trainer(two_level_task(**AVERAGED), tmp_path / "half", small_optim(steps=4, decay="constant")))
    first = trainer(two_level_task(**AVERAGED), tmp_path / "constant", small_optim(decay="constant"))
    again = trainer(two_level_task(**AVERAGED), tmp_path / "half", small_optim(decay="constant"))
    assert again.resume() == 4
    assert differences(run(first).state.tensors(), run(again).state.tensors()) == []
    assert {"codebook_average_top", "codebook_average_bottom"} <= set(first.task.modules())
    after = first.task.modules()["first_stage"].state_dict()
    for name in ("quantize.embedding.weight", "top_quantize.embedding.weight"):
        assert not torch.equal(after[name], before[name])


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InputError, match="codebook_revive without"):
        FirstStageLossConfig(codebook_revive=0.1)
    with pytest.raises(InputError, match="codebook_decay is 1"):
        FirstStageLossConfig(codebook_decay=1)
    config = RECIPES["vq-tiny"]()
    check(config)
    finite = dataclasses.replace(config.first_stage.model, codebook_size=81, levels=(3, 3, 3, 3))
    kl = RECIPES["tiny"]().first_stage.model
    for model in (finite, kl):
        first = dataclasses.replace(config.first_stage, model=model)
        with pytest.raises(InputError, match="has no codebook"):
            check(dataclasses.replace(config, first_stage=first))


def test_keys_of_older_runs_are_kept() -> None:
    """The hexadecimal numbers are what the code before these fields gave."""
    assert key(VQConfig()) == "942eea4efe65c41f"
    assert key(VQConfig(quantizer=PackagedConfig())) != "942eea4efe65c41f"
    assert key(FirstStageLossConfig()) == OLD_KEY
    assert {n: getattr(FirstStageLossConfig(), n) for n in ADDED["loss"]} == ADDED["loss"]
    assert key(FirstStageLossConfig(codebook_decay=0.5)) != OLD_KEY


OLD_KEY = "bed157be00f14e45"


@pytest.fixture(scope="module")
def vq_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "vq"
    assert go(small_vq(), data, out) == out / "model"
    return out


def small_vq(*changes: str) -> Any:
    return read_config("vq-tiny", [*SMALL, *changes])


def test_a_run_reports_how_codes_are_used(vq_run: Path) -> None:
    rows = [json.loads(line) for line in (vq_run / "first_stage" / "log.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "perplexity" in row]
    assert len(steps) == 5
    for row in steps:
        assert 1 <= row["perplexity"] <= 64
        assert row["perplexity"] <= 64 * row["codes/used"] + 1e-3  # entropy is at most that of even use
        assert "commitment" in row
        assert "kl" not in row


def test_a_run_gives_a_model_with_unit_scale_and_is_not_made_again(vq_run: Path, data: Path) -> None:
    loaded = load_pretrained(vq_run / "model")
    stage = loaded.model.first_stage
    assert isinstance(stage, VQFirstStage)
    assert loaded.config.first_stage.codebook_size == 64
    assert (stage.scale != 1).all()
    assert "codebook_average" not in " ".join(loaded.model.state_dict())
    before = times(vq_run, "first_stage", "model")
    go(small_vq(), data, vq_run)
    assert times(vq_run, "first_stage", "model") == before


def test_another_run_takes_its_first_stage(vq_run: Path, data: Path, tmp_path: Path) -> None:
    out = go(small_vq(f"first_stage.frozen={vq_run}"), data, tmp_path / "other")
    ours, theirs = (load_pretrained(p).model.first_stage.state_dict() for p in (out, vq_run / "model"))
    assert differences(ours, theirs) == []


def test_a_whole_run_over_two_levels(data: Path, tmp_path: Path) -> None:
    """Diffusion sees both levels as one grid of twice the channels, each in unit scale."""
    config = small_vq()
    first = config.first_stage
    two = dataclasses.replace(first, model=VQ2Config(first.model.network, codebook_size=32, embed_channels=2))
    loaded = load_pretrained(go(dataclasses.replace(config, first_stage=two), data, tmp_path / "two"))
    stage = loaded.model.first_stage
    assert isinstance(stage, VQ2FirstStage)
    assert stage.latent.channels == loaded.model.prior.latent.channels == 4
    assert (stage.scale != 1).all()
    rows = [json.loads(line) for line in (tmp_path / "two" / "first_stage" / "log.jsonl").read_text().splitlines()]
    assert any("perplexity/top" in row and "perplexity/bottom" in row for row in rows)


PACKAGED = {
    "ema": (PackagedConfig("ema", decay=0.9, revive=0.5), 15, 2, ()),
    "cosine": (PackagedConfig("cosine", decay=0.9), 15, 2, ()),
    "simvq": (PackagedConfig("simvq"), 15, 2, ()),
    "fsq": (PackagedConfig("fsq"), 15, 2, (5, 3)),
    "lfq": (PackagedConfig("lfq"), 4, 2, ()),
    "residual": (PackagedConfig("residual", depth=2, decay=0.9), 15, 2, ()),
}


@pytest.mark.parametrize("method", PACKAGED)
def test_packaged_quantizers_train_and_resume(method: str, tmp_path: Path) -> None:
    """Bit for bit, averages included; what training moves is what the package would."""
    pytest.importorskip("vector_quantize_pytorch")
    config, size, _, levels = PACKAGED[method]

    def task() -> AutoencoderTask:
        torch.manual_seed(0)
        stage = VQFirstStage(VQConfig(NETWORK, size, levels=levels, quantizer=config))
        pixels = all_pixels()
        source = PixelSource(list(pixels), pixels, CPU, 0)  # type: ignore[arg-type]  # resident
        return AutoencoderTask(stage, FirstStageLossConfig(perceptual="none", gan_start="never"), source, CPU)

    before = task().first_stage.state_dict()
    run(trainer(task(), tmp_path / "half", small_optim(steps=4, decay="constant")))
    first = trainer(task(), tmp_path / "constant", small_optim(decay="constant"))
    again = trainer(task(), tmp_path / "half", small_optim(decay="constant"))
    assert again.resume() == 4
    assert differences(run(first).state.tensors(), run(again).state.tensors()) == []
    after = first.task.modules()["first_stage"].state_dict()
    moved = [k for k in after if k.startswith("quantize.") and not torch.equal(after[k], before[k])]
    assert bool(moved) == (method not in ("fsq", "lfq"))
    assert {"perplexity", "codes/used", "commitment"} <= set(first.reporter.rows[-1])
    assert first.task.phase(0) is None  # no CUDA graph holds the package


def test_a_whole_run_over_residual_codes(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("vector_quantize_pytorch")
    config = small_vq("first_stage.loss.codebook_decay=0", "first_stage.loss.codebook_revive=0")
    residual = PackagedConfig("residual", depth=2, decay=0.9, revive=0.1)
    first = dataclasses.replace(config.first_stage, model=dataclasses.replace(config.first_stage.model, quantizer=residual))
    loaded = load_pretrained(go(dataclasses.replace(config, first_stage=first), data, tmp_path / "residual"))
    stage = loaded.model.first_stage
    assert isinstance(stage, VQFirstStage)
    assert stage.quantize.depth == 2
    codes = stage.codes()
    x = all_pixels(2).float() / 127.5 - 1
    found = codes.encode(x)
    assert found.shape[1:] == codes.latent.shape(16, 16) == (2, 8, 8)
    torch.testing.assert_close(codes.decode(found), stage.decode(stage.posterior(x).mode()))
    averaged = dataclasses.replace(first, loss=dataclasses.replace(first.loss, codebook_decay=0.9))
    with pytest.raises(InputError, match="has no codebook"):
        check(dataclasses.replace(config, first_stage=averaged))
