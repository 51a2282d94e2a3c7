"""The diffusion prior of latent diffusion, with the paper's equations in order.

    x_t = alpha_t x_0 + sigma_t eps                                            forward process, section 3.2
    L   = E_{x_0, eps, t} || target - network(x_t, t, tau(y)) ||^2              eq. (2) and (3), here with a choice of target
    x_0_hat = w x_0_hat(y) + (1 - w) x_0_hat(null)                              guidance (Ho & Salimans 2022, arXiv 2207.12598)

(Rombach et al. 2021, arXiv 2112.10752.) The latent is called x_t here as in the paper on samplers; it is the first
stage's z in unit scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sfumato.conditioning import Conditioning, Twins
from sfumato.diffusion import prediction as predictions
from sfumato.diffusion.bounds import learned_term
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.forward import Learned, ReverseVariance, Variance, coefficients
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
from sfumato.samplers.ddpm import DDPM
from sfumato.samplers.known import Known

NetworkConfig = UNetConfig | HourglassConfig


@dataclass(frozen=True)
class DiffusionConfig:
    """Everything that training fixes. `loss`: l2 as in eq. (2), or the l1 of some of the published models.

    variance: of the reverse step, fixed by the sampler, or learned: then the network has twice the latent's channels, and the
    loss has `bound_weight` times the bound's terms beside it, which move the variance alone.
    """

    kind: ClassVar[str] = "diffusion"
    network: NetworkConfig
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    prediction: Prediction = Prediction.eps
    weighting: Weighting = Weighting.simple
    time_sampling: TimeSampling = TimeSampling.uniform
    loss: Literal["l2", "l1"] = "l2"
    variance: Literal["fixed", "learned"] = "fixed"
    bound_weight: float = 0.001

    def __post_init__(self) -> None:
        if not self.bound_weight > 0:
            raise InputError(f"bound_weight is {self.bound_weight}: expected above 0, such as the paper's 0.001.")


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
        self.denoiser = Denoiser(
            build_network(config.network), make_schedule(config.schedule), config.prediction, config.variance == "learned"
        )

    @property
    def network(self) -> nn.Module:
        """The denoising network."""
        return self.denoiser.network

    @property
    def variance(self) -> ReverseVariance:
        """Of the reverse step in the bound: what was learned, else the small one."""
        return Learned.learned if self.config.variance == "learned" else Variance.small

    def estimate(self, x_t: Tensor, t: Tensor, cond: Conditioning, clip: float | None = None) -> Tensor:
        """x_0 at x_t (B, ...), t (B,), as `diffusion.bounds` asks under `variance`; clamped to [-clip, clip]."""
        found = self.denoiser(x_t, t, cond)
        x_0: Tensor = found.x_0 if clip is None else found.x_0.clamp(-clip, clip)
        return torch.cat([x_0, found.share], dim=1) if self.config.variance == "learned" else x_0

    def loss(self, z: Tensor, cond: Conditioning, rng: torch.Generator | None) -> Loss:
        """Eq. (3): the squared error in the network's own output space, averaged over the batch and dimensions.

        With a learned variance L_simple + bound_weight L_vlb (arXiv 2102.09672, eq. 16), see `_bound`.
        """
        config, denoiser = self.config, self.denoiser
        t = sample_times(config.time_sampling, len(z), denoiser.schedule, rng, z.device)
        eps = torch.randn(z.shape, generator=rng, device=z.device, dtype=z.dtype)
        z_t = denoiser.noised(z, eps, t)
        output, share = denoiser.parts(denoiser.output(z_t, t, cond))
        error = output - denoiser.target(z, eps, t)
        each = (error.square() if config.loss == "l2" else error.abs()).flatten(1).mean(1)  # (B,)
        total = (each * weight(config.weighting, denoiser.schedule, config.prediction, t)).mean()
        parts = {"mse": each.detach().mean()}
        if share is not None:
            bound = self._bound(z, z_t, t, output, share)
            total, parts["bound"] = total + config.bound_weight * bound, bound.detach()
        return Loss(total, {"loss": total.detach(), **parts})

    def _bound(self, z: Tensor, z_t: Tensor, t: Tensor, output: Tensor, share: Tensor) -> Tensor:
        """L_vlb = T E_t[L_{t-1}] in bits per dimension, with no gradient to the mean, (); without the last step, whose
        variance no sampler asks for, since it adds no noise."""
        schedule = self.denoiser.schedule
        exact = (t.cpu() if t.device.type == "mps" else t).double()
        noisy = (exact > 1.5 / schedule.num_steps).to(z.device)  # every step but the last
        exact = exact.clamp(min=2 / schedule.num_steps)
        c = coefficients(schedule, exact - 1 / schedule.num_steps, exact)
        estimate = predictions.to_x0(self.denoiser.prediction, output.detach(), z_t.float(), *schedule(t))
        terms = learned_term(c, z.float(), estimate, share) * noisy
        return schedule.num_steps * terms.mean() / (z[0].numel() * math.log(2))

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
        if _asks_variance(sampler):
            if not self.denoiser.learns_variance:
                raise InputError("DDPM's learned variance: this model has learned none; use the small or the large one.")
            if known is not None or settings.guide is not None:
                raise InputError("DDPM's learned variance goes with no known part and no guide; use the small or large one.")
        if known is not None:
            known.check(x)
            sampler = known.around(sampler)
        walk = sampler.steps(schedule, plan, x, noise)
        total = sampler.num_calls(len(plan) - 1)
        x_t, t = next(walk)
        for index in range(total):
            sent = estimate(x_t, t)
            x_0 = sent[:, : x_t.shape[1]]  # without v
            try:
                x_t, t = walk.send(sent)
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
            if _asks_variance(settings.sampler):
                assert guided.share is not None
                return torch.cat([x_0, guided.share], dim=1)
            return x_0 if known is None else known.merged(x_0)

        def moved(x_t: Tensor, t: Tensor) -> Tensor:
            assert guide is not None
            x_0 = guide(estimate, x_t, t, self.denoiser.schedule)
            return x_0 if known is None else known.merged(x_0)

        return estimate if guide is None else moved


def _asks_variance(sampler: Sampler) -> bool:
    return isinstance(sampler, DDPM) and isinstance(sampler.variance, Learned)
