"""PixelCNN++: probabilities that sum to one by channel and over whole pictures, what each place sees, samples, learning."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato import config as configs
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.latent import Codes
from sfumato.networks.pixelcnn_pp import PixelCNNPP, PixelCNNPPConfig
from sfumato.networks.raster import place, to_grid, to_sequence
from sfumato.noise import PictureNoise, SharedNoise
from sfumato.priors.autoregressive import AutoregressiveConfig, AutoregressivePrior, AutoregressiveSettings, CodeNetworkConfig
from sfumato.priors.base import bits_per_dimension

NONE, PLAIN = Conditioning(), AutoregressiveSettings()
RGB = PixelCNNPPConfig(dim=8, depth=1, num_scales=3, mixtures=3, dropout=0.0)


def small(**changes: Any) -> PixelCNNPPConfig:
    return PixelCNNPPConfig(**({"dim": 6, "depth": 1, "num_scales": 1, "mixtures": 2, "dropout": 0.0} | changes))


def made(config: PixelCNNPPConfig, shake: float = 0.3) -> PixelCNNPP:
    torch.manual_seed(0)
    network = PixelCNNPP(config).double().eval()
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():  # far from zero, so that everything matters
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=g, dtype=p.dtype) * shake)
    return network


def pixels(config: PixelCNNPPConfig, height: int = 4, width: int = 4, count: int = 2) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randint(config.vocabulary, (count, config.channels, height, width), generator=g)


def every(shape: tuple[int, ...], vocabulary: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(vocabulary), repeat=math.prod(shape)))).view(-1, *shape)


@pytest.mark.parametrize("channels", [1, 3, 4])
@torch.no_grad()
def test_the_256_values_of_each_channel_sum_to_one(channels: int):
    network = made(small(channels=channels))
    codes = pixels(network.config)
    log_p = network(codes, NONE)
    assert log_p.shape == (2, channels, 4, 4, 256)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(2, channels, 4, 4).double(), atol=1e-6, rtol=0)
    chosen = log_p.gather(-1, codes[..., None])[..., 0]
    torch.testing.assert_close(-network.surprise(codes, NONE), chosen, atol=1e-9, rtol=0)


@torch.no_grad()
def test_the_mixture_is_that_of_the_paper():
    """sum_i pi_i P(r | mu_r) P(g | mu_g + alpha r) P(b | mu_b + beta r + gamma g), by differences of sigmas."""
    network = made(small(mixtures=3))
    codes = pixels(network.config, 2, 2)
    m = network.mixture(codes, NONE)
    r, g, b = (codes[:, c, None].double() * 2 / 255 - 1 for c in range(3))  # (B, 1, h, w)
    alpha, beta, gamma = m.slopes.unbind(2)
    assert m.slopes.abs().max() <= 1
    means = (m.means[:, :, 0], m.means[:, :, 1] + alpha * r, m.means[:, :, 2] + beta * r + gamma * g)
    total = m.weights.exp()
    for c, (x, mean) in enumerate(zip((r, g, b), means, strict=True)):
        s = m.log_scales[:, :, c].exp()
        upper = torch.where(x > 0.999, 1.0, torch.sigmoid((x - mean + 1 / 255) / s))
        lower = torch.where(x < -0.999, 0.0, torch.sigmoid((x - mean - 1 / 255) / s))
        total = total * (upper - lower)
    wanted = -total.sum(1).log()
    torch.testing.assert_close(network.surprise(codes, NONE).sum(1), wanted, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_whole_pictures_sum_to_one():
    """All 729 pictures of 1 x 2 places, three channels of three values; and all 256 of 2 x 2 x 2, through a halving."""
    for config, shape in ((small(vocabulary=3), (3, 1, 2)), (small(vocabulary=2, channels=2, num_scales=2), (2, 2, 2))):
        network = made(config)
        grids = every(shape, config.vocabulary)
        p = torch.exp(-network.surprise(grids, NONE).flatten(1).sum(1))
        assert abs(p.sum().item() - 1) < 1e-6
        assert p.max() > 2 * p.min()


@pytest.mark.parametrize("scales", [1, 2, 3])
@torch.no_grad()
def test_changing_a_code_changes_nothing_before_or_at_it(scales: int):
    config = small(vocabulary=5, num_scales=scales, depth=2)
    network, codes = made(config, shake=0.15), pixels(config)
    before = network(codes, NONE)
    shape, seen_later = codes.shape[1:], 0
    for index in range(shape.numel()):
        sequence = to_sequence(codes).clone()
        sequence[:, index] = (sequence[:, index] + 1) % 5
        difference = (network(to_grid(sequence, shape), NONE) - before).abs()
        each = to_sequence(difference.amax(-1))
        assert each[:, : index + 1].max() < 1e-9  # rounding: float64 sums at another place of memory
        seen_later += int((each[:, index + 1 :] > 1e-9).any(0).all())
    assert seen_later == shape.numel()  # no blind spot


@pytest.mark.parametrize("slots", [{}, {"num_classes": 3}, {"vector_dim": 2}])
def test_one_code_after_the_other_gives_the_same(slots: dict[str, int]):
    config = small(vocabulary=7, num_scales=2, **slots)
    network, codes = made(config), pixels(config)
    vector = {"num_classes": torch.tensor([2, 0]), "vector_dim": torch.tensor([[0.5, 1.0], [-1.0, 0.0]]).double()}
    cond = Conditioning(vector=vector[next(iter(slots))]) if slots else NONE
    whole = to_sequence(network(codes, cond).movedim(4, 0).flatten(0, 1)).unflatten(0, (7, 2)).movedim(0, 2)
    predict, sequence = network.predictor(cond, 2, codes.shape[1:]), torch.zeros_like(to_sequence(codes))
    for index in range(sequence.shape[1]):
        found = predict(sequence, index)
        torch.testing.assert_close(found.log_softmax(1), whole[:, index].log_softmax(1), atol=1e-9, rtol=0)
        sequence[:, index] = to_sequence(codes)[:, index]


def test_every_parameter_gets_a_gradient_and_every_code_hears_the_condition():
    config = small(vocabulary=9, num_scales=2, num_classes=2)
    network, codes = made(config), pixels(config)
    cond = Conditioning(vector=torch.tensor([0, 1]))
    surprise = network.surprise(codes, cond)
    surprise.sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    other = network.surprise(codes, Conditioning(vector=torch.tensor([1, 0])))
    assert ((surprise - other).abs() > 0).all()
    with pytest.raises(AssertionError, match="vector"):
        network.surprise(codes, NONE)


def prior(config: PixelCNNPPConfig, shake: float = 0.3) -> AutoregressivePrior:
    model = AutoregressivePrior(AutoregressiveConfig(config), Codes((1,), config.vocabulary, config.channels)).eval()
    model.model.load_state_dict(made(config, shake).state_dict())
    return model


@torch.no_grad()
def test_samples_follow_the_likelihood():
    """6000 samples of 64 outcomes: chi-squared of 63 degrees of freedom is below 114 but once in ten thousand times."""
    model = prior(small(vocabulary=2))
    noise = SharedNoise(torch.Generator().manual_seed(0))
    found = model.sample((6000, 3, 1, 2), [(NONE, 1.0)], PLAIN, noise)
    counts = torch.bincount(found.flatten(1) @ torch.tensor([32, 16, 8, 4, 2, 1]), minlength=64).double()
    wanted = 6000 * model.log_prob(every((3, 1, 2), 2), NONE).double().exp()
    rare = wanted < 5
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    wanted = torch.cat([wanted[~rare], wanted[rare].sum()[None]]).clamp(min=1e-9)
    assert ((counts - wanted) ** 2 / wanted).sum() < 114


@torch.no_grad()
def test_bytes_sample_and_have_bits_per_dimension():
    model = prior(RGB, 0.05)
    pictures = model.sample((2, 3, 4, 4), [(NONE, 1.0)], PLAIN, PictureNoise([4, 5]))
    assert pictures.dtype == torch.int64
    assert int(pictures.min()) >= 0
    assert int(pictures.max()) <= 255
    assert len(pictures.unique()) > 20
    alone = model.sample((1, 3, 4, 4), [(NONE, 1.0)], PLAIN, PictureNoise([5]))
    assert torch.equal(alone[0], pictures[1])
    bits = bits_per_dimension(model.log_prob(pictures, NONE), 48)
    loss = model.loss(pictures, NONE, None)
    torch.testing.assert_close(loss.parts["bits"], bits.mean())
    p = model.network(pictures, NONE).double().exp()
    entropy = -(p * p.clamp(min=1e-30).log2()).sum(-1)  # of each code given those before
    spread = (p * (p.clamp(min=1e-30).log2() + entropy[..., None]).square()).sum(-1).flatten(1).sum(1).sqrt() / 48
    assert ((bits - entropy.flatten(1).mean(1)).abs() < 4 * spread).all()  # its own samples surprise it by its entropy


def test_learns_flat_pictures_to_their_entropy():
    """Two colours of eight levels: ln 2 for the first channel, next to nothing at the eleven other codes."""
    model = prior(small(dim=16, vocabulary=8, channels=3), shake=0.0).train()
    grids = torch.tensor([[1, 6, 2], [5, 3, 7]])[:, :, None, None].expand(2, 3, 2, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    before = -model.log_prob(grids, NONE).mean().item()
    for _ in range(100):
        optimizer.zero_grad()
        model.loss(grids, NONE, None).total.backward()
        optimizer.step()
    with torch.no_grad():
        surprise = -model.eval().log_prob(grids, NONE).mean().item()
    assert before > 12
    assert math.log(2) - 1e-4 <= surprise < math.log(2) + 0.5
    samples = model.sample((64, 3, 2, 2), [(NONE, 1.0)], PLAIN, SharedNoise(torch.Generator().manual_seed(0)))
    known = (samples[:, None] == grids).flatten(2).all(2).any(1)
    assert known.float().mean() > 0.75
    assert len(samples[known].unique(dim=0)) == 2


def test_place_order_is_kept():
    assert [place(i, (3, 2, 2)) for i in (0, 2, 3, 11)] == [(0, 0, 0), (2, 0, 0), (0, 0, 1), (2, 1, 1)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"vocabulary": 1}, "vocabulary is 1"),
        ({"mixtures": 0}, "mixtures is 0"),
        ({"num_scales": 0}, "num_scales is 0"),
        ({"dropout": 1.0}, "dropout is 1"),
        ({"num_classes": 3, "vector_dim": 3}, "give one"),
    ],
)
def test_configs_refuse(fields: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        PixelCNNPPConfig(**fields)


def test_what_does_not_fit_is_refused_and_configs_survive_json():
    with pytest.raises(InputError, match="multiples of 4"):
        made(RGB).surprise(pixels(RGB, 4, 6), NONE)
    with pytest.raises(InputError, match="vocabulary is 256"):
        AutoregressivePrior(AutoregressiveConfig(RGB), Codes((1,), 255, 3))
    assert configs.from_dict(AutoregressiveConfig, configs.to_dict(AutoregressiveConfig(RGB))).network == RGB
    assert PixelCNNPPConfig().num_parameters == 100  # ten mixtures of ten numbers, as in the paper's code
    assert isinstance(RGB, CodeNetworkConfig)
