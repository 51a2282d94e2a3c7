"""Tensors that fine-tuners add to say what a file is: v_pred and ztsnr are acted on, others are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from published import CARDS, config_of, made, shapes_of, state_of, write, write_hollow

from sfumato.cli.main import main
from sfumato.diffusion.prediction import Prediction
from sfumato.errors import InputError
from sfumato.generation.pipeline import Pipeline
from sfumato.interop import choose
from sfumato.interop.cards import find_card
from sfumato.interop.convert import open_source, write_single_file
from sfumato.interop.inspection import inspect
from sfumato.interop.load import load_published
from sfumato.io.pretrained import LoadedModel, SamplingDefaults

CARD = CARDS["sd1"][0]


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choose, "find_card", lambda name: CARD)


def marked(path: Path, *markers: str, empty: bool = True) -> Path:
    """Shrunken Stable Diffusion 1 with markers; most are written as empty tensors."""
    extra = {name: torch.zeros(0) if empty else torch.tensor(1.0) for name in markers}
    return write(state_of(made(CARD), CARD) | extra, path)


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize(
    ("markers", "prediction", "zero"),
    [
        ((), Prediction.eps, False),
        (("v_pred",), Prediction.v, False),
        (("v_pred", "ztsnr"), Prediction.v, True),
        (("ztsnr",), Prediction.v, True),
    ],
)
def test_markers_set_prediction_and_schedule(ending, empty, markers, prediction, zero, tmp_path):
    loaded = load_published(marked(tmp_path / f"a.{ending}", *markers, empty=empty), card="small")
    prior = loaded.config.prior
    assert (prior.prediction, prior.schedule.zero_terminal_snr) == (prediction, zero)
    assert loaded.model.prior.denoiser.prediction is prediction
    alpha, _ = loaded.model.prior.denoiser.schedule(torch.ones(1, dtype=torch.float64))
    assert (float(alpha) == 0) == zero  # the last step is pure noise, or almost: sqrt(0.0047)
    if not zero:
        assert float(alpha) == pytest.approx(0.0047**0.5, rel=0.01)
    assert loaded.defaults.spacing == ("trailing" if zero else CARD.sampling.spacing)
    expected = made(CARD).state_dict()
    weight = "prior.denoiser.network.out_conv.weight"
    assert torch.equal(loaded.model.state_dict()[weight], expected[weight])


def test_the_picture_is_that_of_the_model_with_these_settings(tmp_path):
    loaded = load_published(marked(tmp_path / "a.safetensors", "v_pred", "ztsnr"), card="small")
    model = made(loaded_card := choose._with(CARD, choose.Facts(prediction=Prediction.v, zero_snr=True)))
    twin = LoadedModel(model, config_of(loaded_card), SamplingDefaults(), "twin", "0" * 10, tmp_path)
    plain = load_published(marked(tmp_path / "b.safetensors"), card="small")

    def drawn(one: LoadedModel) -> np.ndarray:
        pipeline = Pipeline(one, torch.device("cpu"))
        pipeline.loaded = loaded  # the same sampler and steps
        return np.asarray(pipeline.generate("a cat", seed=3, steps=4, guidance=1.0)[0]).astype(int)

    assert np.abs(drawn(loaded) - drawn(twin)).max() <= 1  # the scale factor was rounded to fp32 and inverted
    assert np.abs(drawn(loaded) - drawn(plain)).mean() > 2


@pytest.mark.parametrize("name", ["edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_mean", "edm_std"])
def test_other_formulas_are_refused_by_name(name, tmp_path):
    path = marked(tmp_path / "a.safetensors", name, "v_pred", empty=False)
    with pytest.raises(InputError, match=rf"the marker {name} \(.*EDM.*has no form here") as caught:
        load_published(path, card="small")
    assert "\n" not in str(caught.value)
    said = [o for o in inspect(path).oddities if "EDM" in o]
    assert len(said) == 1
    assert not any("no known part" in o for o in inspect(path).oddities)


@pytest.mark.parametrize(
    ("name", "markers", "cards", "prediction"),
    [
        ("sdxl-base", ("v_pred", "ztsnr"), ("sdxl-base",), "v"),
        ("sd1", ("v_pred",), ("sd1",), "v"),
        ("sd2-base", ("v_pred",), ("sd2-v",), "v"),
        ("sd2-base", ("v_pred", "ztsnr"), ("sd2-v",), "v"),
    ],
)
def test_inspect_reports_them(name, markers, cards, prediction, tmp_path, capsys):
    shapes = shapes_of(find_card(name)) | dict.fromkeys(markers, (0,))
    path = write_hollow(shapes, tmp_path / "mine.safetensors")
    found = inspect(path)
    assert found.markers == markers
    assert set(cards) <= set(found.cards)
    assert found.prediction == prediction
    assert found.schedule is not None
    assert ("zero terminal SNR" in found.schedule) == ("ztsnr" in markers)
    assert [o for o in found.oddities if "scale_factor" not in o] == []
    assert main(["inspect", str(path)]) == 0
    assert f"markers      {', '.join(markers)}\n" in capsys.readouterr().out


def test_a_model_with_zero_terminal_snr_leaves_as_one(tmp_path):
    source = open_source(marked(tmp_path / "a.safetensors", "v_pred", "ztsnr"), True, card="small")
    write_single_file(source, tmp_path / "b.safetensors")
    again = load_published(tmp_path / "b.safetensors", card="small")
    assert again.config == source.config
    assert inspect(tmp_path / "b.safetensors").markers == ("v_pred", "ztsnr")
    plain = open_source(marked(tmp_path / "c.safetensors"), True, card="small")
    write_single_file(plain, tmp_path / "d.safetensors")
    assert inspect(tmp_path / "d.safetensors").markers == ()
