"""Text through frozen CLIP towers, as Stable Diffusion 1, 2 and XL and retrieval-augmented diffusion read it.

    SD 1        ViT-L/14: last layer, final norm                              context (B, 77, 768)
    SD 2        OpenCLIP ViT-H/14: penultimate layer, final norm              context (B, 77, 1024)
    SDXL base   penultimate layers of ViT-L/14 and OpenCLIP ViT-bigG/14,
                without norm, side by side; bigG's pooled projection          context (B, 77, 2048), vector (B, 1280)
    refiner     bigG alone, likewise                                          context (B, 77, 1280), vector (B, 1280)
    RDM         ViT-L/14's pooled projection, of length 1                     context (B, 1, 768)

Rombach et al. 2021 (arXiv 2112.10752) and its releases; Podell et al. 2023 (arXiv 2307.01952, Sec. 2.1); Blattmann et al.
2022 (arXiv 2204.11824). Short prompts are padded, and the padding is attended to: there is no mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.conditioners import clip_tokens
from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.tokens import Tokenized
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.networks.clip import ClipText, ClipTextConfig

VIT_L = ClipTextConfig()
VIT_L_PROJECTED = ClipTextConfig(projection=768)
VIT_H = ClipTextConfig(dim=1024, layers=24, heads=16, activation="gelu", projection=1024, skip=1, pad="zero")
XL_L = ClipTextConfig(skip=1, final_norm=False)
XL_G = ClipTextConfig(
    dim=1280, layers=32, heads=20, activation="gelu", projection=1280, skip=1, final_norm=False, pad="zero"
)  # fmt: skip


@dataclass(frozen=True)
class ClipTextsConfig:
    """towers: one or more; their contexts stand side by side (features), the last one gives the pooled vector.

    context: every token's vector, or only the pooled one, of length 1. vector: fill the slot `vector` with the pooled one.
    null: the empty prompt, or zeros in every slot (SDXL base, RDM). The default is Stable Diffusion 1's.
    """

    kind: ClassVar[str] = "clip_text"
    towers: tuple[ClipTextConfig, ...] = (VIT_L,)
    context: Literal["tokens", "pooled"] = "tokens"
    vector: bool = False
    null: Literal["empty", "zeros"] = "empty"

    def __post_init__(self) -> None:
        if not self.towers or len({tower.length for tower in self.towers}) > 1:
            raise InputError("clip_text towers: expected one or more, all of one length.")
        if (self.vector or self.context == "pooled") and self.towers[-1].projection is None:
            raise InputError("clip_text: a pooled vector needs a last tower with a projection, and it has none.")
        if self.context == "tokens" and any(tower.skip == 0 and not tower.final_norm for tower in self.towers):
            raise InputError("clip_text: the last layer of a tower has its final norm; set skip to 1, or final_norm to true.")

    @property
    def context_dim(self) -> int:
        """Width of the context."""
        if self.context == "pooled":
            return self.towers[-1].projection or 0
        return sum(tower.dim for tower in self.towers)


SD1 = ClipTextsConfig()
SD2 = ClipTextsConfig((VIT_H,))
SDXL_BASE = ClipTextsConfig((XL_L, XL_G), vector=True, null="zeros")
SDXL_REFINER = ClipTextsConfig((XL_G,), vector=True)
RDM = ClipTextsConfig((VIT_L_PROJECTED,), context="pooled", null="zeros")


class ClipTexts(Conditioner[str, Tensor]):
    """Prompts of any text. What does not fit in 77 tokens is cut at the end; `count_truncated` counts such prompts."""

    NOTHING = -1  # in place of token ids: the null input of zeros

    def __init__(self, config: ClipTextsConfig):
        super().__init__()
        self.config = config
        self.towers = nn.ModuleList(ClipText(tower) for tower in config.towers)

    def prepare(self, inputs: Sequence[str]) -> Tensor:
        """B texts of any kind and length -> (B, towers, length) int64: begin, at most length - 2 tokens, end, padding."""
        pads = [clip_tokens.END_ID if tower.pad == "end" else 0 for tower in self.config.towers]
        length = self.config.towers[0].length
        return torch.stack([clip_tokens.encode_padded(inputs, pad, length, repair=True) for pad in pads], dim=1)

    def count_truncated(self, inputs: Sequence[str]) -> int:
        """How many of the texts lose their end in `prepare`."""
        return sum(clip_tokens.is_truncated(text, self.config.towers[0].length, repair=True) for text in inputs)

    def tokenized(self, text: str) -> Tokenized:
        """Which characters of the cleaned text each of its tokens stands for. Raises `InputError` for a pooled context."""
        if self.config.context == "pooled":
            raise InputError("this model is told one vector of the whole prompt: its words have no tokens to attend to.")
        return clip_tokens.tokenized(text, self.config.towers[0].length, repair=True)

    def null(self, count: int) -> Tensor:
        """(count, towers, length) int64: the empty prompt, or -1, which `forward` turns into zeros."""
        empty = self.prepare([""]).expand(count, -1, -1)
        return empty if self.config.null == "empty" else torch.full_like(empty, self.NOTHING)

    @torch.no_grad()
    def forward(self, prepared: Tensor) -> Conditioning:
        """(B, towers, length) ids -> context, and vector where the config has one; see the module's table."""
        nothing = prepared[:, 0, :1] == self.NOTHING  # (B, 1)
        features = [tower(ids) for tower, ids in zip(self.towers, prepared.clamp(min=0).unbind(1), strict=True)]
        pooled = features[-1].pooled
        if self.config.context == "pooled":
            context = F.normalize(pooled, dim=1)[:, None]  # (B, 1, D)
        else:
            context = torch.cat([one.context for one in features], dim=2)  # (B, L, sum of D)
        vector = pooled.masked_fill(nothing, 0) if self.config.vector else None
        return Conditioning(context=context.masked_fill(nothing[..., None], 0), vector=vector)


def with_layers(config: ClipTextConfig, layers: int) -> ClipTextConfig:
    """The same tower of a file that holds fewer layers: where the file leaves off the last one, nothing is skipped.

    The diffusers folders of Stable Diffusion 2 hold 23 of ViT-H/14's 24 layers.
    """
    return dataclasses.replace(config, layers=layers, skip=max(0, config.skip - (config.layers - layers)))
