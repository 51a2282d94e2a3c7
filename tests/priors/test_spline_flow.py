"""The flow with spline couplings: invertible, with the Jacobian's determinant, in fp32, and as strict about its config."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from sfumato.conditioning import Conditioning
from sfumato.config import from_dict, to_dict
from sfumato.errors import InputError
from sfumato.latent import Grid, Vector
from sfumato.networks.coupling import CouplingConfig
from sfumato.priors.flow import FlowConfig, FlowPrior
from sfumato.training.stages import ADDED, key

NONE = Conditioning()
CASES = [
    pytest.param(Grid(3, 1), 2, (3, 8, 4), id="pixels"),
    pytest.param(Grid(1, 4), 1, (1, 2, 4), id="latents"),
    pytest.param(Vector(5), 0, (5,), id="vector"),
]


def flow(latent: Grid | Vector, num_scales: int, num_classes: int | None = None, awake: bool = True) -> FlowPrior:
    """Awake: with every parameter moved off its start, so that no coupling is the identity."""
    torch.manual_seed(0)
    channels = latent.channels if isinstance(latent, Grid) else latent.dim
    network = CouplingConfig(channels, num_scales, 2, 8, num_classes=num_classes, coupling="spline", bins=6, bound=2.5)
    prior = FlowPrior(FlowConfig(network), latent)
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in prior.parameters() if awake else ():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=rng) / max(1, parameter[0].numel()) ** 0.5)
    return prior


def points(shape: tuple[int, ...], count: int = 2) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("latent", "num_scales", "shape"), CASES)
@pytest.mark.parametrize("num_classes", [None, 4])
def test_it_is_invertible_and_its_determinant_is_the_jacobians(
    latent: Grid | Vector, num_scales: int, shape: tuple[int, ...], num_classes: int | None
) -> None:
    """The determinant of autograd's full Jacobian, picture by picture."""
    prior = flow(latent, num_scales, num_classes)
    vector = torch.tensor([1, 3]) if num_classes else None
    z = points(shape)
    with torch.no_grad():
        eps, log_det = prior.flow(z, vector)
        assert eps.shape == z.shape
        assert (prior.flow.inverse(eps, vector) - z).abs().max() < 1e-5
    for i in range(2):
        own = None if vector is None else vector[i : i + 1]

        def noise_of(row: Tensor, own: Tensor | None = own) -> Tensor:
            return prior.flow(row.view(1, *shape), own)[0].flatten()

        jacobian = torch.autograd.functional.jacobian(noise_of, z[i].flatten())
        assert float(log_det[i].detach()) == pytest.approx(float(torch.linalg.slogdet(jacobian.double())[1]), abs=1e-4)


def test_it_starts_linear_and_does_not_stay_so() -> None:
    """Norms and rotations at first, one determinant for all points; awake, it depends on the point."""
    z = points((5,), 64)
    asleep, awake = (flow(Vector(5), 0, awake=on).flow(z)[1].detach() for on in (False, True))
    assert float(asleep.std()) < 1e-5
    assert float(awake.std()) > 0.1


def test_every_parameter_has_a_gradient() -> None:
    prior = flow(Grid(1, 4), 2, num_classes=4)
    prior.loss(points((1, 4, 4)), Conditioning(vector=torch.tensor([0, 2])), None).total.backward()
    assert [name for name, p in prior.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_it_computes_in_fp32_under_autocast() -> None:
    prior, z = flow(Grid(3, 1), 2), points((3, 8, 4))
    with torch.no_grad():
        plain = prior.flow(z)
        with torch.autocast("cpu", torch.bfloat16):
            cast = prior.flow(z)
            back = prior.flow.inverse(cast[0])
    assert cast[0].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))
    assert (back - z).abs().max() < 1e-5


def test_the_config_goes_round_and_refuses_what_no_spline_is() -> None:
    config = CouplingConfig(3, coupling="spline", bins=8, bound=3.5)
    assert from_dict(CouplingConfig, to_dict(config)) == config
    for field, value in (("coupling", "cubic"), ("bins", 1), ("bins", 501), ("bound", 0.0), ("bound", float("inf"))):
        with pytest.raises(InputError, match=field):
            dataclasses.replace(config, **{field: value})


def test_an_affine_flow_has_the_key_of_runs_made_before_splines() -> None:
    """The hexadecimal numbers are what the code before the field gave."""
    plain = CouplingConfig(3, num_scales=3, num_steps=16, width=256)
    assert key(FlowConfig(plain, dequantize=True)) == "732b2cc62c0d87a1"
    assert {name: getattr(plain, name) for name in ADDED["coupling"]} == ADDED["coupling"]
    splined = dataclasses.replace(plain, coupling="spline")
    assert len({key(FlowConfig(c)) for c in (plain, splined, dataclasses.replace(splined, bins=8))}) == 3
