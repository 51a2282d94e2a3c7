"""What a frozen feature extractor is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from sfumato.errors import unknown
from sfumato.features.views import rgb_views


class FeatureExtractor(nn.Module, ABC):
    """A frozen network with named layers. Gradients flow to its input, never to its weights."""

    names: tuple[str, ...]
    """Every layer that can be asked for, in order of depth."""

    @abstractmethod
    def trunk(self, rgb: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """(B, 3, H, W) in [-1, 1] -> the feature map (B, C_l, H_l, W_l) of each asked layer."""

    def forward(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """(B, C, H, W) in [-1, 1], any C -> {layer: (B, V * C_l, H_l, W_l)}; V views of `rgb_views`, 1 up to C = 4.

        Runs no deeper than the deepest asked layer. Raises `InputError` for an unknown layer.
        """
        for layer in layers:
            if layer not in self.names:
                raise unknown(f"layer of {type(self).__name__}", layer, self.names)
        views = rgb_views(x)  # (B, V, 3, H, W)
        maps = self.trunk(views.flatten(0, 1), layers)
        return {name: f.unflatten(0, views.shape[:2]).flatten(1, 2) for name, f in maps.items()}

    def freeze(self) -> None:
        """No parameter asks for a gradient, no layer has a training mode."""
        self.requires_grad_(False)
        self.eval()
