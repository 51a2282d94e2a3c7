"""The patch discriminator: D(x) is a map of logits, one for each overlapping patch of the picture.

Isola et al. 2017 (arXiv 1611.07004, Sec. 3.2.2 and App. 6.1.2): 4 x 4 convolutions and leaky ReLUs of slope 0.2, `num_layers`
of them with stride 2, widths doubling from `channels` up to 8 times; weights start from N(0, 0.02^2). Three layers see 70 x 70.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.nn.layers import GroupNorm

Norm = Literal["batch", "group", "none"]


@dataclass(frozen=True)
class PatchGANConfig:
    """Which discriminator. `norm`: "batch" is published; "group" has no running statistics and sees each picture alone."""

    image_channels: int = 3
    channels: int = 64
    num_layers: int = 3
    norm: Norm = "batch"

    def __post_init__(self) -> None:
        for name in ("image_channels", "channels", "num_layers"):
            if getattr(self, name) < 1:
                raise InputError(f"discriminator {name} is {getattr(self, name)}: expected 1 or more.")

    def side(self, pixels: int) -> int:
        """Side of the logit map for a picture of side `pixels`; below 1 the picture is too small."""
        for _ in range(self.num_layers):
            pixels //= 2
        return pixels - 2

    @property
    def smallest(self) -> int:
        """The smallest side of a picture that gives at least one logit."""
        return int(3 * 2**self.num_layers)


class PatchGAN(nn.Module):
    """Logits of "this patch is real"."""

    def __init__(self, config: PatchGANConfig):
        super().__init__()
        self.config = config
        width = config.channels
        layers: list[nn.Module] = [nn.Conv2d(config.image_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for n in range(1, config.num_layers + 1):
            wider = config.channels * min(2**n, 8)
            stride = 2 if n < config.num_layers else 1
            layers += [
                nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=config.norm != "batch"),
                _norm(config.norm, wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        layers.append(nn.Conv2d(width, 1, 4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) pixels in [-1, 1] -> (B, 1, h, w) logits, h = `config.side(H)`.

        Raises `InputError` when a side is below `config.smallest`.
        """
        if min(x.shape[2:]) < self.config.smallest:
            raise InputError(
                f"discriminator of {self.config.num_layers} layers got pictures of {x.shape[3]}x{x.shape[2]} pixels: expected "
                f"{self.config.smallest} or more a side. Set num_layers lower."
            )
        return self.layers(x)


def _norm(norm: Norm, channels: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return GroupNorm(channels, eps=1e-5) if norm == "group" else nn.Identity()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
