"""The loss of held-out pictures: what it is, when it is measured, whose weights are kept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import go

from sfumato.conditioners.none import NoneConfig, Unconditional
from sfumato.config import from_dict, override, to_dict
from sfumato.errors import InputError
from sfumato.first_stages.identity import IdentityConfig, IdentityFirstStage
from sfumato.io.weights import read_weights
from sfumato.latent import Codes
from sfumato.model import LatentModel
from sfumato.networks.pixelcnn import PixelCNN, PixelCNNConfig
from sfumato.priors.autoregressive import AutoregressiveConfig, AutoregressivePrior
from sfumato.recipes import RECIPES
from sfumato.training.config import RunConfig
from sfumato.training.held_out import NUMBERS, WEIGHTS, Found, HeldOut, chosen_and_rest
from sfumato.training.run import train
from sfumato.training.signals import Stopped
from sfumato.training.stages import key
from tiny_runs import CPU, small_optim


def config(*changes: str, steps: int = 120) -> RunConfig:
    """A VQ-VAE whose prior has more weights than its pictures have codes."""
    settings = [
        "first_stage.train.steps=200",
        f"prior.train.steps={steps}",
        "prior.train.held_out_every=10",
        "prior.train.log_every=7",
        "prior.train.checkpoint_every=50",
        "prior.train.sample_every=100000",
        "prior.train.learning_rate=0.01",
        "prior.train.ema_decay=0.5",
        "prior.train.keep=last",
        "prior.model.network.dropout=0",
    ]
    return from_dict(RunConfig, override(to_dict(RECIPES["family-vqvae-tiny"]()), [*settings, *changes]))


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that have nothing to do with one another, 40 of 80 held out: what is learned of some is no help with others."""
    root = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    rows = [{"file_name": f"{index:02}.png", "split": "validation" if index % 2 else "train"} for index in range(80)]
    (root / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for index in range(80):
        blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(4, 0).repeat(4, 1)).save(root / f"{index:02}.png")
    return root


@pytest.fixture(scope="module")
def by_heart(noise: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learns its pictures by heart and keeps the best weights."""
    out = tmp_path_factory.mktemp("runs") / "by_heart"
    go(config("prior.train.keep=best"), noise, out)
    return out


def rows(out: Path) -> list[dict[str, float]]:
    lines = (out / "prior" / "log.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "held_out" in row]


def test_it_rises_where_pictures_are_learned_by_heart(by_heart: Path) -> None:
    logged = rows(by_heart)
    assert [row["step"] for row in logged] == list(range(10, 121, 10))
    found = Found(**json.loads((by_heart / "prior" / NUMBERS).read_text()))
    losses = {row["step"]: row["held_out"] for row in logged}
    assert found.best == min(losses.values())
    assert losses[found.best_step] == found.best
    assert (found.last, found.last_step) == (losses[120], 120)
    assert found.rises
    assert logged[-1]["loss"] < found.best < found.last


def test_the_best_weights_become_the_model(by_heart: Path, noise: Path, tmp_path: Path) -> None:
    best = read_weights(by_heart / "prior" / WEIGHTS)
    model = read_weights(by_heart / "model" / "model.safetensors")
    names = [name for name in best if name.startswith("prior.")]
    assert names
    for name in names:
        assert torch.equal(model[name], best[name].to(model[name].dtype)), name
    go(config(), noise, tmp_path / "last")
    last = read_weights(tmp_path / "last" / "model" / "model.safetensors")
    assert not torch.equal(last[names[0]], model[names[0]])
    assert not (tmp_path / "last" / "prior" / WEIGHTS).exists()


def test_measuring_leaves_the_training_as_it_is(by_heart: Path, noise: Path, tmp_path: Path) -> None:
    """With and without, at other steps: the same checkpoint, bit for bit."""
    go(config("prior.train.held_out_every=1000"), noise, tmp_path / "out")
    name = Path("prior/checkpoints/step-00000120/state.safetensors")
    a, b = read_weights(by_heart / name), read_weights(tmp_path / "out" / name)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_stopped_run_keeps_the_same_weights(
    by_heart: Path, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, measured = tmp_path / "out", HeldOut.__call__

    def pull_the_plug(self: HeldOut, step: int) -> object:
        found = measured(self, step)
        if step == 70:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(HeldOut, "__call__", pull_the_plug)
    with pytest.raises((KeyboardInterrupt, Stopped)):
        go(config("prior.train.keep=best"), noise, out)
    monkeypatch.undo()
    go(config("prior.train.keep=best"), noise, out)
    a, b = (read_weights(run / "model" / "model.safetensors") for run in (by_heart, out))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert (out / "prior" / NUMBERS).read_text() == (by_heart / "prior" / NUMBERS).read_text()


def test_the_card_and_the_terminal_say_it(
    by_heart: Path, noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join((by_heart / "model" / "README.md").read_text().split())
    found = Found(**json.loads((by_heart / "prior" / NUMBERS).read_text()))
    assert f"The held-out loss {found.best:.4g} at step {found.best_step}, {found.last:.4g} at step 120" in text
    assert "the weights of the former are kept" in text
    train(config(), noise, tmp_path / "out", CPU)
    told = " ".join(capsys.readouterr().err.split())
    assert "learns its own by heart: fewer steps, more pictures or more dropout help" in told
    assert "prior.train.keep=best" in told


def test_a_run_from_before_there_was_one_is_measured_when_it_is_finished(noise: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(config(steps=20), noise, out)
    wanted = (out / "prior" / NUMBERS).read_text()
    (out / "prior" / NUMBERS).unlink()
    (out / "model" / "model.safetensors").unlink()
    go(config(steps=20), noise, out)
    assert json.loads((out / "prior" / NUMBERS).read_text())["last"] == json.loads(wanted)["last"]


def test_of_two_pictures_one_is_held_out_and_says_nothing_of_the_other(
    noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for name in ("00.png", "01.png"):
        (few / name).write_bytes((noise / name).read_bytes())
    train(config("prior.train.keep=best", "prior.train.batch_size=1", steps=60), few, tmp_path / "out", CPU)
    found = Found(**json.loads((tmp_path / "out" / "prior" / NUMBERS).read_text()))
    assert found.last_step == 60
    assert "by heart" not in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2, 3, 10, 300, 512, 5000])
def test_what_chooses_does_not_judge(count: int) -> None:
    chosen, rest = chosen_and_rest(count)
    assert len(chosen) == min(256, max(1, count // 2))
    assert sorted({*chosen, *rest}) == list(range(count))
    assert len(chosen) + len(rest) == count or count == 1
    if count == 5000:  # both are spread over all: their means are within four standard errors of the middle
        for part in (chosen, rest[:128]):
            assert abs(np.mean(part) - 2500) < 4 * 5000 / np.sqrt(12 * len(part))


def test_a_loss_that_is_no_number_is_never_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = held_out_of(model_of_codes(), 8, tmp_path, keep="best")
    losses = iter((float("nan"), 3.0, float("inf"), 2.0, 5.0))
    monkeypatch.setattr(held, "measure", lambda: next(losses))
    assert [held(step) for step in (1, 2, 3, 4, 5)] == [{}, {"held_out": 3.0}, {}, {"held_out": 2.0}, {"held_out": 5.0}]
    assert json.loads((tmp_path / NUMBERS).read_text()) == {"best": 2.0, "best_step": 4, "last": 5.0, "last_step": 5}


@pytest.mark.parametrize("ema", ["0", "0.5"])
def test_more_steps_go_on_from_the_best(noise: Path, tmp_path: Path, ema: str) -> None:
    """In two calls or in one: the same weights, with an average and without."""
    changes = (
        "prior.train.keep=best",
        f"prior.train.ema_decay={ema}",
        "first_stage.train.steps=60",
        "prior.train.decay=constant",
    )
    go(config(*changes, steps=30), noise, tmp_path / "a")
    go(config(*changes, steps=60), noise, tmp_path / "a")
    go(config(*changes, steps=60), noise, tmp_path / "b")
    a, b = (read_weights(tmp_path / name / "model" / "model.safetensors") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)
    numbers = [(tmp_path / name / "prior" / NUMBERS).read_text() for name in "ab"]
    assert numbers[0] == numbers[1]


def test_how_often_it_is_measured_is_in_no_key() -> None:
    """The hexadecimal number is what the code before it gave for the whole config."""
    assert key(RECIPES["tiny"](), "x") == "38ddcb0464f6c62a"
    assert key(config("prior.train.held_out_every=7")) == key(config("prior.train.held_out_every=8"))
    assert key(config("prior.train.keep=best")) != key(config())


def model_of_codes(dropout: float = 0.0) -> LatentModel:
    torch.manual_seed(0)
    prior = AutoregressivePrior(
        AutoregressiveConfig(PixelCNNConfig(256, 3, dim=12, depth=2, dropout=dropout)), Codes((1,), 256, 3)
    )
    return LatentModel(IdentityFirstStage(IdentityConfig()), prior, Unconditional(NoneConfig()), (4, 4))


def held_out_of(model: LatentModel, count: int, folder: Path, **changes: object) -> HeldOut:
    pixels = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8)
    return HeldOut(model, pixels, model.conditioner.prepare([None] * count), folder, small_optim(**changes))


def test_it_is_the_mean_negative_log_likelihood(tmp_path: Path) -> None:
    """By the network itself, picture by picture, in float64; dropout is off, and the modules are left as they were."""
    model = model_of_codes(dropout=0.5).train()
    pixels = torch.randint(0, 256, (70, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    prepared = model.conditioner.prepare([None] * 70)
    held = HeldOut(model, pixels, prepared, tmp_path, small_optim())
    loss = held(3)["held_out"]
    assert model.prior.training
    network = model.prior.network.eval()
    assert isinstance(network, PixelCNN)
    total = 0.0
    with torch.no_grad():
        for one in pixels.long():
            logits = network(one[None], model.conditioner(prepared[:1])).double()
            total -= float(logits.log_softmax(-1).gather(-1, one[None, ..., None]).mean())
    assert loss == pytest.approx(total / 70, rel=1e-5)


def test_dropout_of_a_pixelcnn_is_a_share_and_changes_training_alone() -> None:
    with pytest.raises(InputError, match="dropout"):
        PixelCNNConfig(16, dropout=1.0)
    wet, dry = model_of_codes(0.5), model_of_codes()
    codes, cond = torch.randint(0, 256, (2, 3, 4, 4)), wet.conditioner(wet.conditioner.prepare([None] * 2))
    assert torch.equal(wet.prior.network.eval()(codes, cond), dry.prior.network(codes, cond))
    torch.manual_seed(1)
    assert not torch.equal(wet.prior.network.train()(codes, cond), dry.prior.network(codes, cond))


def test_a_first_stage_has_no_held_out_loss_to_keep_by(noise: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a prior alone has one"):
        go(config("first_stage.train.keep=best"), noise, tmp_path / "out")


@pytest.mark.parametrize(("last", "rises"), [(2.0, False), (2.09, False), (2.11, True)])
def test_a_trifle_is_no_rise(last: float, rises: bool) -> None:
    assert Found(2.0, 5, last, 9).rises is rises
    assert dataclasses.replace(Found(-2.0, 5, -2.0, 5), last=-1.8).rises  # a log-density may be negative
