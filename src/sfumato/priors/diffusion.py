"""The diffusion prior of latent diffusion, with the paper's equations in order.

    x_t = alpha_t x_0 + sigma_t eps                                            forward process, section 3.2
    L   = E_{x_0, eps, t} || target - network(x_t, t, tau(y)) ||^2              eq. (2) and (3), here with a choice of target
    x_0_hat = w x_0_hat(y) + (1 - w) x_0_hat(null)                              guidance (Ho & Salimans 2022, arXiv 2207.12598)

(Rombach et al. 2021, arXiv 2112.10752.) The latent is called x_t here as in the paper on samplers; it is the first
stage's z in unit scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sfumato.conditioning import Conditioning, Twins
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.grids import Spacing, times
from sfumato.diffusion.guidance import Guidance, GuidedDenoiser
from sfumato.diffusion.guide import Estimate, Guide
from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import ScheduleConfig, make_schedule
from sfumato.diffusion.weighting import TimeSampling, Weighting, sample_times, weight
from sfumato.errors import InputError
from sfumato.latent import Grid
from sfumato.networks.hourglass import Hourglass, HourglassConfig
from sfumato.networks.unet import UNet, UNetConfig
from sfumato.noise import NoiseSource
from sfumato.priors.base import Loss, Prior, Step
from sfumato.samplers import SAMPLERS
from sfumato.samplers.base import Sampler
from sfumato.samplers.known import Known

NetworkConfig = UNetConfig | HourglassConfig


@dataclass(frozen=True)
class DiffusionConfig:
    """Everything that training fixes. `loss`: l2 as in eq. (2), or the l1 of some of the published models."""

    kind: ClassVar[str] = "diffusion"
    network: NetworkConfig
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    prediction: Prediction = Prediction.eps
    weighting: Weighting = Weighting.simple
    time_sampling: TimeSampling = TimeSampling.uniform
    loss: Literal["l2", "l1"] = "l2"


@dataclass(frozen=True, eq=False)
class Start:
    """Begin from a noised latent instead of pure noise (SDEdit: Meng et al. 2021, arXiv 2108.01073).

    z_0: (1 or B, C, h, w) in unit scale. strength: the share of the plan's steps that is walked, above 0 to 1; from
    x_t = alpha_t z_0 + sigma_t eps at the first of them. Raises `InputError` for another strength.
    """

    z_0: Tensor
    strength: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise InputError(f"strength: got {self.strength}, expected above 0 (nothing changes) to 1 (everything may).")

    def plan(self, times: Tensor) -> Tensor:
        """The last steps of a plan (N + 1,), at least one: (n + 1,)."""
        num_steps = len(times) - 1
        return times[num_steps - max(1, round(self.strength * num_steps)) :]


@dataclass(frozen=True)
class DiffusionSettings:
    """How to sample. `spacing` None takes the sampler's own; `start` None is pure noise.

    known: the part of the latent that stays (inpainting without training). guide: a score whose gradient moves the estimates.
    """

    sampler: Sampler = SAMPLERS["dpmpp_2m"]
    num_steps: int = 20
    spacing: Spacing | None = None
    guidance: Guidance = field(default_factory=Guidance)
    start: Start | None = None
    known: Known | None = None
    guide: Guide | None = None


def build_network(config: NetworkConfig) -> nn.Module:
    """The denoising network with random weights."""
    match config:
        case UNetConfig():
            return UNet(config)
        case HourglassConfig():
            return Hourglass(config)


class DiffusionPrior(Prior[DiffusionSettings]):
    """p(z | cond) by denoising, over a `Grid` of latents."""

    latent: Grid

    def __init__(self, config: DiffusionConfig, latent: Grid):
        super().__init__()
        self.config = config
        self.latent = latent
        self.denoiser = Denoiser(build_network(config.network), make_schedule(config.schedule), config.prediction)

    @property
    def network(self) -> nn.Module:
        """The denoising network."""
        return self.denoiser.network

    def loss(self, z: Tensor, cond: Conditioning, rng: torch.Generator | None) -> Loss:
        """Eq. (3): the squared error in the network's own output space, averaged over the batch and dimensions."""
        config, denoiser = self.config, self.denoiser
        t = sample_times(config.time_sampling, len(z), denoiser.schedule, rng, z.device)
        eps = torch.randn(z.shape, generator=rng, device=z.device, dtype=z.dtype)
        output = denoiser.output(denoiser.noised(z, eps, t), t, cond).float()
        error = output - denoiser.target(z, eps, t)
        each = (error.square() if config.loss == "l2" else error.abs()).flatten(1).mean(1)  # (B,)
        total = (each * weight(config.weighting, denoiser.schedule, config.prediction, t)).mean()
        return Loss(total, {"loss": total.detach(), "mse": each.detach().mean()})

    def steps(self, shape: Sequence[int], twins: Twins, settings: DiffusionSettings, noise: NoiseSource) -> Iterator[Step]:
        """From pure noise at t = 1, or from `settings.start`, to a clean latent; one `Step` a call of the guided denoiser."""
        schedule, sampler, known = self.denoiser.schedule, settings.sampler, settings.known
        plan = times(settings.spacing or sampler.spacing, schedule, settings.num_steps)
        estimate = self._estimate(twins, settings)
        x = noise(torch.empty(tuple(shape), device=next(self.parameters()).device))
        if settings.start is not None:
            plan = settings.start.plan(plan)
            z_0 = settings.start.z_0.to(x).expand_as(x)
            x = self.denoiser.noised(z_0, x, plan[:1].to(x).expand(len(x)))
        if known is not None:
            known.check(x)
            sampler = known.around(sampler)
        walk = sampler.steps(schedule, plan, x, noise)
        total = sampler.num_calls(len(plan) - 1)
        x_t, t = next(walk)
        for index in range(total):
            x_0 = estimate(x_t, t)
            try:
                x_t, t = walk.send(x_0)
            except StopIteration as stop:
                yield Step(index, total, stop.value, x_0)
                return
            yield Step(index, total, x_t, x_0)

    def _estimate(self, twins: Twins, settings: DiffusionSettings) -> Estimate:
        """(x_t, t) -> x_0 under `twins`, with what is known in its place, moved by the guide."""
        known, guide = settings.known, settings.guide
        if guide is None:
            guided = GuidedDenoiser(self.denoiser, twins, settings.guidance)
        else:
            with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode cannot be part of a gradient
                twins = [(cond.map(torch.clone), weight) for cond, weight in twins]
                guided = GuidedDenoiser(self.denoiser, twins, settings.guidance)

        def estimate(x_t: Tensor, t: Tensor) -> Tensor:
            x_0 = guided(x_t, t)
            return x_0 if known is None else known.merged(x_0)

        def moved(x_t: Tensor, t: Tensor) -> Tensor:
            assert guide is not None
            x_0 = guide(estimate, x_t, t, self.denoiser.schedule)
            return x_0 if known is None else known.merged(x_0)

        return estimate if guide is None else moved
