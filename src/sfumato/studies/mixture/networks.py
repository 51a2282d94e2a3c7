"""The small networks that points of the plane need: everything else is the library's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sfumato.conditioning import Conditioning
from sfumato.nn.layers import timestep_embedding


def perceptron(
    inputs: int, outputs: int, width: int, depth: int, activation: Callable[[], nn.Module] = nn.SiLU
) -> nn.Sequential:
    """`depth` hidden layers of `width`: (B, inputs) -> (B, outputs)."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), activation()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class Waves(nn.Module):
    """(B, 2) -> [x, cos(w_i x), sin(w_i x)], w_i = 1, 2, ... 2^(octaves - 1), of both coordinates: (B, 2 + 4 octaves).

    Without them a perceptron learns fine detail last (Tancik et al. 2020, arXiv 2006.10739).
    """

    frequencies: Tensor

    def __init__(self, octaves: int = 5):
        super().__init__()
        self.width = 2 + 4 * octaves
        self.register_buffer("frequencies", 2.0 ** torch.arange(octaves), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        angles = (x[:, :, None] * self.frequencies).flatten(1)  # (B, 2 octaves)
        return torch.cat([x, angles.cos(), angles.sin()], dim=1)


class PointDenoiser(nn.Module):
    """(x_t (B, 2), table steps k (B,), condition, which is not looked at) -> (B, 2).

    The point joins the embedding of its time at the entrance; each hidden layer is residual and told the time again.
    """

    def __init__(self, width: int = 128, depth: int = 3, time_channels: int = 32):
        super().__init__()
        self.time_channels = time_channels
        self.waves = Waves()
        self.enter = nn.Linear(self.waves.width, width)
        self.time = nn.Sequential(nn.Linear(time_channels, width), nn.SiLU(), nn.Linear(width, depth * width))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.leave = nn.Linear(width, 2)

    def forward(self, x: Tensor, k: Tensor, cond: Conditioning) -> Tensor:
        told = self.time(timestep_embedding(k, self.time_channels).to(x.dtype))  # (B, depth width)
        h = self.enter(self.waves(x))
        for layer, shift in zip(self.layers, told.chunk(len(self.layers), dim=1), strict=True):
            h = h + layer(nn.functional.silu(h + shift))
        return self.leave(nn.functional.silu(h))


class PointDiscriminator(nn.Module):
    """(B, 2) -> logits (B,); labels are not looked at."""

    def __init__(self, width: int, depth: int, octaves: int):
        super().__init__()
        self.waves = Waves(octaves)
        self.network = perceptron(self.waves.width, 1, width, depth, lambda: nn.LeakyReLU(0.2))
        he(self.network, 0.2)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.network(self.waves(x))[:, 0]
        return logits


def he(network: nn.Module, slope: float) -> None:
    """Weights that keep the variance through leaky ReLUs of `slope` (He et al. 2015, arXiv 1502.01852), no bias."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / (1 + slope**2) / layer.in_features))
            nn.init.zeros_(layer.bias)


def count_parameters(module: nn.Module) -> int:
    """Of all parameters, frozen ones too."""
    return sum(parameter.numel() for parameter in module.parameters())


def noise(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """N(0, 1), fp32."""
    return torch.randn(shape, generator=rng)
