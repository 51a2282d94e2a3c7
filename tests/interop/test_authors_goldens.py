"""The authors' own classes, narrowed, gave these outputs with weights seeded by name; ours give the same.

For the models that diffusers has no class for (faces, churches, super-resolution, inpainting, segmentation) and a few beside;
`make_goldens.py` made the file. Tolerance: 1e-4 of the output's standard deviation, fp32: sums in another order, about 1e-6 a
layer, through some thirty.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shrunken
import torch
from torch import Tensor, nn

from sfumato.build import build_first_stage
from sfumato.first_stages.vq import VQFirstStage
from sfumato.interop import compvis
from sfumato.interop.keys import KeyMap
from sfumato.networks.unet import UNet

FILE = Path(__file__).parent.parent / "data" / "authors_goldens.json"
OUTPUTS: dict[str, Any] = json.loads(FILE.read_text("utf-8"))["outputs"]
TOLERANCE = 1e-4


def fill(module: nn.Module, keys: KeyMap) -> nn.Module:
    """Ours with the weights that the authors' names give."""
    theirs = keys.to_theirs(dict(module.named_parameters()))
    given = keys.to_ours(shrunken.weights({name: tuple(value.shape) for name, value in theirs.items()}))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(given[name])
    return module.eval()


def assert_golden(output: Tensor, golden: dict[str, Any]) -> None:
    given = shrunken.summary(output)
    assert given["shape"] == golden["shape"]
    assert given["std"] == pytest.approx(golden["std"], rel=TOLERANCE)
    worst = max(abs(a - b) for a, b in zip(given["values"], golden["values"], strict=True))
    assert worst <= TOLERANCE * golden["std"]


@torch.no_grad()
@pytest.mark.parametrize("name", shrunken.UNETS)
def test_unet(name: str) -> None:
    config = shrunken.unet(name)
    assert_golden(fill(UNet(config), compvis.unet_keys(config))(*shrunken.inputs(config)), OUTPUTS[name]["unet"])


@torch.no_grad()
@pytest.mark.parametrize("name", shrunken.FIRST_STAGE_NAMES)
def test_first_stage(name: str) -> None:
    config = shrunken.first_stage(name)
    stage = fill(build_first_stage(config), compvis.first_stage_keys(config))
    posterior = stage.posterior(shrunken.pixels(config.network.factor))
    parts = [posterior.mean] if posterior.log_variance is None else [posterior.mean, posterior.log_variance]
    assert_golden(torch.cat(parts, 1), OUTPUTS[name]["encoder"])
    z = shrunken.latent(config.network.latent_channels)
    if isinstance(stage, VQFirstStage):  # the latent as a code, so that quantizing keeps it
        stage.quantize.embedding.weight[:4] = z[0].flatten(1).T
        torch.testing.assert_close(stage.quantize(z), z)
    assert_golden(stage.decode(z), OUTPUTS[name]["decoder"])


def test_there_is_a_golden_for_each() -> None:
    assert set(OUTPUTS) == {*shrunken.UNETS, *shrunken.FIRST_STAGE_NAMES}
