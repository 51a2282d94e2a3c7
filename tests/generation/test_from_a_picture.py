"""Beginning from a picture: the noised latent, the share of the steps, and what comes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import sfumato
from sfumato.diffusion.grids import Spacing, times
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.pixels import from_picture, to_pictures
from sfumato.noise import PictureNoise
from sfumato.priors.diffusion import DiffusionSettings, Start
from sfumato.samplers import SAMPLERS
from tiny_models import random_model, unconditional_config


@pytest.mark.parametrize(("strength", "walked"), [(1.0, 10), (0.75, 8), (0.5, 5), (0.04, 1)])
def test_the_share_of_the_plan(strength: float, walked: int) -> None:
    plan = times(Spacing.trailing, make_schedule(ScheduleConfig(name=ScheduleName.rectified)), 10)
    found = Start(torch.zeros(1, 1, 2, 2), strength).plan(plan)
    assert torch.equal(found, plan[10 - walked :])
    assert len(found) == walked + 1


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, float("nan")])
def test_strengths_that_mean_nothing(strength: float) -> None:
    with pytest.raises(InputError, match="strength"):
        Start(torch.zeros(1), strength)


def test_begins_at_the_noised_latent(monkeypatch: pytest.MonkeyPatch) -> None:
    """x_t = alpha_t z_0 + sigma_t eps at the plan's first time, with each picture's own noise."""
    model = random_model(unconditional_config())
    prior = model.prior
    z_0 = torch.randn(1, *model.latent_shape(*model.image_size), generator=torch.Generator().manual_seed(2))
    asked: list[tuple[Tensor, Tensor]] = []

    def answer(x_t: Tensor, t: Tensor, cond: object) -> _Clean:
        asked.append((x_t.clone(), t.clone()))
        return _Clean(x_t)

    monkeypatch.setattr(prior.denoiser, "forward", answer)
    settings = DiffusionSettings(SAMPLERS["ddim"], 4, Spacing.trailing, start=Start(z_0, 0.5))
    twins = model.conditioner.twins(model.conditioner.prepare(["a", "b"]), 1.0)
    steps = list(prior.steps((2, *z_0.shape[1:]), twins, settings, PictureNoise([3, 4])))
    eps = PictureNoise([3, 4])(torch.empty(2, *z_0.shape[1:]))
    alpha, sigma = prior.denoiser.schedule(torch.tensor([0.5], dtype=torch.float64))
    assert sigma**2 + alpha**2 == pytest.approx(1)
    torch.testing.assert_close(asked[0][0], (alpha * z_0 + sigma * eps).float())
    assert len(steps) == len(asked) == 2
    assert steps[-1].total == 2


class _Clean:
    """A denoiser's answer: the estimate is zero."""

    def __init__(self, x_t: Tensor):
        self.x_0, self.share = torch.zeros_like(x_t), None


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_pictures_go_in_and_out_unchanged(mode: str) -> None:
    rng = np.random.default_rng(0)
    shape = (9, 7) if mode == "L" else (9, 7, len(mode))
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    if mode == "RGBA":
        pixels[..., 3] = np.where(pixels[..., 3] > 127, 255, 0)  # colours of clear pixels are not kept
        pixels[pixels[..., 3] == 0] = 0
    image = Image.fromarray(pixels)
    x = from_picture(image, len(mode), (9, 7))
    assert x.shape == (1, len(mode), 9, 7)
    back = to_pictures(x, "transparent" if mode == "RGBA" else "white")[0]
    assert back.mode == mode
    shown = np.asarray(back).copy()
    if mode == "RGBA":
        shown[shown[..., 3] == 0] = 0
    assert np.abs(shown.astype(int) - pixels).max() <= 1


def test_a_transparent_picture_lies_on_white_for_three_channels() -> None:
    x = from_picture(Image.new("RGBA", (4, 4)), 3, (8, 8))
    assert torch.equal(x, torch.ones(1, 3, 8, 8))
    with pytest.raises(InputError, match="2 channels"):
        from_picture(Image.new("RGB", (4, 4)), 2, (4, 4))


def test_the_shipped_model_keeps_more_of_the_picture_at_less_strength() -> None:
    pipeline: Pipeline = sfumato.load("emoji", "cpu")
    heart = pipeline.generate("a red heart, flat style", seed=1, steps=4)[0]
    distances = []
    for strength in (0.25, 1.0):
        made = pipeline.generate("a blue book, flat style", seed=1, steps=4, image=heart, strength=strength)[0]
        distances.append(float(np.abs(np.asarray(made).astype(float) - np.asarray(heart).astype(float)).mean()))
    assert distances[0] < 12
    assert distances[0] < 0.5 * distances[1]
    with pytest.raises(InputError, match="strength"):
        pipeline.generate("a blue book", image=heart, strength=0)
