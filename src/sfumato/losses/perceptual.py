"""Perceptual distance: what changes for a network that has learned to see.

With phi_l(x) the features of layer l, scaled to unit length over the channels at every place (Zhang, Isola, Efros,
Shechtman, Wang 2018, arXiv 1801.03924, eq. 1),

    d(x, y) = sum_l  mean_{h,w}  sum_c  w_lc (phi_l(x) - phi_l(y))_c^2.

LPIPS has learned weights w over VGG16; the embedded variant has w_lc = 1 / (number of layers) over MobileNetV2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.features.base import FeatureExtractor
from sfumato.features.mobilenet import load_mobilenet
from sfumato.features.vgg import VGG16Features, load_lpips_heads, load_vgg16
from sfumato.features.views import rgb_views

EMBEDDED_LAYERS = ("stem", "block0", "block2", "block5", "block8")
"""At 1/2, 1/2, 1/4, 1/8, 1/16 of the resolution. Evaluation scores with "block10", which no training loss looks at."""


def unit_channels(features: Tensor) -> Tensor:
    """(B, C, H, W) -> the same in fp32, of length 1 over the channels at every place (0 where the features are 0)."""
    features = features.float()
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + 1e-10)


class PerceptualLoss(nn.Module):
    """The distance above over any extractor.

    `extractor` gives the frozen network for a device: it follows the pictures and is neither parameter nor state of the
    loss, so that no checkpoint and no optimizer meets it. `weights` holds one (C_l,) tensor a layer; None means
    1 / len(layers) throughout. The network runs in the ambient autocast precision; the rest is fp32.
    """

    def __init__(
        self,
        extractor: Callable[[torch.device], FeatureExtractor],
        layers: Sequence[str],
        weights: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self._extractor = extractor
        for index, weight in enumerate(weights or ()):
            self.register_buffer(f"weight{index}", weight.detach().float().view(1, -1, 1, 1), persistent=False)
        self._weighted = weights is not None

    @classmethod
    def embedded(cls, layers: Sequence[str] = EMBEDDED_LAYERS) -> PerceptualLoss:
        """Over the network that ships with the package; no download."""
        return cls(load_mobilenet, layers)

    @classmethod
    def lpips(cls, vgg: str | Path, heads: str | Path) -> PerceptualLoss:
        """LPIPS: torchvision's VGG16 and the published linear heads, from files. Raises `InputError` for what is missing."""
        trunk = load_vgg16(vgg)
        return cls(trunk.to, VGG16Features.names, load_lpips_heads(heads))

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """x, reference: (B, C, H, W) in [-1, 1] -> (B,) distances. Gradients flow to x; the reference gets none.

        Grey is repeated to RGB, four channels are seen on white; more are several RGB views (`rgb_views`), whose distances
        are averaged.
        """
        extractor = self._extractor(x.device)
        views = rgb_views(x)  # (B, V, 3, H, W)
        found = extractor(views.flatten(0, 1), self.layers)
        with torch.no_grad():
            wanted = extractor(rgb_views(reference).flatten(0, 1), self.layers)
        total = torch.zeros(views.shape[0] * views.shape[1], device=x.device)
        for index, layer in enumerate(self.layers):
            squares = (unit_channels(found[layer]) - unit_channels(wanted[layer])).square()
            weight = getattr(self, f"weight{index}").to(squares.device) if self._weighted else 1 / len(self.layers)
            total = total + (weight * squares).sum(1).mean((1, 2))
        return total.unflatten(0, views.shape[:2]).mean(1)
