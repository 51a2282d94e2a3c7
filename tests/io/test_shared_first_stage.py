"""Two models over one first stage, of which one holds it: the other reads it from there, or says why it cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import tiny_models
from sfumato.errors import InputError
from sfumato.io import pretrained
from sfumato.io.files import directory_size
from sfumato.io.pretrained import convert_pretrained, load_pretrained, save_pretrained, share_first_stage
from sfumato.io.storage import Storage
from sfumato.io.weights import read_weights
from sfumato.training.start import frozen_first_stage

CONFIG = tiny_models.text_config()


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of shipped models with one, `owner`; beside it stands `other`, over the same first stage."""
    assets = tmp_path / "assets"
    owner, other = tiny_models.random_model(CONFIG), tiny_models.random_model(CONFIG)
    with torch.no_grad():
        for parameter in other.prior.parameters():
            parameter.add_(0.1)
    save_pretrained(assets / "owner", owner, CONFIG, name="owner", storage=Storage.int8)
    other.first_stage.load_state_dict(load_pretrained(assets / "owner").model.first_stage.state_dict())
    save_pretrained(tmp_path / "other", other, CONFIG, name="other", storage=Storage.int8, card="# Other\n")
    monkeypatch.setattr(pretrained, "ASSETS", assets)
    return tmp_path


def test_the_model_is_the_same_and_smaller(shipped: Path) -> None:
    whole = load_pretrained(shipped / "other")
    share_first_stage(shipped / "other", "owner", shipped / "light")
    light = load_pretrained(shipped / "light")
    assert not any(name.startswith("first_stage.") for name in read_weights(shipped / "light" / "model.safetensors"))
    assert directory_size(shipped / "light") < directory_size(shipped / "other")
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(light.model.state_dict()[name], value, rtol=1e-6, atol=0)
    assert (shipped / "light" / "README.md").read_text() == "# Other\n"
    assert torch.equal(
        frozen_first_stage(str(shipped / "light")).statistics["shift"],
        frozen_first_stage(str(shipped / "other")).statistics["shift"],
    )


def test_written_again_it_holds_its_first_stage(shipped: Path) -> None:
    share_first_stage(shipped / "other", "owner", shipped / "light")
    convert_pretrained(shipped / "light", shipped / "whole", Storage.fp16)
    assert "shares" not in json.loads((shipped / "whole" / "config.json").read_text())
    shutil.rmtree(shipped / "assets" / "owner")
    load_pretrained(shipped / "whole")
    with pytest.raises(InputError, match="shares the first stage of 'owner', which this release does not ship"):
        load_pretrained(shipped / "light")


def test_another_owner_is_refused(shipped: Path) -> None:
    share_first_stage(shipped / "other", "owner", shipped / "light")
    shutil.rmtree(shipped / "assets" / "owner")
    save_pretrained(shipped / "assets" / "owner", tiny_models.random_model(CONFIG), CONFIG, storage=Storage.fp32)
    with pytest.raises(InputError, match="take the release that the model was made with"):
        load_pretrained(shipped / "light")


def test_another_first_stage_cannot_be_shared(shipped: Path) -> None:
    model = load_pretrained(shipped / "other").model
    with torch.no_grad():
        next(model.first_stage.parameters()).mul_(1.01)
    save_pretrained(shipped / "third", model, CONFIG, storage=Storage.int8)
    with pytest.raises(InputError, match="has another first stage than owner"):
        share_first_stage(shipped / "third", "owner", shipped / "light")
    assert not (shipped / "light").exists()
    with pytest.raises(InputError, match="unknown shipped model 'nobody'"):
        share_first_stage(shipped / "third", "nobody", shipped / "light")
