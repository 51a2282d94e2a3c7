"""Beyond the training size: larger and non-square pictures, whole, without seams, and what a translation does to them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sfumato.build import ModelConfig
from sfumato.conditioners.none import NoneConfig
from sfumato.conditioning import Conditioning
from sfumato.diffusion.grids import times
from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig
from sfumato.generation.pipeline import Pipeline
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.hourglass import HourglassConfig
from sfumato.networks.unet import UNet, UNetConfig
from sfumato.nn.attention import SelfAttention2d
from sfumato.noise import SharedNoise
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.samplers import SAMPLERS, run
from tiny_models import loaded, random_model

STAGE = KLConfig(AutoencoderConfig(channels=32, multipliers=(1, 1), num_res_blocks=1, mid_attention=False, latent_channels=4))
NETWORKS = [
    UNetConfig(4, 4, channels=32, multipliers=(1, 1), num_res_blocks=1, attention_factors=()),
    UNetConfig(4, 4, channels=32, multipliers=(1, 1), num_res_blocks=1, attention_factors=(1, 2), head_channels=16),
    HourglassConfig(4, 4, widths=(32, 32), depths=(1, 1), head_channels=16, condition_channels=32),
]
every = pytest.mark.parametrize("network", NETWORKS, ids=["unet", "unet with attention", "hourglass"])


def config(network) -> ModelConfig:
    return ModelConfig(STAGE, DiffusionConfig(network), NoneConfig(), (16, 16))


@every
@pytest.mark.parametrize("size", [(32, 32), (16, 48), (40, 12), (8, 8)])
def test_sizes_that_were_never_trained(network, size):
    made = Pipeline(loaded(config(network)), torch.device("cpu")).generate(num=1, seed=2, size=size)[0]
    assert (made.height, made.width) == size


@every
@pytest.mark.parametrize(("size", "named"), [((18, 16), "height"), ((16, 30), "width"), ((2, 16), "height")])
def test_sides_are_multiples_of_both_factors(network, size, named):
    """2 of the first stage times 2 of the denoiser."""
    ours = Pipeline(loaded(config(network)), torch.device("cpu"))
    assert ours.multiple == 4
    with pytest.raises(InputError, match=f"{named}: got .* a multiple of 4"):
        ours.generate(size=size)


def around(network: nn.Module) -> nn.Module:
    """The same network on a torus: every convolution continues on the other side."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.padding != (0, 0):
            module.padding_mode = "circular"
            module._reversed_padding_repeated_twice = [module.padding[1]] * 2 + [module.padding[0]] * 2  # type: ignore[list-item]
    return network


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("network", NETWORKS[:2], ids=["unet", "unet with attention"])
@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
def test_a_unets_samples_move_with_their_noise(name, network, size):
    """A U-Net knows no place, its attention neither: noise moved by whole cells of its coarsest level gives the moved sample.

    On a torus, where nothing enters at the borders and group norms see the same numbers, that holds everywhere, at any size.
    In float64, so that the bound shows the method and not the rounding.
    """
    prior = random_model(config(network)).prior.double()
    around(prior.denoiser.network)
    sampler, schedule = SAMPLERS[name], prior.denoiser.schedule
    plan = times(sampler.spacing, schedule, 4)
    x = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def sample(begin: Tensor) -> Tensor:
        with torch.no_grad():
            return run(sampler, schedule, plan, begin, SharedNoise(), lambda x_t, t: prior.denoiser(x_t, t, Conditioning()).x_0)

    plain = sample(x)
    for rows, columns in ((2, 0), (0, 4), (6, -2)):
        moved = sample(x.roll((rows, columns), (2, 3)))
        torch.testing.assert_close(moved, plain.roll((rows, columns), (2, 3)), rtol=0, atol=1e-9 * float(plain.abs().max()))
    assert float((sample(x.roll(1, 3)) - plain.roll(1, 3)).abs().max()) > 1e-3 * float(plain.abs().max())  # half a coarse cell


class _Fixed(nn.Module):
    """A group norm with the statistics 0 and 1: what is left of it when it may not look at the whole picture."""

    def __init__(self, norm: nn.GroupNorm):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return x * self.norm.weight.view(-1, 1, 1) + self.norm.bias.view(-1, 1, 1)


def test_in_the_interior_a_larger_picture_is_the_smaller_one_moved():
    """With zeros outside as in use, norms fixed and attention off: equal where the borders' influence does not reach.

    3 x 3 convolutions from input to output see 1 + 2 + 1 cells, 2 (2 + 4 + 4) at the coarse level, and 1 + 4 + 1: 30 together.
    """
    network = random_model(config(NETWORKS[0])).prior.denoiser.network.double()
    assert isinstance(network, UNet)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, _Fixed(child))
            if isinstance(child, SelfAttention2d):
                setattr(module, name, nn.Identity())
    large = torch.randn(1, 4, 88, 80, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    small = large[:, :, 4:84, 2:78]
    time = torch.tensor([500.0], dtype=torch.float64)
    with torch.no_grad():
        whole, part = network(large, time, Conditioning()), network(small, time, Conditioning())
    inside = (slice(30, -30), slice(30, -30))
    torch.testing.assert_close(part[..., *inside], whole[:, :, 4:84, 2:78][..., *inside], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(part[..., 0, :], whole[:, :, 4, 2:78])
