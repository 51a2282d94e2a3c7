"""Scores of latents that guide without retraining: a low-resolution picture through the decoder, a class by a classifier.

    small picture y   score = -(dim x_0 / dim y) || shrink(D(x_0)) - y ||^2 / (2 v_t)
                      v_t = deviation^2 + spread^2 sigma_t^2 / (alpha_t^2 + sigma_t^2)
    class c           score = log softmax(f(x_0))_c

The first is the log-likelihood of y = shrink(D(x_0)) + noise (Rombach et al. 2021, arXiv 2112.10752, appendix C) but for two
things. Its variance has room for what the estimate at t cannot know: the second term of v_t is the variance of x_0 given x_t
for normal data of that spread and a scale of 1 (the r_t^2 of Song et al. 2023, "Pseudoinverse-guided diffusion models for
inverse problems"); without it, early steps would be moved by errors of the estimate as if they were the picture's. And it
counts as many measurements as the latent has numbers, whatever the size of y: pixels beside one another err together, so that
four times as many of them do not say four times as much, and one scale fits all sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sfumato.diffusion.guide import Score
from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError, unknown
from sfumato.first_stages.base import Decoder
from sfumato.generation.pixels import WITH_ALPHA, from_picture
from sfumato.networks.classifier import LatentClassifier

SMALLEST = 4  # pixels of a side, below which a picture says nothing of places


@dataclass(frozen=True, eq=False)
class SmallPictureScore:
    """How well the decoded latent, shrunk, agrees with a small picture.

    decode: latents in unit scale -> (B, C, H, W), about [-1, 1], differentiable. small: (c, h, w) in [-1, 1], compared with the
    first c channels. deviation: of what may differ in the end, in units of pixels. spread: standard deviation of pixels; 1,
    more than pictures have, keeps few steps from going too far.
    """

    decode: Callable[[Tensor], Tensor]
    small: Tensor
    schedule: Schedule
    deviation: float = 0.05
    spread: float = 1.0

    def __call__(self, x_0: Tensor, t: Tensor) -> Tensor:
        """(B, C, h, w), (B,) -> (B,) nats up to a constant."""
        alpha, sigma = self.schedule(t)
        variance = self.deviation**2 + self.spread**2 * sigma**2 / (alpha**2 + sigma**2)
        error = self.shrunk(x_0) - self.small.to(x_0)
        return -x_0[0].numel() * error.square().flatten(1).mean(1) / (2 * variance.to(x_0))

    def shrunk(self, x_0: Tensor) -> Tensor:
        """(B, c, h, w): the decoded latents as small as the picture, by antialiased bicubic interpolation."""
        x = self.decode(x_0)[:, : len(self.small)]
        return F.interpolate(x, self.small.shape[1:], mode="bicubic", antialias=True)


@dataclass(frozen=True, eq=False)
class ClassScore:
    """log p(class | x_0) by a classifier of clean latents: (B, C, h, w) -> (B, K) logits. label: the class asked for."""

    classifier: Callable[[Tensor], Tensor]
    label: int

    def __call__(self, x_0: Tensor, t: Tensor) -> Tensor:
        """(B, C, h, w), (B,) -> (B,) nats."""
        return self.classifier(x_0).log_softmax(1)[:, self.label]


def small_picture(
    image: Image.Image, first_stage: Decoder, schedule: Schedule, size: tuple[int, int], device: torch.device | str = "cpu"
) -> Score:
    """The score of `image` for pictures of (height, width) `size`: at its own size, shrunk where that is larger.

    Where pictures have alpha and `image` has none, their colours on white are compared. Raises `InputError` for an image of
    fewer than 4 pixels a side.
    """
    height, width = min(image.height, size[0]), min(image.width, size[1])
    if min(height, width) < SMALLEST:
        raise InputError(f"guide: a picture of {height}x{width} pixels; expected {SMALLEST} or more a side.")
    channels = first_stage.channels
    if channels == WITH_ALPHA and not image.has_transparency_data:
        channels = 3
    with torch.inference_mode(False):
        small = from_picture(image, channels, (height, width))[0].to(device)
    kind = next((p.dtype for p in first_stage.parameters() if p.is_floating_point()), torch.float32)

    def decode(z: Tensor) -> Tensor:
        return first_stage.decode(z.to(kind)).float()

    return SmallPictureScore(decode, small, schedule)


def class_score(classifier: LatentClassifier, name: str) -> Score:
    """The score of the class called `name`. Raises `InputError` for a class that the classifier does not know."""
    if name not in classifier.config.names:
        raise unknown("class of the guide", name[:100], classifier.config.names)
    return ClassScore(classifier, classifier.config.names.index(name))
