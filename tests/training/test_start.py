"""Training that begins from weights: the same numbers, a unit scale to be measured anew, all or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sfumato.build import build_first_stage, build_prior
from sfumato.errors import InputError
from sfumato.io.pretrained import WEIGHTS, save_pretrained
from sfumato.io.quantize import quantize
from sfumato.io.storage import Storage
from sfumato.io.weights import read_weights, save_weights
from sfumato.training.start import start_first_stage, start_part
from tiny_models import random_model, text_config, write_model

STATISTICS = ("shift", "scale", "preview")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("start") / "model", text_config())


def test_a_first_stage_begins_from_a_model_directory_with_its_scale_forgotten(directory: Path) -> None:
    first = build_first_stage(text_config().first_stage)
    first.scale.fill_(3.0)
    start_first_stage(first, str(directory))
    saved = read_weights(directory / WEIGHTS)
    for name, value in first.state_dict().items():
        if name not in STATISTICS:
            assert torch.equal(value, saved[f"first_stage.{name}"].float()), name
    assert torch.equal(first.scale, torch.ones(4))
    assert torch.equal(first.shift, torch.zeros(4))


def test_a_first_stage_begins_from_a_file(tmp_path: Path) -> None:
    wanted = random_model(text_config()).first_stage
    save_weights(tmp_path / "first_stage.safetensors", wanted.state_dict())
    first = build_first_stage(text_config().first_stage)
    start_first_stage(first, str(tmp_path / "first_stage.safetensors"))
    assert torch.equal(first.decoder.conv_out.weight, wanted.decoder.conv_out.weight)


def test_a_prior_begins_from_a_model_directory(directory: Path) -> None:
    config = text_config()
    prior = build_prior(config.prior, build_first_stage(config.first_stage))
    start_part(prior, str(directory), "prior")
    saved = read_weights(directory / WEIGHTS)
    assert all(torch.equal(v, saved[f"prior.{k}"].float()) for k, v in prior.state_dict().items())


def test_a_prior_begins_from_an_int8_model(tmp_path: Path) -> None:
    config = text_config()
    model = random_model(config)
    save_pretrained(tmp_path / "m", model, config, storage=Storage.int8)
    prior = build_prior(config.prior, build_first_stage(config.first_stage))
    start_part(prior, str(tmp_path / "m"), "prior")
    expected = {k: quantize(v).weight() if v.ndim > 1 else v.half().float() for k, v in model.prior.state_dict().items()}
    assert all(torch.equal(v, expected[k]) for k, v in prior.state_dict().items())


def test_weights_of_another_shape_are_refused_and_nothing_is_changed(directory: Path) -> None:
    config = text_config()
    prior = build_prior(config.prior, build_first_stage(config.first_stage))
    before = {k: v.clone() for k, v in prior.state_dict().items()}
    with pytest.raises(InputError, match="does not fit this model: missing"):
        start_part(prior, str(directory), "conditioner")
    assert all(torch.equal(v, before[k]) for k, v in prior.state_dict().items())


def test_no_such_place_is_one_line(tmp_path: Path) -> None:
    first = build_first_stage(text_config().first_stage)
    with pytest.raises(InputError, match="unknown model"):
        start_first_stage(first, str(tmp_path / "none"))
