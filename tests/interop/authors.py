"""The authors' own classes as an oracle: builds the published models from their yaml files. A tool, not a test.

Needs checkouts of CompVis/latent-diffusion, CompVis/stable-diffusion, Stability-AI/stablediffusion and
Stability-AI/generative-models, and the packages einops, omegaconf and pyyaml. What those checkouts import beside (Lightning,
taming-transformers, fsspec) is replaced by empty shells: nothing of it holds weights but the codebook.

    python tests/interop/make_manifest.py FOLDER      # holding latent-diffusion, stable-diffusion, stablediffusion, ...
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

LD, SD1, SD2, SGM = "latent-diffusion", "stable-diffusion", "stablediffusion", "generative-models"
SD = "configs/stable-diffusion"

# name -> (repository, yaml, what differs in the U-Net). The two models with more input channels were published in other
# repositories (runwayml/stable-diffusion, timothybrooks/instruct-pix2pix), with the U-Net of v1-inference.yaml otherwise.
ROWS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{
        name: (LD, f"models/first_stage_models/{name}/config.yaml", {})
        for name in ("kl-f4", "kl-f8", "kl-f16", "kl-f32", "vq-f4", "vq-f4-noattn", "vq-f8", "vq-f8-n256", "vq-f16")
    },
    **{
        name: (LD, f"models/ldm/{name}/config.yaml", {})
        for name in (
            "celeba256", "ffhq256", "lsun_beds256", "lsun_churches256", "cin256", "text2img256", "bsr_sr", "inpainting_big",
            "semantic_synthesis256", "semantic_synthesis512", "layout2img-openimages256",
        )
    },
    "cin256-v2": (LD, "configs/latent-diffusion/cin256-v2.yaml", {}),
    "text2img-large": (LD, "configs/latent-diffusion/txt2img-1p4B-eval.yaml", {}),
    "rdm768": (LD, "configs/retrieval-augmented-diffusion/768x768.yaml", {}),
    "sd1": (SD1, f"{SD}/v1-inference.yaml", {}),
    "sd1-inpainting": (SD1, f"{SD}/v1-inference.yaml", {"in_channels": 9}),
    "instruct-pix2pix": (SD1, f"{SD}/v1-inference.yaml", {"in_channels": 8}),
    "sd2-base": (SD2, f"{SD}/v2-inference.yaml", {}),
    "sd2-v": (SD2, f"{SD}/v2-inference-v.yaml", {}),
    "sd2-inpainting": (SD2, f"{SD}/v2-inpainting-inference.yaml", {}),
    "sd2-depth": (SD2, f"{SD}/v2-midas-inference.yaml", {}),
    "sd2-x4-upscaler": (SD2, f"{SD}/x4-upscaling.yaml", {}),
    "sd2-unclip-h": (SD2, f"{SD}/v2-1-stable-unclip-h-inference.yaml", {}),
    "sd2-unclip-l": (SD2, f"{SD}/v2-1-stable-unclip-l-inference.yaml", {}),
    "sdxl-base": (SGM, "configs/inference/sd_xl_base.yaml", {}),
    "sdxl-refiner": (SGM, "configs/inference/sd_xl_refiner.yaml", {}),
}  # fmt: skip


class _Quantizer(nn.Module):
    """The part of taming's quantizer that has weights."""

    def __init__(self, n_e: int, e_dim: int, **_: Any):
        super().__init__()
        self.embedding = nn.Embedding(n_e, e_dim)


def _shell(name: str, **members: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(members)
    module.__path__ = []
    sys.modules[name] = module


def _shells(root: Path) -> None:
    nothing = lambda **_: contextlib.nullcontext()  # noqa: E731
    _shell("pytorch_lightning", LightningModule=nn.Module)
    for name in ("taming", "taming.modules", "taming.modules.vqvae"):
        _shell(name)
    _shell("taming.modules.vqvae.quantize", VectorQuantizer2=_Quantizer)
    for name in ("fsspec", "clip", "kornia"):
        _shell(name)
    if (root / "sgm").is_dir():  # without what the packages' own __init__ pulls in
        for name in ("sgm", "sgm.modules", "sgm.modules.diffusionmodules"):
            _shell(name)
            sys.modules[name].__path__ = [str(root / name.replace(".", "/"))]
    torch.backends.cuda.sdp_kernel = nothing  # gone from newer releases of PyTorch; it chose a kernel


def enter(root: Path) -> None:
    """Make the classes of one checkout importable; one checkout a process, since their packages have the same names."""
    sys.path.insert(0, str(root))
    _shells(root)


def configs(root: Path, yaml_file: str, changes: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The parameters of the U-Net (none for a first stage alone) and of the first stage in a yaml file."""
    text = (root / yaml_file).read_text("utf-8").replace("\t", " ")
    model = yaml.safe_load(text)["model"]
    first = model["params"].get("first_stage_config", model)
    unet = model["params"].get("unet_config", model["params"].get("network_config"))
    return (unet["params"] | changes if unet else None), first["params"]


TRAINED_CONDITIONERS = ("ClassEmbedder", "BERTEmbedder", "SpatialRescaler")


def conditioner(root: Path, yaml_file: str) -> nn.Module | None:
    """The authors' conditioner of a latent diffusion model, where it is trained with it (not a tower of CLIP, no picture)."""
    params = yaml.safe_load((root / yaml_file).read_text("utf-8").replace("\t", " "))["model"]["params"]
    given = params.get("cond_stage_config")
    kind = given["target"].rpartition(".")[2] if isinstance(given, dict) else None
    if kind not in TRAINED_CONDITIONERS:
        return None
    made = getattr(importlib.import_module("ldm.modules.encoders.modules"), kind)
    return made(**given["params"] | ({"use_tokenizer": False} if kind == "BERTEmbedder" else {}))


def unet(params: dict[str, Any]) -> nn.Module:
    """The authors' U-Net, from the checkout that was entered."""
    package = "sgm" if "sgm" in sys.modules else "ldm"
    kept = {k: v for k, v in params.items() if k not in ("use_checkpoint", "use_fp16", "spatial_transformer_attn_type")}
    made = importlib.import_module(f"{package}.modules.diffusionmodules.openaimodel").UNetModel(**kept)
    return made


def first_stage(params: dict[str, Any]) -> nn.Module:
    """The authors' autoencoder, less its loss."""
    package = "sgm" if "sgm" in sys.modules else "ldm"
    parts = importlib.import_module(f"{package}.modules.diffusionmodules.model")
    dd = {k: v for k, v in params["ddconfig"].items() if v != "vanilla-xformers"}
    stage = nn.Module()
    stage.encoder, stage.decoder = parts.Encoder(**dd), parts.Decoder(**dd)
    moments = 2 if dd["double_z"] else 1
    stage.quant_conv = nn.Conv2d(moments * dd["z_channels"], moments * params["embed_dim"], 1)
    stage.post_quant_conv = nn.Conv2d(params["embed_dim"], dd["z_channels"], 1)
    if "n_embed" in params:
        stage.quantize = _Quantizer(params["n_embed"], params["embed_dim"])
    return stage
