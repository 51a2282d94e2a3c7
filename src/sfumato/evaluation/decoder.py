"""The density of 8-bit pixels that a decoder has when its answer is the mean of a Gaussian.

    P(x | z) = prod_i integral over the bin of x_i of N(D(z)_i, sigma^2)

open at both ends (Ho, Jain & Abbeel 2020, arXiv 2006.11239, eq. 13), with one variance for all pixels: the mean squared error
of training pictures, of a density the likeliest one (Rybkin, Daniilidis & Levine 2020, arXiv 2006.13202, section 3). It sums to
one over all 8-bit pictures whatever D and sigma are, so that what it bounds is a likelihood. Between the ends, squared error is
its negative logarithm up to constants and the width of a bin: a decoder that learned from that alone is this density. One that
learned from a perceptual distance, a critic or an absolute error is the mean of no Gaussian, and is one only when asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from sfumato.diffusion.bounds import eight_bit_log_prob
from sfumato.evaluation.data import batches
from sfumato.first_stages.base import FirstStage
from sfumato.first_stages.vq import QuantizedFirstStage
from sfumato.generation.pixels import to_unit

LEAST_VARIANCE = (1 / 255) ** 2 / 3
"""Of a decoder: that of rounding to 8 bits alone, uniform on a bin of width 2/255."""
NUM_FITTED = 512
"""Training pictures that a variance is fitted to, at most."""


class DecoderLoss(Enum):
    """What is known of how a decoder learned."""

    squared = "trained by squared error alone"
    other = "trained by more than squared error"
    unknown = "trained in a way that is not known"
    asked = "taken for the mean of a Gaussian as asked"

    @classmethod
    def of(cls, squared_error_alone: bool | None) -> DecoderLoss:
        """From `FirstStageRun.squared_error_alone`."""
        return {True: cls.squared, False: cls.other, None: cls.unknown}[squared_error_alone]

    @property
    def gaussian(self) -> bool:
        """Whether the answer is the mean of a Gaussian, by its training or because it was asked for."""
        return self in (DecoderLoss.squared, DecoderLoss.asked)


@dataclass(frozen=True)
class EightBitGaussian:
    """log P(x | z) above, as `losses.likelihood.Likelihood`: 8-bit x on [-1, 1] and D(z), (B, ...) -> (B,) nats in float64."""

    variance: float

    def __call__(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """See `Likelihood`."""
        return eight_bit_log_prob(x, x_hat.float(), self.variance).to(x.device)


@torch.no_grad()
def fitted_variance(
    first_stage: FirstStage, pixels: Tensor, *, seed: int = 0, batch_size: int = 16, device: torch.device | str = "cpu"
) -> float:
    """The variance of a decoder's Gaussian, on [-1, 1]: the mean squared error of training pictures (N, C, H, W)
    uint8, each by its codes or by one sample of q(z | x). Never below that of rounding to 8 bits."""
    total = 0.0
    for part in batches(len(pixels), batch_size):
        x = to_unit(pixels[part].to(device))
        answer = _answer(first_stage, x, torch.Generator(x.device).manual_seed(seed + part.start))
        total += float((answer.float() - x).double().cpu().square().sum())
    return max(LEAST_VARIANCE, total / pixels.numel())


def _answer(first_stage: FirstStage, x: Tensor, rng: torch.Generator) -> Tensor:
    if isinstance(first_stage, QuantizedFirstStage):
        face = first_stage.codes()
        return face.decode(face.encode(x))
    return first_stage.decode(first_stage.posterior(x).sample(rng))
