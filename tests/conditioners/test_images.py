"""Conditioners of pictures, maps, sizes and retrieved vectors, against diffusers where it has them, else against theory."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.models.embeddings import Timesteps
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import CLIPVisionConfig as TheirConfig
from transformers import CLIPVisionModelWithProjection

from sfumato.conditioners import image_embedding, keys
from sfumato.conditioners.base import Parts
from sfumato.conditioners.depth import Depth, DepthMap
from sfumato.conditioners.image_embedding import EmbeddedImage, ImageEmbedding, ImageEmbeddingConfig
from sfumato.conditioners.low_resolution import (
    LowResolution,
    NoisedImage,
    NoisedLowResolution,
    NoisedLowResolutionConfig,
    SmallImage,
)
from sfumato.conditioners.masked import MaskedImage, MaskedImageConfig, MaskedLatents
from sfumato.conditioners.neighbours import Neighbours, NeighboursConfig
from sfumato.conditioners.segmentation import SegmentationConfig, SegmentationMap
from sfumato.conditioners.sizes import SizeNumbers, Sizes, SizesConfig
from sfumato.errors import InputError
from sfumato.networks.clip import ClipVision, ClipVisionConfig, clip_pixels

RNG = torch.Generator().manual_seed(0)
TOWER = ClipVisionConfig(dim=32, layers=2, heads=4, hidden=48, projection=20, patch=14, size=28, activation="quick_gelu")


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=RNG) * 2 - 1


# ---- segmentation


def test_segmentation_is_a_linear_map_of_class_shares():
    maps = SegmentationMap(SegmentationConfig())
    assert sum(p.numel() for p in maps.parameters()) == 182 * 3
    assert list(maps.state_dict()) == ["mapper.weight"]
    given = torch.randint(0, 182, (2, 16, 24), generator=RNG)
    concat = maps(maps.prepare(list(given))).concat
    assert concat.shape == (2, 3, 4, 6)
    # two bilinear halvings average each 4 x 4 block: the share of each class in it, times the class's three numbers
    table = maps.mapper.weight[:, :, 0, 0].T  # (182, 3)
    expected = table[given].unfold(1, 4, 4).unfold(2, 4, 4).mean((-2, -1)).movedim(3, 1)
    torch.testing.assert_close(concat, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(8, 8), "of integers"),
        (torch.zeros(1, 8, 8, dtype=torch.int64), "of integers"),
        (torch.zeros(8, 6, dtype=torch.int64), "multiples of 4"),
        (torch.full((8, 8), 182), "0 to 181"),
        (torch.full((8, 8), -1), "0 to 181"),
    ],
)
def test_segmentation_refusals(given, said):
    with pytest.raises(InputError, match=said):
        SegmentationMap(SegmentationConfig()).prepare([given])


# ---- small pictures


def test_low_resolution_passes_or_resizes():
    low = LowResolution()
    image = picture(3, 8, 12)
    assert torch.equal(low(low.prepare([SmallImage(image)])).concat[0], image)
    assert torch.equal(low.prepare([SmallImage(image, (8, 12))])[0], image)
    flat = low.prepare([SmallImage(torch.full((3, 9, 9), 0.25), (6, 4))])
    torch.testing.assert_close(flat, torch.full((1, 3, 6, 4), 0.25))
    prepared = low.prepare([SmallImage(image)])
    assert low.nulled(prepared) is prepared
    with pytest.raises(InputError, match="one shape for all"):
        low.prepare([SmallImage(image), SmallImage(picture(3, 8, 8))])


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8), torch.zeros(3, 8), torch.zeros(3, 0, 8),
        torch.full((3, 4, 4), 255.0), torch.full((3, 4, 4), float("nan")), np.zeros((3, 4, 4)),
    ],
)  # fmt: skip
def test_pictures_that_are_none(image):
    with pytest.raises(InputError, match=r"expected a floating tensor \(3, height, width\) in \[-1, 1\]"):
        LowResolution().prepare([SmallImage(image)])


def test_noised_small_pictures_agree_with_diffusers():
    """The x4 upscaler's `low_res_scheduler`."""
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0001, beta_end=0.02)
    low = NoisedLowResolution(NoisedLowResolutionConfig())
    levels = [0, 20, 100, 350]
    images, noises = picture(4, 3, 6, 5), torch.randn(4, 3, 6, 5, generator=RNG)
    cond = low(low.prepare([NoisedImage(*one) for one in zip(images, noises, levels, strict=True)]))
    expected = scheduler.add_noise(images, noises, torch.tensor(levels))
    torch.testing.assert_close(cond.concat, expected, atol=1e-5, rtol=0)  # diffusers multiplies its table up in fp32
    assert cond.vector.dtype == torch.int64
    assert cond.vector.tolist() == list(levels)
    for level in (-1, 351, 2.5, True):
        with pytest.raises(InputError, match="0 to 350"):
            low.prepare([NoisedImage(images[0], noises[0], level)])
    with pytest.raises(InputError, match="the same shape"):
        low.prepare([NoisedImage(images[0], noises[0, :, 1:])])


# ---- masks


def pooled(x: torch.Tensor) -> torch.Tensor:
    """A stand-in for a first stage of factor 4 and two channels."""
    return F.avg_pool2d(x, 4)[:, :2]


def masked_example() -> tuple[MaskedImage, torch.Tensor, torch.Tensor]:
    image, mask = picture(3, 8, 12), torch.zeros(8, 12)
    mask[:4, 4:] = 1.0
    mask[4:, :4] = 0.49  # below one half: stays
    small = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    return MaskedImage(image, mask), image, small


def test_masked_latents_of_stable_diffusion():
    given, image, small = masked_example()
    cond = MaskedLatents(MaskedImageConfig(), pooled)
    concat = cond(cond.prepare([given])).concat[0]
    assert torch.equal(concat[0], small)  # the mask comes first, 0 and 1
    hidden = pooled((image * (1 - small.repeat_interleave(4, 0).repeat_interleave(4, 1)))[None])[0]
    torch.testing.assert_close(concat[1:], hidden)


def test_masked_latents_of_the_paper():
    given, image, small = masked_example()
    cond = MaskedLatents(MaskedImageConfig(convention="paper"), pooled)
    concat = cond(cond.prepare([given])).concat[0]
    assert torch.equal(concat[2], 2 * small - 1)  # the mask comes last, -1 and 1
    keep = 1 - small.repeat_interleave(4, 0).repeat_interleave(4, 1)
    black = keep * (image + 1) / 2 * 2 - 1  # in [0, 1] the hidden part is 0
    torch.testing.assert_close(concat[:2], pooled(black[None])[0])
    assert not list(cond.parameters())


@pytest.mark.parametrize(
    "mask", [torch.zeros(8, 8), torch.zeros(1, 8, 12), torch.full((8, 12), 1.5), torch.full((8, 12), -1.0)]
)
def test_mask_refusals(mask):
    with pytest.raises(InputError, match="mask"):
        MaskedLatents(MaskedImageConfig(), pooled).prepare([MaskedImage(picture(3, 8, 12), mask)])


# ---- depth


def test_depth_as_stable_diffusion_prepares_it():
    depth = Depth()
    given = torch.rand(24, 32, generator=RNG) * 50 + 3
    prepared = depth.prepare([DepthMap(given, (6, 8)), DepthMap(torch.full((5, 5), 7.0), (6, 8))])
    resized = F.interpolate(given[None, None], size=(6, 8), mode="bicubic", align_corners=False)
    low, high = resized.amin(), resized.amax()
    torch.testing.assert_close(prepared[:1], 2 * (resized - low) / (high - low) - 1)
    assert prepared[0].min() == -1
    assert prepared[0].max() == 1
    assert torch.equal(prepared[1], torch.full((1, 6, 8), -1.0))
    assert depth(prepared).concat is prepared
    for wrong in (DepthMap(torch.zeros(1, 4, 4), (2, 2)), DepthMap(torch.full((4, 4), torch.inf), (2, 2))):
        with pytest.raises(InputError, match="depth map"):
            depth.prepare([wrong])


# ---- sizes


def theirs_embedded(numbers: list[float]) -> torch.Tensor:
    return Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)(torch.tensor(numbers)).flatten()


def test_sizes_agree_with_diffusers():
    base, refiner = SizeNumbers(SizesConfig()), SizeNumbers(SizesConfig(last="score"))
    assert 1280 + base.config.dim == 2816
    assert 1280 + refiner.config.dim == 2560
    given = [Sizes((1024, 768), (0, 16), (512, 640)), Sizes((600, 400))]
    vector = base(base.prepare(given)).vector
    torch.testing.assert_close(vector[0], theirs_embedded([1024, 768, 0, 16, 512, 640]), atol=1e-5, rtol=0)
    torch.testing.assert_close(vector[1], theirs_embedded([600, 400, 0, 0, 600, 400]), atol=1e-5, rtol=0)
    scored = refiner.prepare([Sizes((1024, 768), (0, 16), score=6.0)])
    torch.testing.assert_close(refiner(scored).vector[0], theirs_embedded([1024, 768, 0, 16, 6.0]), atol=1e-5, rtol=0)
    assert refiner.nulled(scored).tolist() == [[1024, 768, 0, 16, 2.5]]
    prepared = base.prepare(given)
    assert base.nulled(prepared) is prepared
    with pytest.raises(InputError, match="pixels and a score"):
        base.prepare([Sizes((1024, -1))])


# ---- retrieved neighbours


def test_neighbours_have_length_one():
    near = Neighbours(NeighboursConfig(dim=8))
    given = torch.randn(2, 5, 8, generator=RNG) * 7
    prepared = near.prepare(list(given))
    torch.testing.assert_close(near(prepared).context, given / given.norm(dim=-1, keepdim=True))
    assert not near.nulled(prepared).any()
    assert near.nulled(prepared).shape == (2, 5, 8)
    for wrong in (torch.zeros(2, 8), torch.ones(2, 7), torch.ones(8), torch.ones(2, 8).long()):
        with pytest.raises(InputError, match="neighbours"):
            near.prepare([wrong])
    with pytest.raises(InputError, match="one shape"):
        near.prepare([given[0], given[0, :3]])


# ---- unCLIP


def fill(module: torch.nn.Module) -> torch.nn.Module:
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=RNG) * 0.3 + 0.3 * (p.ndim == 1)
    return module.eval()


@pytest.mark.parametrize(
    ("tower", "count", "vector"),  # counts of OpenCLIP's table of models; widths of the two yaml files
    [(image_embedding.VIT_H, 632.08, 2048), (image_embedding.VIT_L, 303.97, 1536)],
)
def test_counts_of_the_published_vision_towers(tower, count, vector):
    with torch.device("meta"):
        module = ClipVision(tower)
    assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(count, abs=0.0051)
    assert ImageEmbeddingConfig(tower).dim == vector


@torch.no_grad()
def test_vision_tower_agrees_with_transformers():
    published = TheirConfig(
        hidden_size=32, intermediate_size=48, projection_dim=20, num_hidden_layers=2, num_attention_heads=4, image_size=28,
        patch_size=14, attn_implementation="eager",
    )  # fmt: skip
    model, tower = fill(CLIPVisionModelWithProjection(published)), ClipVision(TOWER)
    tower.load_state_dict(keys.from_transformers(model.state_dict()))
    back = keys.to_transformers(tower.state_dict(), vision=True)
    assert {"visual_projection.weight", "vision_model.pre_layrnorm.weight"} < set(back)
    x = torch.randn(3, 3, 28, 28, generator=RNG)
    torch.testing.assert_close(tower(x), model(pixel_values=x).image_embeds, atol=1e-5, rtol=1e-5)


def test_vision_names_of_openclip_map_both_ways():
    tower = fill(ClipVision(TOWER))
    there = keys.to_openclip(tower.state_dict(), vision=True)
    assert there["proj"].shape == (32, 20)
    assert there["transformer.resblocks.1.attn.in_proj_weight"].shape == (96, 32)
    assert {"class_embedding", "positional_embedding", "conv1.weight", "ln_pre.bias", "ln_post.weight"} < set(there)
    assert len(there) == 8 + 12 * 2
    here = keys.from_openclip(there, vision=True)
    assert here.keys() == tower.state_dict().keys()
    assert all(torch.equal(here[name], value) for name, value in tower.state_dict().items())


@torch.no_grad()
def test_noised_embeddings_agree_with_diffusers():
    """Stable unCLIP's normalizer, noising scheduler and level embedding."""
    cond = ImageEmbedding(ImageEmbeddingConfig(TOWER)).eval()
    fill(cond.tower)
    normalizer = StableUnCLIPImageNormalizer(20)
    cond.mean.copy_(torch.randn(20, generator=RNG))
    cond.std.copy_(torch.rand(20, generator=RNG) + 0.5)
    normalizer.mean.data[0], normalizer.std.data[0] = cond.mean, cond.std
    levels, images = [0, 100, 999], picture(3, 3, 28, 28)
    noise = torch.randn(3, 20, generator=RNG)
    prepared = cond.prepare([EmbeddedImage(*one) for one in zip(images, noise, levels, strict=True)])
    vector = cond(prepared).vector
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    embeds = normalizer.scale(cond.tower(clip_pixels(images, 28)))
    noised = normalizer.unscale(scheduler.add_noise(embeds, noise, torch.tensor(levels)))
    level = Timesteps(20, flip_sin_to_cos=True, downscale_freq_shift=0)(torch.tensor(levels))
    torch.testing.assert_close(vector, torch.cat([noised, level], 1), atol=1e-5, rtol=1e-5)
    (given, _), (null, _) = cond.twins(prepared, 3.0)
    assert torch.equal(given.vector, vector)
    assert not null.vector.any()
    assert null.vector.shape == vector.shape


def test_clip_pixels():
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    grey = clip_pixels(torch.zeros(1, 3, 90, 41), 28)  # also where it shrinks: a blur keeps a constant
    torch.testing.assert_close(grey, ((0.5 - mean) / std)[None, :, None, None].expand(1, 3, 28, 28), atol=1e-5, rtol=0)
    x = picture(1, 3, 28, 28)
    torch.testing.assert_close(clip_pixels(x, 28), ((x + 1) / 2 - mean[:, None, None]) / std[:, None, None])
    ramp = torch.linspace(-1, 1, 85).expand(1, 3, 85, 85)  # a blur and a resizing keep a ramp, away from the border
    shrunk = clip_pixels(ramp, 29)[0, :, 14] * std[:, None] + mean[:, None]
    torch.testing.assert_close(shrunk[:, 3:-3], torch.linspace(0, 1, 29)[3:-3].expand(3, -1), atol=1e-4, rtol=0)
    fine = torch.zeros(1, 3, 84, 84)
    fine[:, :, ::2] = 1.0  # stripes finer than the result's pixels: without the blur they would alias
    fine[:, :, 1::2] = -1.0
    assert (clip_pixels(fine, 28)[0].mean((1, 2)) * std + mean - 0.5).abs().max() < 0.02
    assert clip_pixels(fine, 28)[0, :, 2:-2].std() < 0.35  # of stripes at full contrast it would be about 3.7


def test_embedding_refusals():
    cond = ImageEmbedding(ImageEmbeddingConfig(TOWER))
    good = EmbeddedImage(picture(3, 30, 20), torch.zeros(20))
    for wrong in (dataclasses.replace(good, noise=torch.zeros(21)), dataclasses.replace(good, level=1000)):
        with pytest.raises(InputError, match="expected"):
            cond.prepare([wrong])
    other = dataclasses.replace(good, image=picture(3, 9, 50))
    assert isinstance(cond.prepare([good, other]), Parts)  # pictures of different sizes
