"""LoRAs with random numbers in the names that training scripts give them, made from the networks that those scripts train."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

RANK, ALPHA = 3, 1.5


@dataclass(frozen=True)
class Thin:
    """down (r, in, ...), up (out, r, ...), alpha of one layer."""

    down: Tensor
    up: Tensor
    alpha: float = ALPHA

    @property
    def factor(self) -> float:
        return self.alpha / self.down.shape[0]


def random_lora(model: nn.Module, seed: int = 0, rank: int = RANK, layers: Iterable[str] | None = None) -> dict[str, Thin]:
    """By module name, for every linear map and convolution of `model` (or those named), of about the weights' own size."""
    rng = torch.Generator().manual_seed(seed)
    wanted = None if layers is None else set(layers)
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d) or (wanted is not None and name not in wanted):
            continue
        shape = module.weight.shape
        ones = (1,) * (len(shape) - 2)
        down = torch.randn((rank, *shape[1:]), generator=rng) / shape[1:].numel() ** 0.5
        up = torch.randn((shape[0], rank, *ones), generator=rng) * (0.15 / rank**0.5)
        found[name] = Thin(down, up)
    return found


def in_branches(model: nn.Module, lora: Mapping[str, Thin], scale: float = 1.0) -> None:
    """LoRA as it is trained: each layer's output + scale * factor * up(down(input)), its weights untouched."""

    def branch(thin: Thin):
        def run(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = args[0]
            if isinstance(module, nn.Conv2d):
                h = F.conv2d(x, thin.down, None, module.stride, module.padding)
                return output + scale * thin.factor * F.conv2d(h, thin.up)
            return output + scale * thin.factor * (x @ thin.down.T @ thin.up.T)

        return run

    for name, thin in lora.items():
        model.get_submodule(name).register_forward_hook(branch(thin))


def peft(lora: Mapping[str, Thin], prefix: str = "unet.", ends: tuple[str, str] = ("lora_A", "lora_B")) -> dict[str, Tensor]:
    """Tensors under dotted names, with alpha."""
    found = {}
    for name, thin in lora.items():
        found |= {f"{prefix}{name}.{ends[0]}.weight": thin.down, f"{prefix}{name}.{ends[1]}.weight": thin.up}
        found[f"{prefix}{name}.alpha"] = torch.tensor(thin.alpha)
    return found


def kohya(lora: Mapping[str, Thin], prefix: str = "lora_unet_") -> dict[str, Tensor]:
    """Tensors under underscored names, with alpha."""
    found = {}
    for name, thin in lora.items():
        stem = prefix + name.replace(".", "_")
        found |= {f"{stem}.lora_down.weight": thin.down, f"{stem}.lora_up.weight": thin.up}
        found[f"{stem}.alpha"] = torch.tensor(thin.alpha)
    return found


def save(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, object] | None = None) -> Path:
    """A safetensors file; notes that are no text are written as JSON."""
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (notes or {}).items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, text)
    return path
