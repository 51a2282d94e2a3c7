"""Pixels <-> latents: the contract of a first stage."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.latent import Codes, Latent
from sfumato.posterior import DiagonalGaussian


def preview_channels(image_channels: int) -> int:
    """Of a small preview: the picture's own, but for pictures with transparency the three on white (`sfumato.alpha`)."""
    return 3 if image_channels == 4 else image_channels


class Decoder(nn.Module, ABC):
    """latent -> pixels. A GAN's first stage is only this."""

    latent: Latent
    channels: int
    preview: Tensor | None
    """(latent channels + 1, preview channels): a linear map, bias last, from latent to a small preview."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """(B, ...) latents in unit scale -> (B, C, H, W) pixels in [-1, 1], not clipped."""


class CodesFace(Decoder):
    """A first stage as whole numbers, which autoregressive priors see: no unit scale. Its weights are the first stage's."""

    latent: Codes

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """(B, C, H, W) pixels in [-1, 1] -> int64 codes (B, *latent.shape(H, W))."""


class FirstStage(Decoder):
    """Owns its units: latents leave and enter with mean 0 and variance 1 over the data set."""

    @abstractmethod
    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """(B, C, H, W) pixels in [-1, 1] -> q(z | x) in unit scale."""

    def codes(self) -> CodesFace:
        """The same as whole numbers. Raises `InputError` where the latents are not."""
        raise InputError(f"{type(self).__name__} has no codes; an autoregressive prior needs a VQ or an identity first stage.")

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter | None:
        """The decoder's last weight, where the adaptive GAN weight is measured."""
