"""Inpainting without training, through the front door: which cells are known, what stays, what is refused."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato.diffusion.guide import Guide
from sfumato.errors import InputError
from sfumato.generation.known import known_part, latent_mask, pixel_mask
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.request import Draft
from sfumato.noise import PictureNoise
from sfumato.priors.diffusion import DiffusionSettings, Known, Start
from sfumato.samplers import SAMPLERS
from tiny_models import loaded, rgba_config, text_config, unconditional_config


def pipeline(config=unconditional_config) -> Pipeline:
    return Pipeline(loaded(config()), torch.device("cpu"))


def black(width: int, height: int, *boxes: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (width, height), 0)
    for box in boxes:
        mask.paste(255, box)
    return mask


def noise_picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def by_hand(mask: Tensor, factor: int, margin: int) -> Tensor:
    """A cell is made anew if any pixel of its patch, grown by `margin` patches on each side, is."""
    height, width = mask.shape[0] // factor, mask.shape[1] // factor
    found = torch.zeros(1, 1, height, width)
    for i in range(height):
        for j in range(width):
            rows = slice(max(0, (i - margin) * factor), (i + margin + 1) * factor)
            columns = slice(max(0, (j - margin) * factor), (j + margin + 1) * factor)
            found[0, 0, i, j] = float(mask[rows, columns].any())
    return found


@pytest.mark.parametrize("margin", [0, 1, 2])
@pytest.mark.parametrize("factor", [1, 2, 8])
def test_a_cell_is_known_where_its_patch_and_its_neighbours_are_kept_whole(factor, margin):
    mask = torch.zeros(6 * factor, 5 * factor)
    mask[2 * factor, 3 * factor] = 1  # a single pixel
    mask[-1, 0] = 1
    assert torch.equal(latent_mask(mask, factor, margin), by_hand(mask, factor, margin))


def test_masks_of_other_sizes_lose_no_pixel_that_is_to_go():
    mask = black(64, 32, (63, 31, 64, 32))
    assert pixel_mask(mask, (16, 16)).nonzero().tolist() == [[15, 15]]
    assert float(pixel_mask(mask, (64, 128)).sum()) == 4
    clear = Image.new("LA", (8, 8), (255, 0))  # white, but transparent: nothing is painted there
    assert float(pixel_mask(clear, (8, 8)).sum()) == 0


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_the_known_part_of_the_latent_is_the_pictures_own(name):
    ours = pipeline()
    image, mask = noise_picture(16, 16), black(16, 16, (8, 0, 16, 16))
    request = ours.request(Draft(num=2, seed=3, steps=3, sampler=name))
    known = ours.known_from(image, mask, request, margin=0)
    assert known.mask[0, 0].tolist() == [[0.0] * 4 + [1.0] * 4] * 8
    settings = replace(ours.settings(request), known=known)
    twins = ours.model.conditioner.twins(ours.model.conditioner.prepare(["", ""]), 1.0)
    steps = list(ours.model.prior.steps((2, 4, 8, 8), twins, settings, PictureNoise([3, 4])))
    for step in (steps[0], steps[-1]):
        assert torch.equal(step.z_0[..., :4], known.z_0[..., :4].expand(2, -1, -1, -1))
    z = steps[-1].z_t
    assert torch.equal(z[..., :4], known.z_0[..., :4].expand(2, -1, -1, -1))
    assert not torch.equal(z[0, :, :, 4:], z[1, :, :, 4:])
    assert len(steps) == steps[-1].total


def test_a_picture_does_not_depend_on_its_batch_and_goes_by_its_seed():
    ours = pipeline(text_config)
    mask = black(16, 16, (0, 0, 8, 8))

    def made(seed: int, num: int) -> list[bytes]:
        request = ours.request(Draft(("cat",), num=num, seed=seed, sampler="euler_a"))
        known = ours.known_from(noise_picture(16, 16), mask, request, resampling=2)
        return [one.image.tobytes() for one in ours.stream(request, known=known)]

    three = made(5, 3)
    assert made(6, 1)[0] == three[1]
    assert len(set(three)) == 3


def test_alpha_comes_along():
    ours = pipeline(rgba_config)
    image = noise_picture(16, 16).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((16, 16)))
    request = ours.request(Draft(("cat",)))
    known = ours.known_from(image, black(16, 16, (0, 0, 8, 16)), request, margin=0)
    assert known.z_0.shape == (1, 4, 8, 8)
    assert len(list(ours.stream(request, known=known))) == 1


def test_together_with_a_start_and_a_guide():
    """The three ways to hold on to a picture compose; what is known still comes back exactly."""
    ours = pipeline()
    request = ours.request(Draft(seed=1, steps=4))
    known = ours.known_from(noise_picture(16, 16), black(16, 16, (8, 0, 16, 16)), request, margin=0)
    guide = Guide(lambda z_0, t: -z_0.square().flatten(1).sum(1), 0.1)
    settings = DiffusionSettings(num_steps=4, start=Start(known.z_0, 0.5), known=known, guide=guide)
    twins = ours.model.conditioner.twins(ours.model.conditioner.prepare([""]), 1.0)
    steps = list(ours.model.prior.steps((1, 4, 8, 8), twins, settings, PictureNoise([1])))
    assert len(steps) == 2
    assert torch.equal(steps[-1].z_t[..., :4], known.z_0[..., :4])


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (black(8, 16, (0, 0, 4, 4)), "mask: got 16x8 for a picture of 16x16"),
        (black(16, 16), "hides nothing"),
        (black(16, 16, (0, 0, 16, 16)), "nothing of the picture stays"),
        (black(16, 16, (2, 2, 14, 14)), "nothing of the picture stays"),
    ],
)
def test_masks_that_cannot_be(mask, named):
    ours = pipeline()
    with pytest.raises(InputError, match=named):
        ours.known_from(noise_picture(16, 16), mask, ours.request(Draft()))


def test_a_known_latent_of_another_size_is_refused():
    ours = pipeline()
    request = ours.request(Draft(num=1))
    known = known_part(ours.model.first_stage, noise_picture(16, 16), black(16, 16, (8, 0, 16, 16)), (16, 32), margin=0)
    with pytest.raises(InputError, match="known latent of shape"):
        list(ours.stream(request, known=known))
    two = Known(known.z_0.expand(2, -1, -1, -1), known.mask)
    larger = dataclasses.replace(request, width=32)
    with pytest.raises(InputError, match="known latent of shape"):
        list(ours.stream(larger, known=two))
