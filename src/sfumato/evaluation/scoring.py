"""The features that score: MobileNetV2's last shipped block, pooled.

Every picture is resized to one square, run through the network and averaged over places: 96 numbers. Pictures
with transparency are seen on white. Distances in them are named FD-MobileNetV2 and KD-MobileNetV2; they are no FID.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sfumato.evaluation.data import EvaluationData, batches
from sfumato.features.mobilenet import MobileNetV2Features, asset_sha256, load_mobilenet
from sfumato.features.views import resize_square
from sfumato.generation.pixels import to_unit

OnBatch = Callable[[int, int], None]
"""Called with how many pictures are done, and of how many."""


class Features(Protocol):
    """A network that scores: what it is, as JSON, and (N, C, H, W) uint8 -> (N, D) fp32 features on the CPU."""

    def describe(self) -> dict[str, Any]: ...

    def __call__(
        self, pixels: Tensor, device: torch.device | str = "cpu", batch_size: int = 32, on_batch: OnBatch | None = None
    ) -> Tensor: ...


FeatureSource = Callable[[EvaluationData, Features], Tensor]
"""(real pictures, network) -> their features, (N, D), computed or found."""


@dataclass(frozen=True)
class Scorer:
    """layer: of `MobileNetV2Features`. resize: side in pixels before the network (bicubic, antialiased), None for native.

    128 tells drawings of different concepts apart as well as 224 does, for a third of the work.
    """

    layer: str = "block10"
    resize: int | None = 128

    def __post_init__(self) -> None:
        if self.layer not in MobileNetV2Features.names:
            raise ValueError(f"no layer {self.layer!r} in {MobileNetV2Features.names}")

    @property
    def dims(self) -> int:
        """D, numbers of a picture."""
        return MobileNetV2Features.widths[MobileNetV2Features.names.index(self.layer)]

    @property
    def fewest(self) -> int:
        """Pictures a side below which their covariance is singular, and no Frechet distance is told."""
        return self.dims + 1

    def describe(self) -> dict[str, Any]:
        """What a report has to say of the extractor."""
        return {"network": "MobileNetV2", "sha256": asset_sha256(), "pooling": "mean", "interpolation": "bicubic"} | asdict(
            self
        )

    @torch.inference_mode()
    def __call__(
        self, pixels: Tensor, device: torch.device | str = "cpu", batch_size: int = 32, on_batch: OnBatch | None = None
    ) -> Tensor:
        """(N, C, H, W) uint8 -> (N, D) fp32 features on the CPU."""
        network, found = load_mobilenet(device), []
        for part in batches(len(pixels), batch_size):
            x = resize_square(to_unit(pixels[part].to(device)), self.resize)
            found.append(network(x, (self.layer,))[self.layer].mean((2, 3)).cpu())
            if on_batch is not None:
                on_batch(part.stop, len(pixels))
        return torch.cat(found)
