"""CLIP's vision tower from a transformers folder, as others trained it: one vector a picture.

    phi(x) = W norm(h_N) at the class token

Radford et al. 2021 (arXiv 2103.00020). Of the folder only config.json and safetensors are read, never a pickle or code.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.alpha import on_white
from sfumato.errors import InputError
from sfumato.networks.clip import clip_pixels, transformers
from sfumato.networks.frozen_text import CONFIG, digest_of, encoder_folder, read_frozen, read_table

CHUNK = 64


@dataclass(frozen=True)
class VisionFacts:
    """dim: of a picture's vector. size: side of what the tower sees, in pixels. digest: as `EncoderFacts`."""

    folder: Path
    dim: int
    size: int
    digest: str


def vision_facts(source: str) -> VisionFacts:
    """What a config must know of a tower. Raises `InputError` where the folder is none of CLIP's."""
    folder = encoder_folder(source, (CONFIG,))
    said = read_table(folder / CONFIG)
    part = said.get("vision_config")
    inner: dict[str, Any] = part if isinstance(part, dict) else said
    dim, size = said.get("projection_dim", inner.get("projection_dim")), inner.get("image_size")
    if not isinstance(dim, int) or not isinstance(size, int):
        raise InputError(f"{folder / CONFIG} names no projection_dim and image_size; expected a CLIP model.")
    return VisionFacts(folder, dim, size, digest_of(folder))


@functools.lru_cache(maxsize=1)
def load_vision(folder: Path, digest: str) -> nn.Module:
    """The tower of a folder whose weights have that digest, in fp32, frozen. Raises `InputError`."""
    return read_frozen(transformers().CLIPVisionModelWithProjection, folder)


@torch.inference_mode()
def clip_features(facts: VisionFacts, pictures: Tensor, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """(N, C, H, W) uint8 -> vectors as maps of one token (N, 1, dim) fp16, and of length 1 (N, dim) fp32; on the CPU."""
    tower, found = load_vision(facts.folder, facts.digest).to(device), []
    for start in range(0, len(pictures), CHUNK):
        x = on_white(pictures[start : start + CHUNK].to(device).float() / 127.5 - 1)
        x = x if x.shape[1] == 3 else x[:, :1].expand(-1, 3, -1, -1)
        found.append(tower(pixel_values=clip_pixels(x, facts.size)).image_embeds.cpu())
    vectors = torch.cat(found)
    return vectors[:, None].half(), F.normalize(vectors, dim=1)
