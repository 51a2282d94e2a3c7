"""GAN: the library's task, `training.tasks.gan.GanTask`, with a generator and a discriminator of points.

What was tried, for 1,200 steps (above the line) or 1,500, seed 0: modes found of 8, and the share of samples near one.

    game              r1, r2     z   waves   rate    found   near
    relativistic      0.02       4   3       1e-3    6       0.61
    relativistic      0.02       4   0       1e-3    8       0.49
    non-saturating    0.02, 0    4   3       2e-3    6       0.70
    ----
    relativistic      0.2        4   0       1e-3    8       0.58
    non-saturating    0.1, 0     4   0       2e-3    8       0.67
    relativistic      0.1        16  0       2e-3    8       0.54
    relativistic      0.1        4   2       2e-3    8       0.75
    relativistic      0.05       2   1       3e-3    8       0.85
    relativistic      0.1        2   1       3e-3    8       0.85
    relativistic      0.05       2   2       3e-3    8       0.86      seed 1: 8, 0.86; taken

A z of two numbers, as many as a point has, did more than any other change: of more, most directions are lost between modes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.conditioners.none import Unconditional
from sfumato.first_stages.base import Decoder
from sfumato.latent import Vector
from sfumato.studies.mixture.base import Evidence, Model
from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.fit import CURVE_POINTS, Budget, Curve, descend, optimizer
from sfumato.studies.mixture.modes import judge
from sfumato.studies.mixture.networks import PointDiscriminator, he, noise, perceptron
from sfumato.training.config import GanConfig
from sfumato.training.ema import Ema
from sfumato.training.tasks.gan import GanTask

SHOTS = (0.01, 0.03, 0.06, 0.12, 0.25, 0.5, 0.75)  # shares of the budget at which the film stops; and the end
SHOT_POINTS = 400


@dataclass(frozen=True)
class GanOfPoints:
    """dim: of z. octaves: of the waves that the discriminator sees. ema: decay
    of the generator's average, which is what is sampled."""

    gan: GanConfig = field(default_factory=lambda: GanConfig(game="relativistic", r1=0.05, r2=0.05))
    dim: int = 2
    width: int = 128
    depth: int = 3
    octaves: int = 2
    batch_size: int = 256
    learning_rate: float = 3e-3
    ema: float = 0.99


class PointGenerator(Decoder):
    """Noise -> a point."""

    def __init__(self, dim: int, width: int, depth: int):
        super().__init__()
        self.latent, self.channels, self.preview = Vector(dim), 1, None
        self.network = perceptron(dim, 2, width, depth, lambda: nn.LeakyReLU(0.2))
        he(self.network, 0.2)

    def decode(self, z: Tensor) -> Tensor:
        """(B, dim) -> (B, 2)."""
        return self.network(z)


@dataclass(frozen=True)
class Points:
    """The mixture as the task's source of data, without labels."""

    mixture: Mixture

    def batch(self, step: int, batch_size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, 2) fresh points, and (B,) zeros."""
        return self.mixture.sample(batch_size, rng), torch.zeros(batch_size, dtype=torch.int64)


@dataclass(frozen=True)
class Shot:
    """Where training stood: the step, what the averaged generator drew (N, 2), how many modes that is."""

    step: int
    points: Tensor
    found: int
    near: float


class Adversarial(Model):
    """x = G(z), z ~ N(0, 1): there is no log_prob."""

    evidence = Evidence.none

    def __init__(self, config: GanOfPoints | None = None):
        super().__init__()
        self.config = c = config or GanOfPoints()
        self.generator = PointGenerator(c.dim, c.width, c.depth)
        self.discriminator = PointDiscriminator(c.width, c.depth, c.octaves)
        self.film: list[Shot] = []
        self.balance: list[tuple[int, float]] = []

    def learn(self, mixture: Mixture, budget: Budget, rng: torch.Generator) -> Curve:
        """Both step at the same weights. The curve is the discriminator's loss; `film` and `balance` say how it went."""
        c, source = self.config, Points(mixture)
        task = GanTask(self.generator, Unconditional(), self.discriminator, c.gan, source)
        optimizers = {name: optimizer(group, (0.0, 0.99)) for name, group in task.parameters().items()}
        average, curve, every = Ema({"generator": self.generator}, c.ema), Curve(), max(1, budget.steps // CURVE_POINTS)
        shots = list(SHOTS)
        for step, spent in budget.walk():
            if shots and spent >= shots[0]:
                self._shoot(step, average, mixture, rng)
                shots.pop(0)
            x, prepared = source.batch(step, c.batch_size, rng)
            batch = {"x": x, "prepared": prepared}
            for name in optimizers:
                loss = task.loss(name, batch, step, rng)
                loss.total.backward()
                if name == "discriminator":
                    curve.add(step, float(loss.total.detach()), every)
                    if step % every == 0:
                        self.balance.append((step, float(loss.parts["gan/logit_gap"])))
            for adam in optimizers.values():
                descend(adam, c.learning_rate, spent)
            average.update(average.next_rate())
        self.generator.load_state_dict(average.modules["generator"].state_dict())
        self._shoot(step + 1, average, mixture, rng)
        return curve

    @torch.no_grad()
    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, 2)."""
        return self.generator.decode(noise((count, self.config.dim), rng))

    def details(self, mixture: Mixture, x: Tensor, rng: torch.Generator) -> dict[str, Any]:
        """The film: modes found and share near a mode by step, and the points of each shot."""
        film = [
            {"step": shot.step, "found": shot.found, "near": shot.near, "points": _rounded(shot.points)} for shot in self.film
        ]
        return {"film": film, "logit_gap": [(step, round(gap, 4)) for step, gap in self.balance if math.isfinite(gap)]}

    @torch.no_grad()
    def _shoot(self, step: int, average: Ema, mixture: Mixture, rng: torch.Generator) -> None:
        stage = average.modules["generator"]
        assert isinstance(stage, Decoder)
        points = stage.decode(noise((2000, self.config.dim), rng))
        modes = judge(points, mixture)
        self.film.append(Shot(step, points[:SHOT_POINTS], modes.found, modes.near))


def _rounded(points: Tensor) -> list[list[float]]:
    return [[round(v, 3) for v in row] for row in points.tolist()]
