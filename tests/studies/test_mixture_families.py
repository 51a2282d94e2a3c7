"""Each family against what theory says of it: likelihoods that integrate to one, bounds that are bounds, and eight modes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sfumato.conditioning import Conditioning
from sfumato.networks.coupling import CouplingConfig
from sfumato.studies.mixture.adversarial import Adversarial
from sfumato.studies.mixture.autoregressive import Autoregressive, CodesOfPoints
from sfumato.studies.mixture.base import Model
from sfumato.studies.mixture.coupling import Flow, FlowOfPoints
from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.diffusion import RECTIFIED, DenoiserOfPoints, Diffusion, Rectified
from sfumato.studies.mixture.fit import Budget
from sfumato.studies.mixture.latent import LatentDiffusion
from sfumato.studies.mixture.modes import judge
from sfumato.studies.mixture.quantized import CodebookOfPoints, Quantizing
from sfumato.studies.mixture.run import FAMILIES, one
from sfumato.studies.mixture.variational import StageOfPoints, Variational
from tiny_runs import awaken

MIXTURE = Mixture()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plane(extent: float, count: int) -> tuple[Tensor, float]:
    """Midpoints (count^2, 2) of the cells of a square, and a cell's area."""
    side = (torch.arange(count) + 0.5) / count * 2 * extent - extent
    return torch.cartesian_prod(side, side), (2 * extent / count) ** 2


EXACT: dict[str, tuple[Callable[[], Model], float, float]] = {
    "flow": (lambda: Flow(FlowOfPoints(CouplingConfig(2, num_scales=0, num_steps=2, width=8))), 12.0, 2e-3),
    # few bins, since random ones of more are thinner than the cells of the square
    "splines": (lambda: Flow(FlowOfPoints(CouplingConfig(2, 0, num_steps=2, width=8, coupling="spline", bins=4))), 12.0, 2e-3),
    "autoregressive": (lambda: Autoregressive(CodesOfPoints(vocabulary=12, dim=8, heads=2)), 3.0, 1e-5),
    "vqvae": (lambda: Quantizing(CodebookOfPoints(num_codes=5, width=8)), 9.0, 1e-4),
    "rectified": (lambda: Rectified(replace(RECTIFIED, width=16, depth=1, bound_steps=40)), 9.0, 1e-2),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_likelihoods_integrate_to_one(name: str) -> None:
    """Of random weights, over a square that holds all but a trace of the density."""
    build, extent, tolerance = EXACT[name]
    torch.manual_seed(3)
    model = build()
    if name in ("flow", "splines", "autoregressive"):
        awaken(model)
    x, area = plane(extent, 240)
    total = float(model.log_prob(x, rng()).double().exp().sum() * area)
    assert total == pytest.approx(1, abs=tolerance)


def test_autoregressive_density_is_zero_outside_and_its_samples_are_inside() -> None:
    model = Autoregressive(CodesOfPoints(vocabulary=12, dim=8))
    outside = model.log_prob(torch.tensor([[3.1, 0.0], [0.0, -3.1], [0.0, 0.0]]), rng())
    assert outside[:2].tolist() == [-math.inf, -math.inf]
    assert math.isfinite(float(outside[2]))
    assert float(model.sample(200, rng()).abs().max()) < 3
    x = torch.tensor([[-3.0, 2.99], [0.01, -0.01]])
    assert model.encode(x)[:, :, 0, 0].tolist() == [[0, 11], [6, 5]]


def test_codebook_density_is_a_mixture_of_gaussians() -> None:
    torch.manual_seed(0)
    model = Quantizing(CodebookOfPoints(num_codes=7, width=8))
    spread = math.exp(0.5 * float(model.log_variance.detach()))
    parts = torch.distributions.MultivariateNormal(model.centres().double(), spread**2 * torch.eye(2, dtype=torch.float64))
    weights = torch.distributions.Categorical(logits=model.log_prior().double())
    oracle = torch.distributions.MixtureSameFamily(weights, parts)
    x = MIXTURE.sample(50, rng())
    torch.testing.assert_close(model.log_prob(x, rng()), oracle.log_prob(x.double()), atol=1e-5, rtol=1e-5)
    assert model.details(MIXTURE, x, rng())["bound"] <= float(model.log_prob(x, rng()).mean()) + 1e-6


def linear_vae() -> tuple[Variational, torch.distributions.MultivariateNormal]:
    """D(z) = A z + b, so that x ~ N(b, A A^T + exp(s) I), and a posterior that is not the true one."""
    torch.manual_seed(0)
    model = Variational(StageOfPoints(width=8, depth=1, num_samples=400, reach=12.0))
    model.stage.decoder = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        model.stage.log_variance.fill_(math.log(0.3))
    line = model.stage.decoder[0]
    assert isinstance(line, nn.Linear)
    a, b = line.weight.detach().double(), line.bias.detach().double()
    return model, torch.distributions.MultivariateNormal(b, a @ a.T + 0.3 * torch.eye(2, dtype=torch.float64))


def test_the_integral_over_latents_is_the_closed_form_of_a_linear_vae() -> None:
    model, oracle = linear_vae()
    x = torch.randn(64, 2, generator=rng())
    torch.testing.assert_close(model.integral(x), oracle.log_prob(x.double()), atol=1e-5, rtol=1e-5)


def test_the_gap_of_a_vae_is_a_divergence_of_gaussians() -> None:
    """log p - ELBO = KL(q || p(z | x)), which for the linear decoder is between Gaussians; and L_K lies between."""
    model, oracle = linear_vae()
    x = torch.randn(64, 2, generator=rng())
    line = model.stage.decoder[0]
    assert isinstance(line, nn.Linear)
    a, b = line.weight.detach(), line.bias.detach()
    covariance = torch.linalg.inv(torch.eye(2) + a.T @ a / 0.3)
    truth = torch.distributions.MultivariateNormal((x - b) @ a @ covariance.T / 0.3, covariance)
    q = model.stage.posterior(x)
    assert q.log_variance is not None
    guess = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.log_variance.exp()))
    expected = float(torch.distributions.kl_divergence(guess, truth).mean().detach())
    found = model.details(MIXTURE, x, rng())
    assert found["gap"] == pytest.approx(expected, abs=0.02)
    assert found["elbo"] <= found["bound"] <= float(oracle.log_prob(x.double()).mean()) + 0.01


class ExactVelocity(nn.Module):
    """E[eps - x_0 | x_t] of the mixture on straight paths: (x_t - E[x_0 | x_t]) / t, and -x at t = 0."""

    def __init__(self, model: Diffusion):
        super().__init__()
        self.schedule = model.denoiser.schedule

    def forward(self, x: Tensor, k: Tensor, cond: Conditioning) -> Tensor:
        t = k / self.schedule.num_steps
        if float(t[0]) == 0:
            return -x
        return (x - MIXTURE.denoised(self.schedule, x, t)) / t[:, None]


def test_the_flow_of_the_exact_velocity_has_the_likelihood_of_the_data() -> None:
    model = Rectified(replace(RECTIFIED, bound_steps=400))
    model.denoiser.network = ExactVelocity(model)
    x = MIXTURE.sample(100, rng())
    torch.testing.assert_close(model.log_prob(x, rng()).double(), MIXTURE.log_prob(x), atol=0.02, rtol=0)
    assert judge(model.sample(4000, rng()), MIXTURE).found == 8


def test_the_bound_of_the_exact_denoiser_is_above_the_entropy_and_falls_with_the_steps() -> None:
    x, excess = MIXTURE.sample(400, rng()), []
    for steps in (100, 1000):
        model = Diffusion(DenoiserOfPoints(bound_steps=steps))
        schedule = model.denoiser.schedule
        found = model.bound(x, rng(1), lambda x_t, t, schedule=schedule: MIXTURE.denoised(schedule, x_t, t))
        assert found.steps.shape == (400, steps - 1)
        each = found.total + MIXTURE.log_prob(x)
        assert float(each.mean()) > 4 * float(each.std()) / 20
        excess.append(float(each.mean()))
    assert excess[1] < excess[0]


def test_a_seed_is_a_run() -> None:
    family = next(family for family in FAMILIES if family.name == "autoregressive")
    first, again, other = (one(family, MIXTURE, seed, steps=3) for seed in (4, 4, 5))
    assert (first.points, first.score, first.curve) == (again.points, again.score, again.curve)
    assert first.points != other.points
    assert first.steps == 3


STEPS = {"autoregressive": 150, "flow": 300, "vae": 1200, "vqvae": 600, "ddpm": 300, "rectified": 300, "ldm": 1000}


@pytest.mark.parametrize("name", STEPS)
def test_likelihood_families_find_all_modes(name: str, record_property: Callable[[str, object], None]) -> None:
    """In a part of the steps of `sfumato study mixture`."""
    family = next(family for family in FAMILIES if family.name == name)
    found = one(family, MIXTURE, 0, steps=STEPS[name])
    assert found.modes is not None
    assert found.score is not None
    record_property("near", found.modes.near)
    record_property("excess", found.score.excess)
    assert found.modes.found == 8
    assert found.score.excess > -4 * found.score.excess_error  # nothing is likelier than the data's own density


def test_modes_of_the_gan_are_written_down(record_property: Callable[[str, object], None]) -> None:
    """A GAN owes nobody all eight; it may neither collapse nor miss them all."""
    torch.manual_seed(0)
    model = Adversarial()
    model.learn(MIXTURE, Budget(300), rng())
    modes = judge(model.sample(4000, rng()), MIXTURE)
    record_property("modes", modes.found)
    record_property("near", modes.near)
    film = model.details(MIXTURE, MIXTURE.sample(10, rng()), rng())["film"]
    assert film[-1]["step"] == 300
    assert [shot["step"] for shot in film] == sorted(shot["step"] for shot in film)
    assert modes.found >= 1


def test_latents_of_the_latent_model_are_standardised() -> None:
    torch.manual_seed(0)
    model = LatentDiffusion()
    model.learn(MIXTURE, Budget(20), rng())
    with torch.no_grad():
        z = model.stage.posterior(MIXTURE.sample(4000, rng(1))).sample(rng())
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=0.1, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(2), atol=0.1, rtol=0)
