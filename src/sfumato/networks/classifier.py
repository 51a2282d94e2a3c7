"""A classifier of latents: what a class is to the gradient that guides (classifier guidance).

    f(z) = W mean(h) + b,    h = residual blocks of z, halved between levels

after the classifiers of Dhariwal & Nichol 2021 (arXiv 2105.05233, Sec. 4), much smaller, of clean latents and without the time:
it is asked about estimates of x_0. The mean over places lets it take latents of any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.nn.layers import GroupNorm, conv3x3, halve
from sfumato.nn.residual import ResBlock

GROUPS = 8


@dataclass(frozen=True)
class ClassifierConfig:
    """names: the classes in the order of their indices. in_channels: of the latent. widths: of each level, multiples of 8."""

    kind: ClassVar[str] = "latent_classifier"
    names: tuple[str, ...]
    in_channels: int
    widths: tuple[int, ...] = (64, 128)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if len(self.names) < 2 or "" in self.names or len(set(self.names)) < len(self.names):
            raise InputError(f"classifier: {len(self.names)} names of classes; expected two or more, different, none empty.")
        if self.in_channels < 1 or not self.widths or any(width < 1 or width % GROUPS for width in self.widths):
            raise InputError(
                f"classifier: in_channels {self.in_channels}, widths {list(self.widths)}; expected 1 or more, multiples of 8."
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"classifier: dropout is {self.dropout}; expected a share from 0 to below 1.")


class LatentClassifier(nn.Module):
    """(B, C, h, w) latents in unit scale -> (B, K) logits; sides of 2^(levels - 1) or more."""

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        self.conv_in = conv3x3(config.in_channels, widths[0])
        before = (widths[0], *widths)
        self.blocks = nn.ModuleList(ResBlock(a, b, config.dropout, groups=GROUPS) for a, b in zip(before, widths, strict=False))
        self.norm = GroupNorm(widths[-1], eps=1e-6, groups=GROUPS)
        self.out = nn.Linear(widths[-1], len(config.names))

    def forward(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, K)."""
        h = self.conv_in(z)
        for level, block in enumerate(self.blocks):
            h = block(halve(h) if level else h)
        return self.out(F.silu(self.norm(h)).mean((2, 3)))
