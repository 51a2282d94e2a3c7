"""Which pipeline of diffusers makes pictures from the same inputs as one of our models.

nothing                                 LDMPipeline
a small picture                         LDMSuperResolutionPipeline
text through BERT                       LDMTextToImagePipeline
text through one CLIP tower             StableDiffusionPipeline
  and a mask with the masked picture    StableDiffusionInpaintPipeline
  and the latents of a picture          StableDiffusionInstructPix2PixPipeline
  and a depth map                       StableDiffusionDepth2ImgPipeline
  and a small picture with noise        StableDiffusionUpscalePipeline
  and the embedding of a picture        StableUnCLIPImg2ImgPipeline
text through two towers, and sizes      StableDiffusionXLPipeline
text through the last of them,
  sizes and a score (the refiner)       StableDiffusionXLImg2ImgPipeline
"""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.build import ConditionerConfig
from sfumato.conditioners.bert import BertConfig
from sfumato.conditioners.clip_text import ClipTextsConfig
from sfumato.conditioners.compose import CompositeConfig, PartConfig
from sfumato.conditioners.depth import DepthConfig
from sfumato.conditioners.image_embedding import ImageEmbeddingConfig
from sfumato.conditioners.low_resolution import LowResolutionConfig, NoisedLowResolutionConfig
from sfumato.conditioners.masked import MaskedImageConfig
from sfumato.conditioners.none import NoneConfig
from sfumato.conditioners.picture_latent import PictureLatentConfig
from sfumato.conditioners.sizes import SizesConfig
from sfumato.errors import InputError
from sfumato.interop.export import parts_of

BASE, INPAINT, EDIT, XL, REFINER, DEPTH, UPSCALE = (
    f"StableDiffusion{x}Pipeline" for x in ("", "Inpaint", "InstructPix2Pix", "XL", "XLImg2Img", "Depth2Img", "Upscale")
)
UNCLIP = "StableUnCLIPImg2ImgPipeline"
PLAIN, BERT, SMALL = "LDMPipeline", "LDMTextToImagePipeline", "LDMSuperResolutionPipeline"
LATENT_DIFFUSION = (PLAIN, BERT, SMALL)
"""Those whose first stage may be VQ and is called vqvae."""
_WITHOUT = {
    "text": "diffusers has no class for this text encoder, which was trained with the denoiser",
    "class": "no pipeline there takes a class beside a U-Net",
    "class_embedder": "no pipeline there takes a class beside a U-Net",
    "layout": "no pipeline there takes boxes in this form",
    "segmentation": "no pipeline there takes a segmentation map",
    "neighbours": "no pipeline there takes retrieved pictures",
}


@dataclass(frozen=True)
class Form:
    """A pipeline's class, the text that it reads, and what it takes beside that."""

    pipeline: str
    text: ClipTextsConfig | BertConfig | None = None
    other: PartConfig | None = None


def form_of(config: ConditionerConfig) -> Form:
    """The pipeline of a conditioner. Raises `InputError` saying why none takes the same inputs."""
    parts = list(parts_of(config))
    if len(parts) == 1:
        match parts[0]:
            case NoneConfig():
                return Form(PLAIN)
            case BertConfig() as bert:
                return Form(BERT, bert)
            case LowResolutionConfig() as small:
                return Form(SMALL, None, small)
    text = next((part for part in parts if isinstance(part, ClipTextsConfig)), None)
    others = [part for part in parts if part is not text]
    if text is not None and text.context == "tokens" and len(others) <= 1:
        other = others[0] if others else None
        pipeline = _xl(text, other) if text.vector else _one_tower(text, other)
        if pipeline is not None:
            assert not isinstance(other, NoneConfig | CompositeConfig)
            return Form(pipeline, text, other)
    kinds = " and ".join(part.kind for part in parts)
    why = next((_WITHOUT[part.kind] for part in parts if part.kind in _WITHOUT), "no pipeline there combines them so")
    kept = "native form" if {part.kind for part in parts} & {"text", "class"} else "native or the single-file form"
    raise InputError(f"a conditioner of the kind {kinds} has no diffusers form here: {why}; keep the {kept}.")


def _xl(text: ClipTextsConfig, other: ConditionerConfig | None) -> str | None:
    if not isinstance(other, SizesConfig) or {(t.skip, t.final_norm) for t in text.towers} != {(1, False)}:
        return None
    if other.last == "target" and len(text.towers) == 2:
        return XL
    return REFINER if other.last == "score" and len(text.towers) == 1 and text.null == "empty" else None


def _one_tower(text: ClipTextsConfig, other: ConditionerConfig | None) -> str | None:
    if len(text.towers) != 1 or not text.towers[0].final_norm or text.null != "empty":
        return None
    match other:
        case None:
            return BASE
        case MaskedImageConfig():
            return INPAINT if other == MaskedImageConfig() else None
        case PictureLatentConfig():
            return EDIT
        case DepthConfig():
            return DEPTH
        case NoisedLowResolutionConfig():
            return UPSCALE
        case ImageEmbeddingConfig():
            return UNCLIP
        case _:
            return None
