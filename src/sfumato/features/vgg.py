"""VGG16 features and the learned linear heads of LPIPS, read from files that the user has.

The convolutional trunk is configuration D of Simonyan & Zisserman 2014 (arXiv 1409.1556, table 1); LPIPS takes the
activations after the last ReLU before each pooling, and after the last of all (Zhang, Isola, Efros, Shechtman, Wang
2018, arXiv 1801.03924, section 3). Its input is standardised with LPIPS's own constants for pixels in [-1, 1].
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.errors import InputError
from sfumato.features.base import FeatureExtractor

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
NUM_HEADS = len(STAGES)
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


def _indices() -> list[list[int]]:
    """Position of every convolution in torchvision's `features`: conv, relu, ..., pool."""
    position, found = 0, []
    for stage in STAGES:
        found.append([position + 2 * i for i in range(len(stage))])
        position += 2 * len(stage) + 1
    return found


class VGG16Features(FeatureExtractor):
    """Layers "relu1" ... "relu5" (64, 128, 256, 512, 512 channels at 1, 1/2, 1/4, 1/8, 1/16)."""

    names = tuple(f"relu{i + 1}" for i in range(len(STAGES)))

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        width, stages = 3, []
        for widths in STAGES:
            convs = nn.ModuleList()
            for w in widths:
                convs.append(nn.Conv2d(width, w, 3, padding=1))
                width = w
            stages.append(convs)
        self.stages = nn.ModuleList(stages)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)
        self.freeze()

    def trunk(self, rgb: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        last = max((self.names.index(layer) for layer in layers), default=-1)
        x = (rgb - self.shift) / self.scale
        for index in range(last + 1):
            x = F.max_pool2d(x, 2) if index else x
            for conv in cast(nn.ModuleList, self.stages[index]):
                x = F.relu(conv(x))
            if self.names[index] in layers:
                found[self.names[index]] = x
        return found


def read_tensors(path: str | Path) -> Mapping[str, Tensor]:
    """The state dict in a .safetensors file, or in a .pth/.pt file read without running code from it."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file {str(path)!r} with network weights; give a .safetensors or .pth file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{str(path)!r} is not a readable state dict of plain tensors ({type(error).__name__}).") from error
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise InputError(f"{str(path)!r} holds no plain state dict (name -> tensor).")
    return loaded


def _pick(state: Mapping[str, Tensor], names: Sequence[str], shape: Sequence[int], what: str, path: str | Path) -> Tensor:
    """The tensor under the first of `names` that is there, in fp32."""
    name = next((n for n in names if n in state), None)
    if name is None:
        raise InputError(f"{str(path)!r} lacks {names[0]!r}: expected {what}.")
    if tuple(state[name].shape) != tuple(shape):
        raise InputError(f"{str(path)!r}: {name!r} has shape {tuple(state[name].shape)}, {what} has {tuple(shape)}.")
    return state[name].float()


def load_vgg16(path: str | Path) -> VGG16Features:
    """torchvision's VGG16 weights ('features.0.weight', ...; also without the prefix) as a frozen fp32 trunk."""
    state, network = read_tensors(path), VGG16Features()
    what = "torchvision's vgg16 state dict"
    with torch.no_grad():
        for convs, positions in zip(network.stages, _indices()):
            for conv, position in zip(cast(nn.ModuleList, convs), positions):
                for kind, parameter in conv.named_parameters():
                    names = (f"features.{position}.{kind}", f"{position}.{kind}")
                    parameter.copy_(_pick(state, names, parameter.shape, what, path))
    return network


def load_lpips_heads(path: str | Path) -> list[Tensor]:
    """The five non-negative linear heads of LPIPS: 'lin0.model.1.weight' (1, 64, 1, 1), ... -> [(64,), ..., (512,)]."""
    state, heads = read_tensors(path), []
    for index, stage in enumerate(STAGES):
        names = (f"lin{index}.model.1.weight", f"lins.{index}.model.1.weight")
        heads.append(_pick(state, names, (1, stage[-1], 1, 1), "the linear heads of LPIPS for VGG16", path).flatten())
    return heads
