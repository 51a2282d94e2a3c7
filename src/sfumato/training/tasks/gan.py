"""A GAN: the generator against a discriminator of whole pictures.

    z = [eps, e(y)],   eps ~ N(0, I),   x_hat = G(z)
    L_G = g(D(x_hat, y))
    L_D = d(D(x, y), D(x_hat, y)) + r1 R1 + r2 R2,       R = 1/2 E ||grad_x D(x, y)||^2 at real (1) or generated (2) pictures

The games d and g are in `sfumato.losses.adversarial`. Penalties: Mescheder et al. 2018 (arXiv 1801.04406, Sec. 4.1), only
at every `penalty_every`-th step and that much heavier after Karras et al. 2019 (arXiv 1912.04958, Sec. 3.1). Both losses are
taken at the same weights, then both step: simultaneous descent, for which that paper's convergence is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from sfumato.conditioners.base import Conditioner, Prepared
from sfumato.data.order import batch_indices
from sfumato.errors import InputError
from sfumato.first_stages.base import Decoder
from sfumato.latent import Vector
from sfumato.losses.adversarial import Game, gauges, gradient_penalty
from sfumato.priors.base import Loss
from sfumato.training.conditions import ConditionSource, Pixels
from sfumato.training.config import GanConfig, OptimConfig
from sfumato.training.tasks.base import Batch, Task


class Pairs(Protocol):
    """Real pictures (B, ...) and what is said of them, (B, ...) prepared, on the device, as functions of the step."""

    def batch(self, step: int, batch_size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]: ...


class LabelledPixels:
    """The pictures of a data set with their conditions. `flip`: mirror half of them."""

    def __init__(self, pixels: Pixels, conditions: ConditionSource, seed: int, flip: bool = False):
        self.pixels, self.conditions, self.seed, self.flip = pixels, conditions, seed, flip

    def batch(self, step: int, batch_size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) fp32 in [-1, 1] and prepared conditions (B, ...)."""
        device = self.pixels.device
        index = batch_indices(len(self.pixels.dataset), batch_size, self.seed, step).to(device)
        side = torch.randint(1 + self.flip, (batch_size,), generator=rng, device=device)
        prepared: Prepared = self.conditions.batch(index, side, rng)
        assert isinstance(prepared, Tensor), "a GAN is told one thing"
        return self.pixels(index, side), prepared


class GanTask(Task):
    """Optimizers "generator" (with the conditioner's embeddings, which are a part of z) and "discriminator".

    discriminator: (x, prepared) -> (B,) logits. The average is of the generator and the conditioner. Raises `InputError`
    where z has no room for noise beside the conditioner's vector.
    """

    name = "gan"
    section = "first_stage"  # a generator is one

    def __init__(
        self,
        first_stage: Decoder,
        conditioner: Conditioner[Any, Tensor],
        discriminator: nn.Module,
        config: GanConfig,
        source: Pairs,
    ):
        self.first_stage, self.conditioner, self.discriminator = first_stage, conditioner, discriminator
        self.config, self.source, self.game = config, source, Game(config.game)
        if not isinstance(first_stage.latent, Vector):
            raise InputError(f"gan: the first stage has latents {first_stage.latent}; expected a generator's, a Vector.")
        device = next(conditioner.parameters(), torch.empty(0)).device
        with torch.no_grad():
            said = conditioner(conditioner.null(1).to(device))
        if said.context is not None or said.concat is not None:
            raise InputError(
                "gan: the conditioner gives a context or a map; expected one vector (class labels: as_context=false)."
            )
        self.noise_dim = first_stage.latent.dim - (0 if said.vector is None else said.vector.shape[1])
        if self.noise_dim < 1:
            raise InputError(f"gan: latents of {first_stage.latent.dim} numbers leave none for noise; make dim larger.")

    def modules(self) -> Mapping[str, nn.Module]:
        return {**self.averaged(), "discriminator": self.discriminator}

    def averaged(self) -> Mapping[str, nn.Module]:
        return {"first_stage": self.first_stage, "conditioner": self.conditioner}

    def parameters(self) -> Mapping[str, list[Parameter]]:
        return {
            "generator": [*self.first_stage.parameters(), *self.conditioner.parameters()],
            "discriminator": list(self.discriminator.parameters()),
        }

    def compile(self) -> None:
        for child in self.first_stage.children():
            child.compile(dynamic=False)
        if not (self.config.r1 or self.config.r2):  # compiled networks have no second derivative
            self.discriminator.compile(dynamic=False)

    def learning_rate(self, name: str, config: OptimConfig) -> float:
        other = self.config.discriminator_learning_rate
        return other if name == "discriminator" and other > 0 else config.learning_rate

    def active(self, name: str, step: int) -> bool:
        return name == "discriminator" or step % self.config.generator_every == 0

    def phase(self, step: int) -> tuple[bool, bool]:
        return self.active("generator", step), self._penalised(step)

    def work(self, step: int) -> str:
        return "penalised" if self._penalised(step) and (self.config.r1 or self.config.r2) else ""

    def batch(self, step: int, config: OptimConfig, rng: torch.Generator) -> Batch:
        x, prepared = self.source.batch(step, config.batch_size, rng)
        return {"x": x, "prepared": prepared}

    def loss(self, name: str, batch: Batch, step: int, rng: torch.Generator) -> Loss:
        if name == "discriminator":
            return self._discriminator_loss(batch["x"], batch["prepared"], step, rng)
        return self._generator_loss(batch["x"], batch["prepared"], rng)

    def generate(self, prepared: Tensor, rng: torch.Generator) -> Tensor:
        """x_hat (B, ...) of fresh noise and the conditions (B, ...)."""
        z = torch.randn(len(prepared), self.noise_dim, generator=rng, device=prepared.device)
        vector = self.conditioner(prepared).vector
        return self.first_stage.decode(z if vector is None else torch.cat([z, vector], dim=1))

    def _generator_loss(self, x: Tensor, prepared: Tensor, rng: torch.Generator) -> Loss:
        with frozen(self.discriminator):
            fake = self.discriminator(self.generate(prepared, rng), prepared)
            real = self.discriminator(x, prepared) if self.game is Game.RELATIVISTIC else None
        total = self.game.g(fake, real)
        return Loss(total, {"gan/g": total.detach()})

    def _discriminator_loss(self, x: Tensor, prepared: Tensor, step: int, rng: torch.Generator) -> Loss:
        with torch.no_grad():
            x_hat = self.generate(prepared, rng)
        now, config = self._penalised(step), self.config
        x = x.detach().requires_grad_(now and config.r1 > 0)
        x_hat = x_hat.detach().float().requires_grad_(now and config.r2 > 0)
        real, fake = self.discriminator(x, prepared), self.discriminator(x_hat, prepared)
        total = self.game.d(real, fake)
        parts = {"gan/d": total.detach(), **{f"gan/{k}": v for k, v in gauges(real, fake).items()}}
        for name, weight, logits, at in (("r1", config.r1, real, x), ("r2", config.r2, fake, x_hat)):
            if at.requires_grad:
                penalty = gradient_penalty(logits, at)
                total = total + config.penalty_every * weight * penalty
                parts[f"gan/{name}"] = penalty.detach()
        return Loss(total, parts)

    def _penalised(self, step: int) -> bool:
        return step % self.config.penalty_every == 0


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """What is computed inside leaves no gradient at the module's parameters; its inputs get theirs."""
    before = [(p, p.requires_grad) for p in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
