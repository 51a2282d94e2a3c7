"""VQ-VAE: a codebook in the plane, and in a second stage a prior over its codes.

    stage 1   z = E(x),  k = argmin_j ||z - e_j||,  L = -log N(x; D(e_k), exp(s)) + beta ||z - sg[e_k]||^2
    stage 2   P(k) by maximum likelihood, the first stage fixed

(Van den Oord et al. 2017, arXiv 1711.00937.) With one code a point, p(x) = sum_k P(k) N(x; D(e_k), exp(s)) is a sum of as many
terms as there are codes, and so exact; the encoder's own term alone is the bound that larger models have to be content with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.conditioning import Conditioning
from sfumato.latent import Codes
from sfumato.networks.gpt import GPTConfig
from sfumato.nn.quantizers import Codebook, CodebookAverage, Quantized
from sfumato.noise import SharedNoise
from sfumato.priors.autoregressive import AutoregressiveConfig, AutoregressivePrior, AutoregressiveSettings
from sfumato.studies.mixture.base import Evidence, Model
from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.fit import Budget, Curve, fit
from sfumato.studies.mixture.networks import noise, perceptron

NOTHING = Conditioning()


@dataclass(frozen=True)
class CodebookOfPoints:
    """num_codes: K. beta: of the commitment. decay, revive: of the codebook's moving average and its dead codes.

    first: share of the budget that stage 1 gets.
    """

    num_codes: int = 64
    beta: float = 0.25
    decay: float = 0.95
    revive: float = 0.1
    width: int = 128
    depth: int = 2
    batch_size: int = 512
    learning_rate: float = 2e-3
    first: float = 0.75


class Quantizing(Model):
    """log p(x) = log sum_k P(k) N(x; D(e_k), exp(s)), exact."""

    evidence = Evidence.exact

    def __init__(self, config: CodebookOfPoints | None = None):
        super().__init__()
        self.config = c = config or CodebookOfPoints()
        self.encoder = perceptron(2, 2, c.width, c.depth)
        self.book = Codebook(c.num_codes, 2)
        nn.init.normal_(self.book.embedding.weight, 0.0, 0.1)
        self.average = CodebookAverage(self.book, c.decay, c.revive)
        self.decoder = perceptron(2, 2, c.width, c.depth)
        self.log_variance = nn.Parameter(torch.zeros(()))
        network = GPTConfig(c.num_codes, height=1, width=1, dim=32, depth=1, heads=1)
        self.prior = AutoregressivePrior(AutoregressiveConfig(network), Codes((1,), c.num_codes))

    def quantize(self, x: Tensor) -> Quantized:
        """(B, 2) -> its codes (B, 1, 1), with gradients."""
        return self.book.quantize(self.encoder(x)[:, :, None, None])

    def learn(self, mixture: Mixture, budget: Budget, rng: torch.Generator) -> Curve:
        """Both stages; the curve is the first one's, its steps are counted together."""
        c, first = self.config, [*self.encoder.parameters(), *self.decoder.parameters(), self.log_variance]
        self.average.reset()

        def loss(step: int) -> Tensor:
            x = mixture.sample(c.batch_size, rng)
            z = self.encoder(x)[:, :, None, None]
            found = self.book.quantize(z)
            self.average.observe(z, found.codes, rng)
            return (self._nll(x, self.decoder(found.z_q.flatten(1))) + c.beta * found.commitment).mean()

        def after() -> None:
            self.average.update()
            self.average.reset()

        curve = fit(loss, first, budget.part(c.first), c.learning_rate, after, fast=[self.log_variance])

        def surprise(step: int) -> Tensor:
            with torch.no_grad():
                codes = self.quantize(mixture.sample(c.batch_size, rng)).codes
            return self.prior.loss(codes, NOTHING, rng).total

        curve.steps += fit(surprise, self.prior.parameters(), budget.part(1 - c.first), c.learning_rate).steps
        return curve

    @torch.no_grad()
    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, 2): a code of the prior, decoded, with the noise of p(x | k)."""
        codes = self.prior.sample((count, 1, 1), [(NOTHING, 1.0)], AutoregressiveSettings(), SharedNoise(rng))
        return self.centres()[codes.flatten()] + torch.exp(0.5 * self.log_variance) * noise((count, 2), rng)

    @torch.no_grad()
    def centres(self) -> Tensor:
        """D(e_k), (K, 2)."""
        return self.decoder(self.book.embedding.weight)

    @torch.no_grad()
    def log_prior(self) -> Tensor:
        """log P(k), (K,) nats."""
        return self.prior.log_prob(torch.arange(self.config.num_codes)[:, None, None], NOTHING)

    @torch.no_grad()
    def log_prob(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """(B, 2) -> (B,) nats."""
        return torch.logsumexp(self._joint(x), 1)

    @torch.no_grad()
    def details(self, mixture: Mixture, x: Tensor, rng: torch.Generator) -> dict[str, Any]:
        """How the codes are used, what they cost, and the bound by the encoder's own code."""
        found, joint = self.quantize(x), self._joint(x)
        own = joint.gather(1, found.codes.flatten()[:, None])[:, 0]
        return {
            "num_codes": self.config.num_codes,
            "used": float(found.used),
            "perplexity": float(found.perplexity),
            "bits": -float(self.log_prior()[found.codes.flatten()].mean()) / math.log(2),
            "rmse": float((self.centres()[found.codes.flatten()] - x).square().mean().sqrt()),
            "bound": float(own.mean()),
        }

    def _joint(self, x: Tensor) -> Tensor:
        """log P(k) + log N(x; D(e_k), exp(s)), (B, K) float64."""
        squared = (x.double()[:, None] - self.centres().double()).square().sum(2)
        s = self.log_variance.item()
        return self.log_prior().double() - 0.5 * squared * math.exp(-s) - s - math.log(2 * math.pi)

    def _nll(self, x: Tensor, x_hat: Tensor) -> Tensor:
        error = (x - x_hat).square().sum(1)
        return 0.5 * error * torch.exp(-self.log_variance) + self.log_variance + math.log(2 * math.pi)
