"""VAE: a KL first stage of two numbers behind the normal prior, trained with the whole weight of its KL term.

    log p(x) = L(x) + KL(q(z | x) || p(z | x)),   L = E_q log p(x | z) - KL(q(z | x) || p(z))

(Kingma & Welling 2013, arXiv 1312.6114, eq. 1 to 3.) With two latent numbers log p(x) is an integral over a plane, which is
done here by a sum over a fine grid: so that the gap between the bound and the truth is measured and not only named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.conditioning import Conditioning
from sfumato.evaluation.importance import importance_bound
from sfumato.first_stages.base import FirstStage
from sfumato.latent import Vector
from sfumato.losses.likelihood import GaussianLikelihood
from sfumato.noise import SharedNoise
from sfumato.posterior import DiagonalGaussian
from sfumato.priors.normal import NormalConfig, NormalPrior, NormalSettings
from sfumato.studies.mixture.base import Evidence, Model
from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.fit import Budget, Curve, fit
from sfumato.studies.mixture.networks import noise, perceptron

NOTHING = Conditioning()


@dataclass(frozen=True)
class StageOfPoints:
    """kl_weight: 1 is the VAE. num_samples: draws of the importance-weighted bound. grid: points a side of the integral over
    z, within +- reach."""

    width: int = 128
    depth: int = 3
    kl_weight: float = 1.0
    batch_size: int = 512
    learning_rate: float = 2e-3
    num_samples: int = 200
    grid: int = 401
    reach: float = 5.0


class PointStage(FirstStage):
    """q(z | x) and p(x | z) = N(x; D(z), exp(s)), z (B, 2) in the units that it learns, then standardised."""

    shift: Tensor
    scale: Tensor

    def __init__(self, config: StageOfPoints):
        super().__init__()
        self.latent, self.channels, self.preview = Vector(2), 1, None
        self.encoder = perceptron(2, 4, config.width, config.depth)
        self.decoder = perceptron(2, 2, config.width, config.depth)
        self.log_variance = nn.Parameter(torch.zeros(()))
        self.register_buffer("shift", torch.zeros(2))
        self.register_buffer("scale", torch.ones(2))

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """(B, 2) -> q(z | x)."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return DiagonalGaussian(mean, log_variance.clamp(-30.0, 20.0)).affine(self.shift, self.scale)

    def decode(self, z: Tensor) -> Tensor:
        """(B, 2) -> D(z), (B, 2)."""
        return self.decoder(z * self.scale + self.shift)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Store what standardises the latents, (2,) each."""
        self.shift.copy_(mean)
        self.scale.copy_(std)

    @property
    def last_layer(self) -> nn.Parameter:
        weight = self.decoder[-1].weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def likelihood(self) -> GaussianLikelihood:
        """p(x | z) with the learned variance."""
        return GaussianLikelihood(self.log_variance.item())

    def loss(self, x: Tensor, kl_weight: float, rng: torch.Generator) -> Tensor:
        """-E_q log p(x | z) + weight KL, averaged over the batch, in nats a point."""
        posterior = self.posterior(x)
        error = (x - self.decode(posterior.sample(rng))).square().sum(1)
        nll = 0.5 * error * torch.exp(-self.log_variance) + self.log_variance + math.log(2 * math.pi)  # of two numbers
        return (nll + kl_weight * posterior.kl()).mean()

    @torch.no_grad()
    def draw(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """x ~ p(x | z)."""
        return self.decode(z) + torch.exp(0.5 * self.log_variance) * noise((len(z), 2), rng)


class Variational(Model):
    """x ~ p(x | z), z ~ N(0, 1); log_prob is the importance-weighted bound."""

    evidence = Evidence.bound

    def __init__(self, config: StageOfPoints | None = None):
        super().__init__()
        self.config = config or StageOfPoints()
        self.stage = PointStage(self.config)
        self.prior = NormalPrior(NormalConfig(), Vector(2))

    def learn(self, mixture: Mixture, budget: Budget, rng: torch.Generator) -> Curve:
        """Descend -L(x)."""

        def loss(step: int) -> Tensor:
            return self.stage.loss(mixture.sample(self.config.batch_size, rng), self.config.kl_weight, rng)

        return fit(loss, self.stage.parameters(), budget, self.config.learning_rate, fast=[self.stage.log_variance])

    @torch.no_grad()
    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, 2): the noise of p(x | z) belongs to the model, though pictures are usually shown without it."""
        z = self.prior.sample((count, 2), [(NOTHING, 1.0)], NormalSettings(), SharedNoise(rng))
        return self.stage.draw(z, rng)

    def log_prob(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """L_K of (B, 2): (B,) nats."""
        found = importance_bound(self.stage, self.prior, x, NOTHING, self.stage.likelihood(), self.config.num_samples, rng)
        return found.bound

    @torch.no_grad()
    def integral(self, x: Tensor) -> Tensor:
        """log p(x) = log of the integral of p(x | z) p(z), by a sum over a grid of z: (B,) nats, float64."""
        side = torch.linspace(-self.config.reach, self.config.reach, self.config.grid)
        z = torch.cartesian_prod(side, side)
        weight = self.prior.log_prob(z, NOTHING).double() + 2 * math.log(float(side[1] - side[0]))
        decoded, s = self.stage.decode(z).double(), self.stage.log_variance.item()
        norm = s + math.log(2 * math.pi)
        values = []
        for part in x.double().split(32):
            squared = torch.cdist(part, decoded).square()  # (b, grid^2)
            values.append(torch.logsumexp(weight - 0.5 * squared * math.exp(-s) - norm, 1))
        return torch.cat(values)

    def details(self, mixture: Mixture, x: Tensor, rng: torch.Generator) -> dict[str, Any]:
        """Of 512 points: the integral, the bound by one draw and by K, and the gap KL(q(z | x) || p(z | x))."""
        x = x[:512]
        found = importance_bound(self.stage, self.prior, x, NOTHING, self.stage.likelihood(), self.config.num_samples, rng)
        truth = self.integral(x)
        gap = truth - found.elbo
        return {
            "points": len(x),
            "num_samples": self.config.num_samples,
            "integral": float(truth.mean()),
            "bound": float(found.bound.mean()),
            "elbo": float(found.elbo.mean()),
            "gap": float(gap.mean()),
            "gap_error": float(gap.std()) / math.sqrt(len(x)),
            "decoder_sigma": math.exp(0.5 * self.stage.log_variance.item()),
        }
