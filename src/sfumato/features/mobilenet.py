"""MobileNetV2 features: the perceptual network that ships inside the package.

Inverted residual blocks (Sandler, Howard, Zhu, Zhmoginov, Chen 2018, arXiv 1801.04381, section 3): a 1x1 convolution
expands, a 3x3 depthwise convolution filters, a linear 1x1 convolution projects; the input is added where the shapes
agree. Width 1.0, stem and blocks 0 to 10, ImageNet weights with the batch norms folded into the convolutions.
Convolutions of stride 2 pad one row and column at the bottom right only, as in the network's first framework.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.features.base import FeatureExtractor

ASSET = "mobilenet_v2_imagenet.safetensors"


@dataclass(frozen=True)
class _Block:
    expand: int
    width: int
    stride: int


BLOCKS = (
    _Block(1, 16, 1),
    _Block(6, 24, 2),
    _Block(6, 24, 1),
    _Block(6, 32, 2),
    _Block(6, 32, 1),
    _Block(6, 32, 1),
    _Block(6, 64, 2),
    _Block(6, 64, 1),
    _Block(6, 64, 1),
    _Block(6, 64, 1),
    _Block(6, 96, 1),
)
STEM_WIDTH = 32


def relu6(x: Tensor) -> Tensor:
    return x.clamp(0, 6)


class PaddedConv(nn.Conv2d):
    """A 3x3 convolution; with stride 2 it pads (left 0, right 1, top 0, bottom 1), with stride 1 one on every side."""

    def __init__(self, width_in: int, width_out: int, stride: int, groups: int = 1) -> None:
        super().__init__(width_in, width_out, 3, stride, padding=0 if stride == 2 else 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == (2, 2):  # a map of one place is filled up to the size of the kernel
            x = F.pad(x, (0, max(1, 3 - x.shape[-1]), 0, max(1, 3 - x.shape[-2])))
        return super().forward(x)


class InvertedResidual(nn.Module):
    """x -> [x +] project(relu6(depthwise(relu6(expand(x)))))."""

    def __init__(self, width_in: int, shape: _Block) -> None:
        super().__init__()
        hidden = width_in * shape.expand
        self.expand = nn.Conv2d(width_in, hidden, 1) if shape.expand > 1 else None
        self.depthwise = PaddedConv(hidden, hidden, shape.stride, groups=hidden)
        self.project = nn.Conv2d(hidden, shape.width, 1)
        self.residual = shape.stride == 1 and width_in == shape.width

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else relu6(self.expand(x))
        out: Tensor = self.project(relu6(self.depthwise(hidden)))
        return x + out if self.residual else out


class MobileNetV2Features(FeatureExtractor):
    """Layers: "stem" (32 channels, 1/2), "block0" (16, 1/2), "block1-2" (24, 1/4), "block3-5" (32, 1/8),
    "block6-9" (64, 1/16), "block10" (96, 1/16); a block's layer is its output. Sides should be multiples of 16."""

    names = ("stem", *(f"block{i}" for i in range(len(BLOCKS))))
    widths = (STEM_WIDTH, *(b.width for b in BLOCKS))
    """Channels of each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = PaddedConv(3, STEM_WIDTH, stride=2)
        self.blocks = nn.ModuleList(InvertedResidual(w, b) for w, b in zip(self.widths, BLOCKS))
        self.freeze()

    def trunk(self, rgb: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        last = max([-1, *[self.names.index(layer) for layer in layers]])
        x = rgb
        for index, name in enumerate(self.names[: last + 1]):
            x = relu6(self.stem(x)) if index == 0 else self.blocks[index - 1](x)
            if name in layers:
                found[name] = x
        return found


def asset_bytes() -> bytes:
    """The shipped weights' file as it is."""
    return (resources.files("sfumato") / "assets" / ASSET).read_bytes()


@functools.cache
def asset_sha256() -> str:
    """SHA-256 of the shipped weights' file: which extractor a reported number belongs to."""
    return hashlib.sha256(asset_bytes()).hexdigest()


@functools.cache
def _on_device(device: torch.device) -> MobileNetV2Features:
    with torch.inference_mode(False):  # a first call under inference mode must not spoil the network for training
        network = MobileNetV2Features()
        network.load_state_dict({name: tensor.float() for name, tensor in load(asset_bytes()).items()})
        return network.to(device)


def load_mobilenet(device: torch.device | str = "cpu") -> MobileNetV2Features:
    """The shipped network in fp32 on `device`, frozen; one object a device, shared by all who ask. Needs no download."""
    return _on_device(torch.device(device))
