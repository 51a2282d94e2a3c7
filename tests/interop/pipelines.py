"""Small pipelines of random weights, made and saved by diffusers' own classes, and what those classes compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from published import CARDS, CLIP, MASK, OPEN_CLIP, RGB, RNG, SD2, VISION, WORDS, XL, _both, shrunken
from torch import Tensor

from sfumato.conditioners.bert import BertConfig
from sfumato.conditioners.clip_text import ClipTextsConfig
from sfumato.conditioners.depth import DepthConfig, DepthMap
from sfumato.conditioners.image_embedding import EmbeddedImage
from sfumato.conditioners.low_resolution import LowResolutionConfig, NoisedImage, SmallImage
from sfumato.conditioners.masked import MaskedImage, MaskedImageConfig
from sfumato.conditioners.picture_latent import PictureLatentConfig
from sfumato.conditioners.sizes import Sizes, SizesConfig
from sfumato.diffusion.prediction import Prediction
from sfumato.interop import diffusers_config
from sfumato.interop.cards import Card
from sfumato.networks.clip import ClipTextConfig, clip_pixels

NOISE = torch.randn(3, 8, 8, generator=RNG)
PIXEL_DEPTH = torch.rand(16, 16, generator=RNG) * 9
BERT = BertConfig(dim=8, depth=2, length=77, vocabulary=len(WORDS), heads=2, head_channels=16)
TEXT = "a cat"


@dataclass(frozen=True)
class Case:
    """pipeline: diffusers' class. given: an input of the card's conditioner. towers: layers of each text encoder there."""

    pipeline: Any
    card: Card
    given: Any
    towers: tuple[tuple[ClipTextConfig, int], ...] = ()


def _score(card: Card) -> Card:
    text = ClipTextsConfig((XL,), vector=True)
    return replace(card, conditioner=_both(text, "sizes", SizesConfig(last="score", channels=8)))


_OPEN = ((OPEN_CLIP, 1),)  # of two layers, as published folders hold 23 of 24
CASES: dict[str, Case] = {
    "sd1": Case(diffusers.StableDiffusionPipeline, CARDS["sd1"][0], TEXT, ((CLIP, 2),)),
    "sd2": Case(diffusers.StableDiffusionPipeline, CARDS["sd2"][0], TEXT, _OPEN),
    "sd1 inpainting": Case(
        diffusers.StableDiffusionInpaintPipeline, CARDS["sd1 inpainting"][0], CARDS["sd1 inpainting"][1], ((CLIP, 2),)
    ),
    "sd2 inpainting": Case(
        diffusers.StableDiffusionInpaintPipeline,
        shrunken("sd2-inpainting", _both(SD2, "mask", MaskedImageConfig()), 5),
        {"text": TEXT, "mask": MaskedImage(RGB, MASK)},
        _OPEN,
    ),
    "edit": Case(
        diffusers.StableDiffusionInstructPix2PixPipeline,
        shrunken("instruct-pix2pix", _both(ClipTextsConfig((CLIP,)), "picture", PictureLatentConfig()), 4),
        {"text": TEXT, "picture": RGB},
        ((CLIP, 2),),
    ),
    "depth": Case(
        diffusers.StableDiffusionDepth2ImgPipeline,
        shrunken("sd2-depth", _both(SD2, "depth", DepthConfig()), 1),
        {"text": TEXT, "depth": DepthMap(PIXEL_DEPTH, (8, 8))},
        _OPEN,
    ),
    "upscaler": Case(
        diffusers.StableDiffusionUpscalePipeline,
        CARDS["upscaler"][0],
        {"text": TEXT, "small": NoisedImage(RGB[:, :8, :8], NOISE, 20)},
        _OPEN,
    ),
    "unclip": Case(
        diffusers.StableUnCLIPImg2ImgPipeline,
        CARDS["unclip"][0],
        {"text": TEXT, "image": EmbeddedImage(RGB, NOISE.flatten()[:6].clone(), 30)},
        _OPEN,
    ),
    "sdxl": Case(
        diffusers.StableDiffusionXLPipeline, CARDS["sdxl"][0], {"text": TEXT, "sizes": Sizes((16, 16))}, ((CLIP, 2), (XL, 2))
    ),
    "refiner": Case(
        diffusers.StableDiffusionXLImg2ImgPipeline,
        _score(shrunken("sdxl-refiner", context_dim=8, vector_dim=8 + 40)),
        {"text": TEXT, "sizes": Sizes((16, 24), (2, 3), score=6.5)},
        ((XL, 2),),
    ),
    "faces": Case(diffusers.LDMPipeline, CARDS["faces"][0], ""),
    "super-resolution": Case(
        diffusers.LDMSuperResolutionPipeline, shrunken("bsr_sr", LowResolutionConfig(), 3), SmallImage(RGB[:, :8, :8])
    ),
    "words": Case(diffusers.LDMTextToImagePipeline, shrunken("text2img-large", BERT), TEXT),
    "words over vq": Case(diffusers.LDMTextToImagePipeline, shrunken("text2img256", BERT), TEXT),
}


def randomized(module: Any) -> Any:
    torch.manual_seed(0)
    for name, value in module.named_parameters():
        value.data.copy_(torch.randn(value.shape) * (0.1 if value.ndim == 1 else value[0].numel() ** -0.5))
        if (value.ndim == 1 and name.endswith("weight")) or name == "std":
            value.data.abs_().add_(1)
    return module.eval().requires_grad_(False)


def made(case: Case, tokenizers: Mapping[str, Any]) -> Any:
    """The pipeline. tokenizers: `end`, `zero` (CLIP's by what they pad with), `bert`."""
    card, xl = case.card, "XL" in case.pipeline.__name__
    parts: dict[str, Any] = {}
    settings = diffusers_config.unet_settings(card.unet, text_time=xl) | {"sample_size": 8}
    settings |= {"addition_time_embed_dim": 8} if xl else {}
    unet = diffusers.UNet2DModel if card.unet.context_dim is None else diffusers.UNet2DConditionModel
    parts["unet"] = randomized(unet(**settings))
    stage = diffusers_config.first_stage_settings(card.first_stage)
    is_vq = "num_vq_embeddings" in stage
    kind = diffusers.VQModel if is_vq else diffusers.AutoencoderKL
    stage |= {} if is_vq else {"scaling_factor": card.scale_factor}
    parts["vqvae" if case.pipeline.__name__.startswith("LDM") else "vae"] = randomized(kind(**stage))
    schedule = card.prior.schedule
    betas = {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end, "beta_schedule": "scaled_linear"}
    said = "v_prediction" if card.prior.prediction is Prediction.v else "epsilon"
    parts["scheduler"] = diffusers.DDIMScheduler(**betas, prediction_type=said, clip_sample=False, set_alpha_to_one=False)
    alone = xl and len(case.towers) == 1
    for number, (tower, layers) in enumerate(case.towers):
        end = "_2" if number or alone else ""
        parts[f"text_encoder{end}"] = _tower(tower, layers, pooled=xl and end == "_2")
        parts[f"tokenizer{end}"] = tokenizers[tower.pad]
    if alone:
        parts |= {"text_encoder": None, "tokenizer": None, "requires_aesthetics_score": True}
    return case.pipeline(**parts, **_more(case, tokenizers))


def _more(case: Case, tokenizers: Mapping[str, Any]) -> dict[str, Any]:
    name = case.pipeline.__name__
    if "Upscale" in name:
        return {"low_res_scheduler": diffusers.DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="scaled_linear")}
    if "UnCLIP" in name:
        config = transformers.CLIPVisionConfig(
            hidden_size=VISION.dim, intermediate_size=VISION.hidden, num_hidden_layers=VISION.layers, image_size=VISION.size,
            num_attention_heads=VISION.heads, hidden_act="gelu", projection_dim=VISION.projection, patch_size=VISION.patch,
        )  # fmt: skip
        return {
            "image_encoder": randomized(transformers.CLIPVisionModelWithProjection(config)),
            "image_normalizer": randomized(StableUnCLIPImageNormalizer(VISION.projection)),
            "image_noising_scheduler": diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
            "feature_extractor": transformers.CLIPImageProcessor(),
        }
    if "Depth" in name:
        config = transformers.DPTConfig(
            hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16,
            backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        )  # fmt: skip
        estimator = transformers.DPTForDepthEstimation(config)
        return {"depth_estimator": estimator, "feature_extractor": transformers.DPTImageProcessor()}
    if "TextToImage" in name:
        config = LDMBertConfig(
            vocab_size=BERT.vocabulary, max_position_embeddings=BERT.length, encoder_layers=BERT.depth,
            encoder_ffn_dim=4 * BERT.dim, encoder_attention_heads=BERT.heads, head_dim=BERT.head_channels, d_model=BERT.dim,
        )  # fmt: skip
        return {"bert": randomized(LDMBertModel(config)), "tokenizer": tokenizers["bert"]}
    if name in ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionInstructPix2PixPipeline"):
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return {}


def _tower(config: ClipTextConfig, layers: int, pooled: bool) -> Any:
    settings = transformers.CLIPTextConfig(
        hidden_size=config.dim, intermediate_size=4 * config.dim, num_hidden_layers=layers, num_attention_heads=config.heads,
        hidden_act=config.activation, projection_dim=config.projection or config.dim,
    )  # fmt: skip
    return randomized((transformers.CLIPTextModelWithProjection if pooled else transformers.CLIPTextModel)(settings))


def modules(pipe: Any) -> dict[str, dict[str, Tensor]]:
    """The weights of a pipeline, by component."""
    found = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {name: dict(part.state_dict()) for name, part in found.items() if name != "depth_estimator"}


def text_of(case: Case, pipe: Any) -> tuple[Tensor | None, Tensor | None]:
    """(context, pooled text), as the pipeline computes them."""
    if getattr(pipe, "bert", None) is not None:
        ids = pipe.tokenizer([TEXT], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        return pipe.bert(ids)[0], None
    outputs = []
    for end in ("", "_2"):
        encoder = getattr(pipe, f"text_encoder{end}", None)
        if encoder is not None:
            tokenizer = getattr(pipe, f"tokenizer{end}")
            ids = tokenizer([TEXT], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
            outputs.append(encoder(ids, output_hidden_states=True))
    if "XL" in case.pipeline.__name__:
        return torch.cat([one.hidden_states[-2] for one in outputs], 2), outputs[-1].text_embeds
    return (outputs[0].last_hidden_state if outputs else None), None


def concat_of(case: Case, pipe: Any) -> Tensor | None:
    """What the pipeline puts beside the latents."""
    match case.pipeline.__name__:
        case "StableDiffusionInpaintPipeline":
            hidden = pipe.vae.encode(RGB[None] * (MASK < 0.5)).latent_dist.mode() * pipe.vae.config.scaling_factor
            return torch.cat([torch.nn.functional.interpolate(MASK[None, None], size=hidden.shape[2:]), hidden], 1)
        case "StableDiffusionInstructPix2PixPipeline":
            return pipe.vae.encode(RGB[None]).latent_dist.mode()
        case "StableDiffusionDepth2ImgPipeline":
            return pipe.prepare_depth_map(RGB[None], PIXEL_DEPTH[None], 1, False, torch.float32, torch.device("cpu"))
        case "StableDiffusionUpscalePipeline":
            return pipe.low_res_scheduler.add_noise(RGB[None, :, :8, :8], NOISE[None], torch.tensor([20]))
        case "LDMSuperResolutionPipeline":
            return RGB[None, :, :8, :8]
        case _:
            return None


def told(case: Case, pipe: Any, pooled: Tensor | None) -> dict[str, Any]:
    """Vectors and labels, as the pipeline gives them to its U-Net."""
    match case.pipeline.__name__:
        case "StableDiffusionUpscalePipeline":
            return {"class_labels": torch.tensor([20])}
        case "StableUnCLIPImg2ImgPipeline":
            embedding = pipe.image_encoder(clip_pixels(RGB[None], VISION.size)).image_embeds
            noise = NOISE.flatten()[None, :6]
            return {"class_labels": pipe.noise_image_embeddings(embedding, noise_level=30, noise=noise)}
        case "StableDiffusionXLPipeline":
            return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": torch.tensor([[16, 16, 0, 0, 16, 16]])}}
        case "StableDiffusionXLImg2ImgPipeline":
            times = torch.tensor([[16, 24, 2, 3, 6.5]])
            return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": times}}
        case _:
            return {}


def tokenizers_in(folder: Path) -> dict[str, Any]:
    """CLIP's tokenizers, of files that this package writes (their ids are compared elsewhere), and BERT's over a few words."""
    from sfumato.interop.export_parts import clip_tokenizer, write_part

    for pad, tower in (("end", CLIP), ("zero", OPEN_CLIP)):
        write_part(folder / pad, clip_tokenizer(tower), None)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", "utf-8")
    found = {pad: transformers.CLIPTokenizer.from_pretrained(folder / pad, local_files_only=True) for pad in ("end", "zero")}
    return found | {"bert": transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=77)}
