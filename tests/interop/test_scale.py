"""A published scale factor and our statistics are two ways to say the same units."""

from __future__ import annotations

import pytest
import torch

from sfumato.build import build_first_stage
from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.interop.scale import statistics, with_one_scale
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from tiny_runs import awaken

KL = KLConfig(AutoencoderConfig(channels=8, multipliers=(1, 1), num_res_blocks=1, latent_channels=5), embed_channels=4)
VQ = VQConfig(
    AutoencoderConfig(channels=8, multipliers=(1, 1), num_res_blocks=1, latent_channels=5, double_moments=False), 40, 4
)


def stage(config, shift, scale):
    torch.manual_seed(0)
    made = awaken(build_first_stage(config)).eval()
    if isinstance(config, VQConfig):
        torch.nn.init.normal_(made.quantize.embedding.weight)
    made.set_statistics(torch.tensor(shift), torch.tensor(scale), torch.rand(5, 3))
    return made


def reload(config, made):
    """The same first stage through one scale factor."""
    weights, factor = with_one_scale(config, made.state_dict())
    again = build_first_stage(config).eval()
    again.load_state_dict(weights | statistics(config, factor))
    return again, weights, factor


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "shift", "scale"),
    [
        (KL, [0.3, -2.0, 0.0, 1.5], [0.5, 2.0, 3.0, 1.0]),
        (KL, [0.0, 0.0, 0.0, 0.0], [0.5, 2.0, 3.0, 1.0]),
        (KL, [0.3, -2.0, 0.0, 1.5], [2.0, 2.0, 2.0, 2.0]),
        (VQ, [0.3, -2.0, 0.0, 1.5], [2.0, 2.0, 2.0, 2.0]),
    ],
)
def test_unit_latents_and_pictures_stay(config, shift, scale):
    made = stage(config, shift, scale)
    again, _, _ = reload(config, made)
    assert not again.shift.any()
    assert (again.scale == again.scale[0]).all()
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    wanted, given = made.posterior(x), again.posterior(x)
    torch.testing.assert_close(given.mean, wanted.mean, rtol=1e-5, atol=1e-5)
    if isinstance(config, KLConfig):
        torch.testing.assert_close(given.log_variance, wanted.log_variance, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again.decode(wanted.mean), made.decode(wanted.mean), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [KL, VQ])
def test_one_scale_leaves_every_bit(config):
    made = stage(config, [0.0] * 4, [1 / 0.18215] * 4)
    again, weights, factor = reload(config, made)
    assert factor == pytest.approx(0.18215, rel=1e-7)
    own = made.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in weights.items())
    assert own.keys() - weights.keys() == {"shift", "scale", "preview"}
    assert torch.equal(again.scale, made.scale)


def test_a_published_factor_scales_the_latent():
    made = stage(KL, [0.0] * 4, [1.0] * 4)
    x = torch.rand(1, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        raw = made.posterior(x).mean
        made.load_state_dict(made.state_dict() | statistics(KL, 0.13025))
        torch.testing.assert_close(made.posterior(x).mean, 0.13025 * raw)


def test_what_one_scale_cannot_say_is_refused():
    with pytest.raises(InputError, match="by channel"):
        with_one_scale(VQ, stage(VQ, [0.0] * 4, [1.0, 2.0, 1.0, 1.0]).state_dict())
    for factor in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="scale_factor"):
            statistics(KL, factor)
