"""The learned reverse variance: between small and large, its best value known for Gaussian data, trained without the mean."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato import config as configs
from sfumato.build import build_first_stage, build_prior
from sfumato.conditioning import Conditioning
from sfumato.diffusion.bounds import bound, every_step, learned_term, step_term
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.forward import Learned, Variance, coefficients, learned_variance, marginal, posterior, reverse
from sfumato.diffusion.guidance import GuidedDenoiser
from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import ScheduleConfig, make_schedule
from sfumato.errors import InputError
from sfumato.first_stages.identity import IdentityConfig
from sfumato.generation.settings import settings_for
from sfumato.interop.export import diffusion_of
from sfumato.io.pretrained import SamplingDefaults
from sfumato.latent import Grid
from sfumato.networks.unet import UNetConfig
from sfumato.noise import PictureNoise, SharedNoise
from sfumato.priors.diffusion import DiffusionConfig, DiffusionPrior, DiffusionSettings
from sfumato.recipes import RECIPES
from sfumato.samplers import DDIM, DDPM, run
from sfumato.samplers.known import Known
from sfumato.training.stages import key
from tiny_runs import awaken

SCHEDULE = make_schedule(ScheduleConfig())
NONE = Conditioning()
LEARNED = DDPM(variance=Learned.learned)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def at(t: float) -> Tensor:
    return torch.tensor([t], dtype=torch.float64)


def test_it_lies_between_the_small_and_the_large() -> None:
    small, large = torch.tensor([0.01, 0.02]), torch.tensor([0.04, 0.5])
    for v, wanted in ((0.0, small), (1.0, large), (0.5, (small * large).sqrt())):
        found = learned_variance(small, large, torch.full((2, 3), v))
        torch.testing.assert_close(found, wanted[:, None].expand(2, 3))


@pytest.mark.parametrize(("t", "s"), [(0.5, 0.499), (0.9, 0.6), (0.01, 0.002)])
def test_a_term_is_the_divergence_of_both_gaussians(t: float, s: float) -> None:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of `forward`; at v = 0 and 1 the fixed variances' own."""
    g = rng()
    x_0, x_0_hat = torch.randn(3, 2, 4, generator=g).double(), torch.randn(3, 2, 4, generator=g).double()
    x_t, v = torch.randn(3, 2, 4, generator=g).double(), torch.rand(3, 2, 4, generator=g).double()
    q = posterior(SCHEDULE, x_t, x_0, at(s), at(t))
    p = reverse(SCHEDULE, x_t, x_0_hat, at(s), at(t), Learned.learned, v)
    torch.testing.assert_close(step_term(SCHEDULE, x_0, x_0_hat, at(s), at(t), Learned.learned, v), q.kl(p))
    for kind, value in ((Variance.small, 0.0), (Variance.large, 1.0)):
        found = step_term(SCHEDULE, x_0, x_0_hat, at(s), at(t), Learned.learned, torch.full_like(v, value))
        torch.testing.assert_close(found, step_term(SCHEDULE, x_0, x_0_hat, at(s), at(t), kind))


@pytest.mark.parametrize("deviation", [0.3, 0.8])
def test_the_best_variance_is_that_of_the_reverse_process(deviation: float) -> None:
    """For x_0 ~ N(0, d^2) Var(x_s | x_t) is known; the term over 200,000 draws has its minimum in v there, to 2 %."""
    t, s = at(0.5), at(0.45)
    x_0 = deviation * torch.randn(200_000, 1, generator=rng()).double()
    alpha, sigma = SCHEDULE(t)
    x_t = alpha * x_0 + sigma * torch.randn(200_000, 1, generator=rng(1)).double()
    gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)  # E[x_0 | x_t] = gain x_t
    c = coefficients(SCHEDULE, s, t)
    exact = c.posterior + c.of_x_0**2 * (deviation**2 - gain * alpha * deviation**2)  # of q(x_s | x_t) by total variance
    v = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([v], max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = learned_term(c, x_0, gain * x_t, v.expand_as(x_0)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    assert 0 < v.item() < 1
    torch.testing.assert_close(learned_variance(c.posterior, c.fresh, v.detach())[0], exact, rtol=0.02, atol=0)


@pytest.mark.parametrize(("v", "fixed"), [(0.0, Variance.small), (1.0, Variance.large)])
def test_the_sampler_at_its_ends_is_the_fixed_one(v: float, fixed: Variance) -> None:
    times, x = torch.linspace(1, 0, 8, dtype=torch.float64), torch.randn(2, 3, 4, generator=rng()).double()

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return 0.3 * x_t

    def with_share(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.cat([0.3 * x_t, torch.full_like(x_t, v)], dim=1)

    found = run(LEARNED, SCHEDULE, times, x, PictureNoise([1, 2]), with_share)
    wanted = run(DDPM(variance=fixed), SCHEDULE, times, x, PictureNoise([1, 2]), denoise)
    torch.testing.assert_close(found, wanted)


def test_one_step_has_the_learned_spread() -> None:
    """Over 100,000 draws: mean and variance of `forward.reverse`, each number with its own v."""
    times = torch.tensor([0.6, 0.4, 0.0], dtype=torch.float64)
    x = torch.full((100_000, 2), 0.7)
    v = torch.tensor([0.2, 0.9]).expand(100_000, 2)
    walk = LEARNED.steps(SCHEDULE, times, x, SharedNoise(rng()))
    next(walk)
    x_s, _ = walk.send(torch.cat([0.5 * x, v], dim=1))
    p = reverse(SCHEDULE, x[:1].double(), 0.5 * x[:1].double(), at(0.4), at(0.6), Learned.learned, v[:1].double())
    torch.testing.assert_close(x_s.double().mean(0), p.mean[0], atol=0.01, rtol=0)
    torch.testing.assert_close(x_s.double().var(0), p.variance[0], atol=0, rtol=0.02)


def prior(**changes: Any) -> DiffusionPrior:
    torch.manual_seed(0)
    network = UNetConfig(3, 6, channels=16, multipliers=(1,), num_res_blocks=1, attention_factors=(), head_channels=8)
    made = DiffusionPrior(DiffusionConfig(network, variance="learned", **changes), Grid(3, 1))
    awaken(made)
    return made


@pytest.mark.parametrize("prediction", [Prediction.eps, Prediction.v])
def test_the_loss_is_simple_and_a_little_of_the_bound(prediction: Prediction) -> None:
    """By hand at the same draws: T L_{t-1} in bits, v = (raw + 1) / 2, nothing for the step without noise."""
    made = prior(prediction=prediction, bound_weight=0.01)
    z = torch.randn(6, 3, 4, 4, generator=rng(1))
    loss = made.loss(z, NONE, rng(2))
    torch.testing.assert_close(loss.total.detach(), loss.parts["mse"] + 0.01 * loss.parts["bound"])
    g = rng(2)
    t = torch.ceil((1 - torch.rand(6, generator=g, dtype=torch.float64)) * 1000 - 1e-9).clamp(1, 1000) / 1000
    eps = torch.randn(z.shape, generator=g)
    made.denoiser.eval()
    x_t = marginal(made.denoiser.schedule, z, t).mean + made.denoiser.schedule(t)[1].float().view(-1, 1, 1, 1) * eps
    with torch.no_grad():
        denoised = made.denoiser(x_t, t.float(), NONE)
    assert denoised.share is not None
    rows = zip(z.split(1), denoised.x_0.split(1), denoised.share.split(1), t.tolist(), strict=True)
    each = [step_term(SCHEDULE, x, x_hat, at(s) - 0.001, at(s), Learned.learned, v) for x, x_hat, v, s in rows]
    wanted = 1000 * torch.cat(each).mean() / (48 * math.log(2))
    torch.testing.assert_close(loss.parts["bound"].double(), wanted, rtol=1e-3, atol=1e-6)


class Halves(nn.Module):
    """Two numbers, so that gradients of both halves of the output are told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.2))

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        return torch.cat([self.mean * x, self.spread * torch.ones_like(x)], dim=1)


def test_the_bound_moves_the_variance_alone_and_the_error_the_mean_alone() -> None:
    made = prior()
    halves = Halves()
    made.denoiser = Denoiser(halves, SCHEDULE, Prediction.eps, learns_variance=True)
    z = torch.randn(4, 3, 4, 4, generator=rng(1))
    both = made.loss(z, NONE, rng(2)).total
    mean, spread = torch.autograd.grad(both, [halves.mean, halves.spread])
    heavy = dataclasses.replace(made.config, bound_weight=10 * made.config.bound_weight)
    made.config = heavy
    more_mean, more_spread = torch.autograd.grad(made.loss(z, NONE, rng(2)).total, [halves.mean, halves.spread])
    torch.testing.assert_close(more_mean, mean)
    torch.testing.assert_close(more_spread, 10 * spread)
    assert spread != 0


def test_the_last_step_has_no_term() -> None:
    made = prior(schedule=ScheduleConfig(num_steps=2))
    z = torch.randn(64, 3, 4, 4, generator=rng(1))
    loss = made.loss(z, NONE, rng(3))
    assert loss.parts["bound"].isfinite()
    assert loss.parts["bound"] > 0


@torch.no_grad()
def test_it_samples_by_its_own_variance_or_a_fixed_one() -> None:
    made = prior()
    pictures = []
    for sampler in (LEARNED, DDPM(), DDIM()):
        settings = DiffusionSettings(sampler=sampler, num_steps=4)
        steps = list(made.steps((2, 3, 4, 4), [(NONE, 1.0)], settings, PictureNoise([1, 2])))
        assert all(step.z_0.shape == step.z_t.shape == (2, 3, 4, 4) for step in steps)
        pictures.append(steps[-1].z_t)
    assert pictures[0].isfinite().all()
    assert not torch.allclose(pictures[0], pictures[1])
    chosen = settings_for(made, SamplingDefaults(sampler="ddpm", spacing=None, steps=4, guidance=1.0))
    assert chosen.sampler == LEARNED
    assert settings_for(made, SamplingDefaults(sampler="ddim", spacing=None, steps=4, guidance=1.0)).sampler == DDIM()


@torch.no_grad()
def test_guidance_takes_the_first_conditions_variance() -> None:
    made = prior()
    x, t = torch.randn(2, 3, 4, 4, generator=rng()), torch.full((2,), 0.5)
    guided = GuidedDenoiser(made.denoiser, [(NONE, 3.0), (NONE, -2.0)])
    guided(x, t)
    assert guided.share is not None
    wanted = made.denoiser(x, t, NONE).share
    assert wanted is not None
    torch.testing.assert_close(guided.share, wanted)


@torch.no_grad()
def test_its_bound_is_lower_with_the_right_variance() -> None:
    """For N(0, 0.5^2) data and the exact denoiser: v from the known Var(x_s | x_t) beats both fixed variances."""
    schedule = make_schedule(ScheduleConfig(num_steps=20))
    plan, deviation = every_step(schedule), 0.5
    x_0 = deviation * torch.randn(4000, 1, 2, generator=rng()).double()

    def gain_at(t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(t.double()[:1])
        gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
        return gain, deviation**2 - gain * alpha * deviation**2

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        return gain_at(t)[0] * x_t

    def with_share(x_t: Tensor, t: Tensor) -> Tensor:
        gain, rest = gain_at(t)
        s = (t.double()[:1] - 1 / 20).clamp(min=0)
        c = coefficients(schedule, s, t.double()[:1])
        v = ((c.posterior + c.of_x_0**2 * rest) / c.posterior).log() / (c.fresh / c.posterior).log() if s > 0 else at(0.0)
        return torch.cat([gain * x_t, v.expand_as(x_t)], dim=1)

    rates = {
        kind: bound(
            with_share if kind is Learned.learned else estimate, schedule, x_0, SharedNoise(rng(1)), times=plan, variance=kind,
            eight_bit=False,
        ).rate.mean().item()
        for kind in (*Variance, Learned.learned)
    }  # fmt: skip
    assert rates[Learned.learned] < min(rates[Variance.small], rates[Variance.large])


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    made = prior()
    z = torch.zeros(1, 3, 4, 4)
    known = DiffusionSettings(sampler=LEARNED, num_steps=2, known=Known(z, torch.ones(1, 1, 4, 4)))
    with pytest.raises(InputError, match="no known part"):
        made.sample((1, 3, 4, 4), [(NONE, 1.0)], known, PictureNoise([1]))
    fixed_config = dataclasses.replace(
        made.config, variance="fixed", network=dataclasses.replace(made.config.network, out_channels=3)
    )
    fixed = DiffusionPrior(fixed_config, Grid(3, 1))
    with pytest.raises(InputError, match="has learned none"):
        fixed.sample((1, 3, 4, 4), [(NONE, 1.0)], DiffusionSettings(sampler=LEARNED, num_steps=2), PictureNoise([1]))
    with pytest.raises(InputError, match="bound_weight is 0"):
        dataclasses.replace(made.config, bound_weight=0)
    first = build_first_stage(IdentityConfig(3))
    assert isinstance(build_prior(made.config, first), DiffusionPrior)
    with pytest.raises(InputError, match="expected twice as many"):
        build_prior(dataclasses.replace(fixed_config, variance="learned"), first)
    model = dataclasses.replace(RECIPES["family-ddpm-tiny"]().prior.model, variance="learned")
    with pytest.raises(InputError, match="no published form"):
        diffusion_of(type("Shape", (), {"prior": model})())
    assert configs.from_dict(DiffusionConfig, configs.to_dict(made.config)) == made.config


def test_keys_of_older_runs_are_kept() -> None:
    """The hexadecimal number is what the code before these fields gave."""
    config = DiffusionConfig(UNetConfig(3, 3))
    assert key(config) == OLD_KEY
    assert key(dataclasses.replace(config, variance="learned")) != OLD_KEY


OLD_KEY = "3223bda4e675b134"
