"""The normal prior and the flow: exact densities, one-step samples, bits per dimension."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.latent import Grid, Vector
from sfumato.metrics.dequantization import bits_per_dimension, dequantize, requantize
from sfumato.networks.coupling import CouplingConfig
from sfumato.noise import PictureNoise
from sfumato.priors.flow import FlowConfig, FlowPrior, FlowSettings
from sfumato.priors.normal import NormalConfig, NormalPrior, NormalSettings

NONE = Conditioning()


def woken(prior: FlowPrior, by: float = 0.2) -> FlowPrior:
    """The same with every parameter moved off its start, so that no coupling is the identity."""
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=rng) / max(1, parameter[0].numel()) ** 0.5)
    return prior


def flow(latent: Grid | Vector, num_scales: int, dequantized: bool = False, **changes: int) -> FlowPrior:
    torch.manual_seed(0)
    channels = latent.channels if isinstance(latent, Grid) else latent.dim
    network = CouplingConfig(channels, num_scales, num_steps=2, width=8, **changes)
    return FlowPrior(FlowConfig(network, dequantize=dequantized), latent)


def test_the_normal_prior_is_torchs() -> None:
    prior = NormalPrior(NormalConfig(), Grid(2, 4))
    z = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(prior.log_prob(z, NONE), expected)
    assert float(prior.loss(z, NONE, None).total) == pytest.approx(float(-expected.mean() / 32))
    assert list(prior.parameters()) == []
    assert prior.state_dict() == {}


def test_the_normal_prior_samples_its_noise() -> None:
    prior = NormalPrior(NormalConfig(), Vector(5))
    (step,) = prior.steps((2, 5), [(NONE, 1.0)], NormalSettings(0.5), PictureNoise([3, 4]))
    assert torch.equal(step.z_t, 0.5 * PictureNoise([3, 4])(torch.empty(2, 5)))
    with pytest.raises(InputError, match="temperature"):
        NormalSettings(0.0)


CASES = [
    pytest.param(Grid(3, 1), 2, (3, 8, 4), {}, id="pixels"),
    pytest.param(Grid(1, 4), 1, (1, 2, 4), {"vector_dim": 3}, id="conditional"),
    pytest.param(Grid(1, 4), 2, (1, 4, 4), {"num_classes": 4}, id="classes"),
    pytest.param(Vector(5), 0, (5,), {}, id="vector"),
]


def condition(changes: dict[str, int]) -> Conditioning:
    if "num_classes" in changes:
        return Conditioning(vector=torch.tensor([1, 3]))
    return Conditioning(vector=torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.3, 1.0]])) if changes else NONE


@pytest.mark.parametrize(("latent", "num_scales", "shape", "changes"), CASES)
def test_the_flow_is_invertible_and_its_determinant_is_the_jacobians(
    latent: Grid | Vector, num_scales: int, shape: tuple[int, ...], changes: dict[str, int]
) -> None:
    """The determinant of autograd's full Jacobian, picture by picture."""
    prior = woken(flow(latent, num_scales, **changes))
    vector = condition(changes).vector
    z = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        eps, log_det = prior.flow(z, vector)
        assert eps.shape == z.shape
        assert (eps - z).abs().max() > 0.1
        assert (prior.flow.inverse(eps, vector) - z).abs().max() < 1e-5
    for i in range(2):
        own = None if vector is None else vector[i : i + 1]

        def noise_of(row: Tensor, own: Tensor | None = own) -> Tensor:
            return prior.flow(row.view(1, *shape), own)[0].flatten()

        jacobian = torch.autograd.functional.jacobian(noise_of, z[i].flatten())
        assert float(log_det[i].detach()) == pytest.approx(float(torch.linalg.slogdet(jacobian.double())[1]), abs=1e-4)


def test_the_condition_changes_the_density() -> None:
    prior = woken(flow(Grid(1, 4), 2, num_classes=4))
    z = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(1)).expand(4, -1, -1, -1)
    values = prior.log_prob(z, Conditioning(vector=torch.arange(4)))
    assert len(set(values.tolist())) == 4


def test_the_density_of_a_plane_integrates_to_one() -> None:
    """By the midpoint rule on [-12, 12]^2."""
    prior = woken(flow(Vector(2), 0), 0.4)
    num = 300
    line = (torch.arange(num) + 0.5) * 24 / num - 12
    points = torch.cartesian_prod(line, line)
    with torch.no_grad():
        total = prior.log_prob(points, NONE).double().exp().sum() * (24 / num) ** 2
    assert float(total) == pytest.approx(1.0, abs=1e-2)


def test_the_first_batch_sets_the_norms() -> None:
    """Channels that start anywhere leave every norm standardised; a second batch, or a reload, sets nothing anew."""
    prior = flow(Grid(3, 1), 2)
    z = 5 + 3 * torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    seen: list[Tensor] = []
    norm = prior.flow.scales[0].layers[0]
    assert isinstance(norm, nn.Module)
    norm.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    prior.loss(z, NONE, None)
    assert seen[-1].mean((0, 2, 3)).abs().max() < 1e-5
    assert (seen[-1].var((0, 2, 3), correction=0) - 1).abs().max() < 1e-4
    kept = {name: value.clone() for name, value in prior.state_dict().items()}
    prior.loss(z + 9, NONE, None)
    again = flow(Grid(3, 1), 2)
    again.load_state_dict(kept)
    again.loss(z + 9, NONE, None)
    for other in (prior, again):
        assert all(torch.equal(value, kept[name]) for name, value in other.state_dict().items())


def test_samples_are_the_inverse_of_the_pictures_noise() -> None:
    prior = woken(flow(Grid(3, 1), 2))
    z = prior.sample((2, 3, 8, 4), [(NONE, 1.0)], FlowSettings(), PictureNoise([3, 4]))
    eps, _ = prior.flow(z)
    assert (eps - PictureNoise([3, 4])(z)).abs().max() < 1e-4


def test_every_parameter_has_a_gradient() -> None:
    prior = woken(flow(Grid(1, 4), 2, num_classes=4))
    z = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    prior.loss(z, Conditioning(vector=torch.tensor([0, 2])), None).total.backward()
    assert [name for name, p in prior.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_uniform_noise_costs_eight_bits() -> None:
    """Under the exact uniform density on [-1, 1), 1/2 a dimension; in units of [0, 1), where it is 1, the bins are 1/256."""
    log_prob = torch.full((2,), 12 * math.log(0.5))
    torch.testing.assert_close(bits_per_dimension(log_prob, 12), torch.full((2,), 8.0))
    torch.testing.assert_close(bits_per_dimension(torch.zeros(2), 12, 1 / 256), torch.full((2,), 8.0))


def test_dequantizing_stays_in_the_level() -> None:
    x = torch.arange(256).repeat(50) / 127.5 - 1
    y = dequantize(x, torch.Generator().manual_seed(0))
    assert float(y.min()) >= -1
    assert float(y.max()) <= 1
    torch.testing.assert_close(requantize(y), x, atol=1e-6, rtol=0)
    inside = (y + 1) * 128 - torch.arange(256).repeat(50)  # u
    assert float(inside.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(inside.var()) == pytest.approx(1 / 12, abs=0.003)


def test_bits_of_a_flow_of_pixels_follow_its_density() -> None:
    prior = woken(flow(Grid(3, 1), 1, dequantized=True))
    x = torch.randint(256, (2, 3, 4, 4), generator=torch.Generator().manual_seed(1)) / 127.5 - 1
    found = prior.bits_per_dimension(x, NONE, torch.Generator().manual_seed(2))
    density = prior.log_prob(dequantize(x, torch.Generator().manual_seed(2)), NONE)
    torch.testing.assert_close(found, -(density / 48) / math.log(2) + 7)
    z = prior.sample((2, 3, 4, 4), [(NONE, 1.0)], FlowSettings(), PictureNoise([3, 4]))
    levels = (z + 1) * 127.5
    assert float((levels - levels.round()).abs().max()) < 1e-3
    with pytest.raises(InputError, match="not 8-bit pixels"):
        flow(Grid(3, 1), 1).bits_per_dimension(x, NONE, None)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="multiples of 4"):
        flow(Grid(3, 1), 2).log_prob(torch.zeros(1, 3, 6, 8), NONE)
    with pytest.raises(InputError, match="num_scales is 0"):
        flow(Grid(3, 1), 0)
    with pytest.raises(InputError, match="num_scales is 1"):
        flow(Vector(3), 1)
    with pytest.raises(InputError, match="in_channels is 3, but the latent has 4"):
        FlowPrior(FlowConfig(CouplingConfig(3)), Grid(4, 8))
    with pytest.raises(InputError, match="in_channels is 1 with num_scales 0"):
        CouplingConfig(1, 0)
    with pytest.raises(InputError, match="give one"):
        CouplingConfig(3, vector_dim=2, num_classes=2)
    with pytest.raises(InputError, match="temperature"):
        FlowSettings(-1.0)
