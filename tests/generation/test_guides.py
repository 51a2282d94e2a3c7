"""Guidance by a small picture or any score, through the front door."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from oracles import GaussianData
from sfumato.diffusion.denoiser import Denoised
from sfumato.errors import InputError
from sfumato.generation.guides import small_picture
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.request import Draft
from tiny_models import loaded, rgba_config, text_config, unconditional_config


def pipeline(config=unconditional_config) -> Pipeline:
    return Pipeline(loaded(config()), torch.device("cpu"))


def shrunk(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)).astype(float)


def knowing(ours: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the model the best denoiser of standard normal latents, whatever the condition; the decoder is its own."""
    denoiser = ours.model.prior.denoiser
    denoise = GaussianData(0.0, 1.0).denoiser(denoiser.schedule)
    monkeypatch.setattr(denoiser, "forward", lambda x_t, t, cond: Denoised(denoise(x_t, t)))


@pytest.mark.parametrize("config", [unconditional_config, text_config, rgba_config])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_a"])
def test_the_result_comes_nearer_to_the_small_picture(config, sampler, monkeypatch):
    """To what another latent decodes to, shrunk: its distance falls by more than 40 %."""
    ours = pipeline(config)
    knowing(ours, monkeypatch)
    prompts = ("cat",) if ours.needs_prompt else ()
    small = ours.generate(prompts, seed=50)[0].resize((4, 4), Image.Resampling.BICUBIC)
    distances = []
    for scale in (0.0, 1.0):
        made = ours.generate(prompts, num=3, seed=1, steps=10, sampler=sampler, guide=small, guide_scale=scale)
        distances.append(np.mean([np.abs(shrunk(one, (4, 4)) - shrunk(small, (4, 4))).mean() for one in made]))
    assert distances[1] < 0.6 * distances[0]


def test_scale_zero_is_bit_for_bit_without_guide():
    ours = pipeline(text_config)
    small = Image.new("RGB", (4, 4), "red")
    plain = ours.generate("cat", num=2, seed=1)
    assert [i.tobytes() for i in plain] == [i.tobytes() for i in ours.generate("cat", 2, 1, guide=small, guide_scale=0)]
    assert [i.tobytes() for i in plain] != [i.tobytes() for i in ours.generate("cat", 2, 1, guide=small, guide_scale=0.05)]


def test_any_score_guides():
    """-|| z - 2 ||^2 pulls latents up."""
    ours = pipeline(text_config)
    seen = []

    def score(z_0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append((z_0.shape, t.shape))
        return -(z_0 - 2).square().flatten(1).sum(1)

    latents: list[torch.Tensor] = []
    for scale in (0.0, 0.1):
        ours.generate("cat", seed=1, steps=5, guide=score, guide_scale=scale, on_step=lambda p: latents.append(p.z_0))
    means = [float(latents[i].mean()) for i in (4, 9)]
    assert seen == [(torch.Size([1, 4, 8, 8]), torch.Size([1]))] * 5
    assert means[1] > means[0] + 0.1


def test_the_small_picture_has_at_most_the_size_of_the_result():
    ours = pipeline()
    schedule, stage = ours.model.prior.denoiser.schedule, ours.model.first_stage
    assert small_picture(Image.new("RGB", (5, 9)), stage, schedule, (16, 16)).small.shape == (3, 9, 5)
    assert small_picture(Image.new("RGB", (500, 9)), stage, schedule, (16, 16)).small.shape == (3, 9, 16)
    with pytest.raises(InputError, match="4 or more"):
        small_picture(Image.new("RGB", (3, 9)), stage, schedule, (16, 16))


def test_alpha_guides_where_the_small_picture_has_it():
    ours = pipeline(rgba_config)
    schedule, stage = ours.model.prior.denoiser.schedule, ours.model.first_stage
    assert len(small_picture(Image.new("RGBA", (8, 8)), stage, schedule, (16, 16)).small) == 4
    assert len(small_picture(Image.new("RGB", (8, 8)), stage, schedule, (16, 16)).small) == 3


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_scales_that_mean_nothing(scale):
    ours = pipeline()
    with pytest.raises(InputError, match="scale"):
        ours.guide_from(Image.new("RGB", (8, 8)), ours.request(Draft()), scale)
