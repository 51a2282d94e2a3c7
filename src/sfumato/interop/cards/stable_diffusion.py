"""Stable Diffusion 1 and 2, and SDXL (arXiv 2307.01952), over the KL autoencoder of factor 8."""

from __future__ import annotations

from dataclasses import replace

from sfumato.conditioners import published
from sfumato.diffusion.prediction import Prediction
from sfumato.interop.cards.base import Card, Condition, Family, Sampling, Source, Task, prior
from sfumato.interop.cards.first_stages import KL_F4_OF_4, KL_F8
from sfumato.networks.unet import UNetConfig

_BETAS = (0.00085, 0.012)
_CLIP_L = Condition(Source.clip_text, "context", 768, 12, 77, 49408, "CLIP ViT-L/14, last layer, normed")
_OPEN_CLIP_H = Condition(Source.open_clip_text, "context", 1024, 24, 77, 49408, "OpenCLIP ViT-H/14, penultimate layer, normed")
_MASKED = Condition(Source.masked_picture, "concat", 5, detail="mask, then the latent of the masked picture")

_UNET_1 = UNetConfig(4, 4, 320, (1, 2, 4, 4), attention_factors=(4, 2, 1), head_channels=None, num_heads=8, context_dim=768)
_SD1 = Card(
    name="sd1",
    family=Family.stable_diffusion_1,
    task=Task.text,
    source="CompVis/stable-diffusion/configs/stable-diffusion/v1-inference.yaml",
    first_stage=KL_F8,
    prior=prior(_UNET_1, *_BETAS),
    image_size=(512, 512),
    scale_factor=0.18215,
    conditions=(_CLIP_L,),
    conditioner=published.SD1,
    sampling=Sampling("plms", guidance=7.5),
)
STABLE_DIFFUSION_1: tuple[Card, ...] = (
    _SD1,
    replace(
        _SD1,
        name="sd1-inpainting",
        task=Task.inpainting,
        source="runwayml/stable-diffusion/configs/stable-diffusion/v1-inpainting-inference.yaml",
        prior=prior(replace(_UNET_1, concat_channels=5), *_BETAS),
        conditions=(_CLIP_L, _MASKED),
        conditioner=published.SD1_INPAINTING,
        sampling=Sampling(guidance=7.5),
    ),
    replace(
        _SD1,
        name="instruct-pix2pix",
        task=Task.edit,
        source="timothybrooks/instruct-pix2pix/configs/generate.yaml",
        prior=prior(replace(_UNET_1, concat_channels=4), *_BETAS),
        conditions=(_CLIP_L, Condition(Source.picture, "concat", 4, detail="the mode, without the scale factor")),
        conditioner=published.INSTRUCT_PIX2PIX,
        sampling=Sampling("euler_a", 100, 7.5, spacing=None),
    ),
)

_UNET_2 = UNetConfig(
    4, 4, 320, (1, 2, 4, 4), attention_factors=(4, 2, 1), head_channels=64, context_dim=1024, linear_projection=True
)
_UNET_UPSCALER = UNetConfig(
    4,
    4,
    256,
    (1, 2, 2, 4),
    attention_factors=(2, 4, 8),
    head_channels=None,
    num_heads=8,
    context_dim=1024,
    linear_projection=True,
    concat_channels=3,
    num_classes=1000,
    disable_self_attentions=(True, True, True, False),
)


def _yaml_2(name: str) -> str:
    return f"Stability-AI/stablediffusion/configs/stable-diffusion/{name}.yaml"


_SD2 = Card(
    name="sd2-base",
    family=Family.stable_diffusion_2,
    task=Task.text,
    source=_yaml_2("v2-inference"),
    first_stage=KL_F8,
    prior=prior(_UNET_2, *_BETAS),
    image_size=(512, 512),
    scale_factor=0.18215,
    conditions=(_OPEN_CLIP_H,),
    conditioner=published.SD2,
    sampling=Sampling(guidance=9.0),
)


def _unclip(tower: str, dim: int, encoder: str) -> Card:
    embedding = Condition(Source.clip_image, "vector", 2 * dim, detail=f"{encoder} embedding of {dim}, then its noise level's")
    return replace(
        _SD2,
        name=f"sd2-unclip-{tower}",
        task=Task.variation,
        source=_yaml_2(f"v2-1-stable-unclip-{tower}-inference"),
        prior=prior(replace(_UNET_2, vector_dim=2 * dim), *_BETAS, Prediction.v),
        image_size=(768, 768),
        conditions=(_OPEN_CLIP_H, embedding),
        conditioner=published.SD2_UNCLIP_H if tower == "h" else published.SD2_UNCLIP_L,
        sampling=Sampling(steps=20, guidance=10.0),
    )


STABLE_DIFFUSION_2: tuple[Card, ...] = (
    _SD2,
    replace(
        _SD2,
        name="sd2-v",
        source=_yaml_2("v2-inference-v"),
        prior=prior(_UNET_2, *_BETAS, Prediction.v),
        image_size=(768, 768),
    ),
    replace(
        _SD2,
        name="sd2-inpainting",
        task=Task.inpainting,
        source=_yaml_2("v2-inpainting-inference"),
        prior=prior(replace(_UNET_2, concat_channels=5), *_BETAS),
        conditions=(_OPEN_CLIP_H, _MASKED),
        conditioner=published.SD2_INPAINTING,
        sampling=Sampling(steps=45, guidance=10.0),
    ),
    replace(
        _SD2,
        name="sd2-depth",
        task=Task.depth,
        source=_yaml_2("v2-midas-inference"),
        prior=prior(replace(_UNET_2, concat_channels=1), *_BETAS),
        conditions=(_OPEN_CLIP_H, Condition(Source.depth, "concat", 1, detail="in [-1, 1], of the latent's size")),
        conditioner=published.SD2_DEPTH,
    ),
    replace(
        _SD2,
        name="sd2-x4-upscaler",
        task=Task.super_resolution,
        source=_yaml_2("x4-upscaling"),
        first_stage=KL_F4_OF_4,
        prior=prior(_UNET_UPSCALER, 0.0001, 0.02, Prediction.v),
        scale_factor=0.08333,
        conditions=(
            _OPEN_CLIP_H,
            Condition(Source.low_resolution, "concat", 3, detail="noised to the noise level"),
            Condition(Source.noise_level, "vector", 0, vocabulary=1000, detail="350 at most"),
        ),
        conditioner=published.SD2_X4_UPSCALER,
        sampling=Sampling(steps=75, guidance=10.0),
    ),
    _unclip("h", 1024, "OpenCLIP ViT-H/14"),
    _unclip("l", 768, "CLIP ViT-L/14"),
)

_BIG_G = Condition(Source.open_clip_text, "context", 1280, 32, 77, 49408, "OpenCLIP ViT-bigG/14, penultimate layer, not normed")
_POOLED = Condition(Source.open_clip_text, "vector", 1280, 32, 77, 49408, "OpenCLIP ViT-bigG/14, pooled and projected")
_BASE = Card(
    name="sdxl-base",
    family=Family.sdxl,
    task=Task.text,
    source="Stability-AI/generative-models/configs/inference/sd_xl_base.yaml",
    first_stage=KL_F8,
    prior=prior(
        UNetConfig(
            4,
            4,
            320,
            (1, 2, 4),
            attention_factors=(4, 2),
            head_channels=64,
            context_dim=2048,
            transformer_depth=(1, 2, 10),
            vector_dim=2816,
            linear_projection=True,
        ),
        *_BETAS,
    ),
    image_size=(1024, 1024),
    scale_factor=0.13025,
    conditions=(
        replace(_CLIP_L, detail="CLIP ViT-L/14, penultimate layer, not normed"),
        _BIG_G,
        _POOLED,
        Condition(Source.sizes, "vector", 6 * 256, detail="original size, crop from the top left, target size"),
    ),
    conditioner=published.SDXL_BASE,
    sampling=Sampling("euler", 50, 6.0, "trailing"),
)
SDXL: tuple[Card, ...] = (
    _BASE,
    replace(
        _BASE,
        name="sdxl-refiner",
        task=Task.refine,
        source="Stability-AI/generative-models/configs/inference/sd_xl_refiner.yaml",
        prior=prior(
            UNetConfig(
                4,
                4,
                384,
                (1, 2, 4, 4),
                attention_factors=(4, 2),
                head_channels=64,
                context_dim=1280,
                transformer_depth=4,
                vector_dim=2560,
                linear_projection=True,
            ),
            *_BETAS,
        ),
        conditions=(
            _BIG_G,
            _POOLED,
            Condition(Source.sizes, "vector", 5 * 256, detail="original size, crop from the top left, aesthetic score"),
        ),
        conditioner=published.SDXL_REFINER,
    ),
)
