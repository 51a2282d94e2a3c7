"""The discriminator of whole pictures: one logit of "this picture is real", of its class where it has one.

    D(x, y) = psi(phi(x)) + <e(y), phi(x)>       the projection of Miyato & Koyama 2018 (arXiv 1802.05637, eq. 3)

phi: residual blocks without norms that halve the size down to 4 x 4, as in Karras et al. 2019 (arXiv 1912.04958, Sec. 4);
a penalty on its gradient keeps it tame. At 4 x 4 it sees how much the pictures of a batch differ from one another (Karras
et al. 2017, arXiv 1710.10196, Sec. 3), so that a generator that always draws the same is found out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.nn.layers import conv3x3, halve

BASE = 4  # side of the last feature map
SLOPE = 0.2  # of the leaky ReLUs


@dataclass(frozen=True)
class DiscriminatorConfig:
    """widths: channels of each level, the whole picture first, 4 x 4 last. num_classes: 0 for pictures without classes;
    labels are below it, so a null class counts. minibatch_group: pictures that are compared with each other; 0 for none.
    """

    image_channels: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 256)
    num_classes: int = 0
    minibatch_group: int = 4

    def __post_init__(self) -> None:
        if self.image_channels < 1 or self.num_classes < 0 or self.minibatch_group < 0:
            raise InputError(
                f"discriminator: image_channels {self.image_channels}, num_classes {self.num_classes}, minibatch_group "
                f"{self.minibatch_group}; expected 1 or more, 0 or more, 0 or more."
            )
        if not self.widths or min(self.widths) < 1:
            raise InputError(f"discriminator widths are {list(self.widths)}: expected one width of 1 or more for each level.")

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return int(BASE * 2 ** (len(self.widths) - 1))


class Discriminator(nn.Module):
    """Logits (B,) of pictures and, with classes, their labels."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        self.conv_in = conv3x3(config.image_channels, widths[0])
        self.blocks = nn.ModuleList(DownBlock(a, b) for a, b in pairwise(widths))
        self.deviation = MinibatchDeviation(config.minibatch_group) if config.minibatch_group else None
        width = widths[-1]
        self.conv_out = conv3x3(width + (self.deviation is not None), width)
        self.linear = nn.Linear(width * BASE * BASE, width)
        self.apply(_initialise)
        self.out = nn.Linear(width, 1)
        self.classes = nn.Embedding(config.num_classes, width) if config.num_classes else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, 0.0, width**-0.5)

    def features(self, x: Tensor) -> Tensor:
        """phi: (B, C, size, size) pixels in [-1, 1] -> (B, widths[-1]). Raises `InputError` for another size."""
        size = self.config.size
        if tuple(x.shape[2:]) != (size, size):
            raise InputError(
                f"discriminator of {len(self.config.widths)} widths got pictures of {x.shape[3]}x{x.shape[2]} pixels: expected "
                f"{size}x{size}. Give one width more for each doubling."
            )
        h = F.leaky_relu(self.conv_in(x), SLOPE)
        for block in self.blocks:
            h = block(h)
        if self.deviation is not None:
            h = self.deviation(h)  # (B, widths[-1] + 1, 4, 4)
        h = F.leaky_relu(self.conv_out(h), SLOPE)
        return F.leaky_relu(self.linear(h.flatten(1)), SLOPE)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, C, size, size), labels (B,) int64 below `num_classes` -> (B,). Without classes labels are not looked at."""
        phi = self.features(x)
        logits: Tensor = self.out(phi)[:, 0]
        if self.classes is None:
            return logits
        assert labels is not None, "this discriminator judges pictures with their classes"
        return logits + (self.classes(labels) * phi).sum(1)


class DownBlock(nn.Module):
    """(halve(skip(x)) + halve(conv(conv(x)))) / sqrt(2): the sum keeps the variance."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = conv3x3(in_channels, in_channels)
        self.conv2 = conv3x3(in_channels, out_channels)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h / 2, w / 2)."""
        h = F.leaky_relu(self.conv1(x), SLOPE)
        h = halve(F.leaky_relu(self.conv2(h), SLOPE))
        return (self.skip(halve(x)) + h) / math.sqrt(2)


class MinibatchDeviation(nn.Module):
    """One channel more: the deviation of each feature over a group of neighbours in the batch, averaged to one number.

    `group`: how many pictures; the next smaller number that divides the batch where it does not.
    """

    def __init__(self, group: int):
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C + 1, h, w)."""
        count = len(x)
        group = next(g for g in range(min(self.group, count), 0, -1) if count % g == 0)
        grouped = x.float().unflatten(0, (-1, group))  # (B / G, G, C, h, w)
        variance = grouped.var(dim=1, correction=0)
        deviation = torch.sqrt(variance + 1e-8).mean((1, 2, 3))  # (B / G,)
        channel = deviation.repeat_interleave(group).view(count, 1, 1, 1).expand(count, 1, x.shape[2], x.shape[3])
        return torch.cat([x, channel.to(x.dtype)], dim=1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
