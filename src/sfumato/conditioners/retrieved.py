"""Retrieved pictures: the feature maps of k nearest neighbours as context tokens.

    context = W phi(x_1) + p, ..., W phi(x_k) + p       phi: tokens x dim features of a picture, p: a learned vector a token

Retrieval-augmented diffusion (Blattmann et al. 2022, arXiv 2204.11824) reads one CLIP vector a neighbour; the maps of the
embedded feature network need no download and say where things are. Where CLIP's weights are given, its vectors take their
place. The neighbours have no order. The null input, for guidance, is zeros, which no picture's features are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.pictures import one_size
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.features.neighbours import features_of
from sfumato.networks.frozen_vision import clip_features, vision_facts


@dataclass(frozen=True)
class RetrievedConfig:
    """num: neighbours a picture. tokens, dim: of a picture's features, 8 x 8 of 96 for 128 px. width: of the context.

    encoder: a transformers folder of CLIP, or owner/name on the hub, in place of the embedded network; then tokens is 1.
    digest: of its weights, filled in when a run begins.
    """

    kind: ClassVar[str] = "retrieved"
    num: int = 4
    tokens: int = 64
    dim: int = 96
    width: int = 192
    encoder: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        for name in ("num", "tokens", "dim", "width"):
            if getattr(self, name) < 1:
                raise InputError(f"retrieved: {name} is {getattr(self, name)}, expected 1 or more.")


Extract = Callable[[Tensor, torch.device], tuple[Tensor, Tensor]]
"""(N, C, H, W) uint8 -> maps (N, tokens, dim) fp16 and pooled, of length 1, (N, dim) fp32, both on the CPU."""


def extractor(config: RetrievedConfig) -> Extract:
    """What makes a picture's features. Raises `InputError` where CLIP's weights are not those of the config."""
    if not config.encoder:
        return features_of
    facts = vision_facts(config.encoder)
    if config.digest and facts.digest != config.digest:
        raise InputError(
            f"{config.encoder} holds another encoder ({facts.digest}) than this model was trained with ({config.digest})."
        )
    return functools.partial(clip_features, facts)


class Retrieved(Conditioner[Tensor, Tensor]):
    """An input is a float tensor (num, tokens, dim): the features of a picture's neighbours."""

    needs = "retrieved neighbours"

    def __init__(self, config: RetrievedConfig):
        super().__init__()
        self.config = config
        self.project = nn.Linear(config.dim, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.place = nn.Parameter(0.02 * torch.randn(config.tokens, config.width))

    def prepare(self, inputs: Sequence[Tensor]) -> Tensor:
        """B times (num, tokens, dim) -> (B, num, tokens, dim) fp32. Raises `InputError` for another shape."""
        expected = (self.config.num, self.config.tokens, self.config.dim)
        for given in inputs:
            if tuple(given.shape) != expected or not given.is_floating_point():
                raise InputError(f"neighbours {tuple(given.shape)} of {given.dtype}; expected {expected} floats.")
            if not bool(torch.isfinite(given).all()):
                raise InputError("neighbours: a feature is not finite; expected those of the embedded network.")
        return one_size([given.to("cpu", torch.float32) for given in inputs], expected, "neighbours")

    def null(self, count: int) -> Tensor:
        """(count, num, tokens, dim) zeros."""
        return torch.zeros(count, self.config.num, self.config.tokens, self.config.dim)

    def nulled(self, prepared: Tensor) -> Tensor:
        """Zeros, as many."""
        return torch.zeros_like(prepared)

    def forward(self, prepared: Tensor) -> Conditioning:
        """(B, num, tokens, dim) -> context (B, num tokens, width)."""
        rows = self.norm(self.project(prepared.to(self.project.weight.dtype))) + self.place
        return Conditioning(context=rows.flatten(1, 2))
