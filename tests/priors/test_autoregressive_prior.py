"""The autoregressive prior: its likelihood sums to one, its samples follow it, it learns what can be known."""

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
from sfumato.metrics.dequantization import bits_per_dimension
from sfumato.networks.gpt import GPTConfig
from sfumato.networks.pixelcnn import PixelCNNConfig
from sfumato.noise import PictureNoise, SharedNoise
from sfumato.priors.autoregressive import (
    AutoregressiveConfig,
    AutoregressivePrior,
    AutoregressiveSettings,
    draw,
    truncated,
)

NONE = Conditioning()
PLAIN = AutoregressiveSettings()


def prior(network: Any, factor: int = 1, shake: float = 0.5) -> AutoregressivePrior:
    torch.manual_seed(0)
    made = AutoregressivePrior(AutoregressiveConfig(network), Codes((factor,), network.vocabulary, network.channels)).eval()
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn(p.shape, generator=g) * shake)
    return made


def gpt(**changes: Any) -> GPTConfig:
    return GPTConfig(**({"vocabulary": 3, "height": 2, "width": 2, "dim": 8, "depth": 2, "heads": 2} | changes))


def pixelcnn(**changes: Any) -> PixelCNNConfig:
    return PixelCNNConfig(**({"vocabulary": 3, "dim": 8, "depth": 2, "first_kernel": 3} | changes))


NETWORKS = {
    "gpt": (gpt(), (1, 2, 2)),
    "gpt-channels": (gpt(channels=2, width=1), (2, 2, 1)),
    "gpt-window": (gpt(height=1), (1, 2, 2)),
    "pixelcnn": (pixelcnn(), (1, 2, 2)),
    "pixelcnn-channels": (pixelcnn(channels=2), (2, 2, 1)),
}


def every(shape: tuple[int, ...], vocabulary: int = 3) -> Tensor:
    return torch.tensor(list(itertools.product(range(vocabulary), repeat=math.prod(shape)))).view(-1, *shape)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_likelihood_sums_to_one(name: str):
    """Over all 81 grids of four codes of three; fp32."""
    network, shape = NETWORKS[name]
    probability = prior(network).log_prob(every(shape), NONE).double().exp()
    assert abs(probability.sum().item() - 1) < 1e-5
    assert probability.max() > 3 * probability.min()


@torch.no_grad()
def test_the_likelihood_sums_to_one_under_each_condition():
    model = prior(gpt(num_classes=2))
    grids = every((1, 2, 2))
    first, second = (model.log_prob(grids, Conditioning(vector=torch.full((81,), label))).exp() for label in (0, 1))
    assert abs(first.double().sum().item() - 1) < 1e-5
    assert abs(second.double().sum().item() - 1) < 1e-5
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_is_the_likelihood_a_code(name: str):
    network, shape = NETWORKS[name]
    model, grids = prior(network), every(shape)[::7]
    log_prob = model.log_prob(grids, NONE)
    loss = model.loss(grids, NONE, None)
    torch.testing.assert_close(loss.total, -log_prob.mean() / 4)
    torch.testing.assert_close(loss.parts["bits"], bits_per_dimension(log_prob, 4, bin_width=1).mean())
    assert loss.total.requires_grad
    if shape[0] == 1:
        torch.testing.assert_close(model.log_prob(grids[:, 0], NONE), log_prob)


def test_bits_of_uniform_bytes_are_eight():
    assert bits_per_dimension(torch.tensor([-12 * math.log(256)]), 12, bin_width=1).item() == pytest.approx(8)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_samples_follow_the_likelihood(name: str):
    """4000 samples of 81 outcomes: chi-squared of 80 degrees of freedom is below 136 but once in ten thousand times."""
    network, shape = NETWORKS[name]
    model = prior(network)
    noise = SharedNoise(torch.Generator().manual_seed(0))
    found = model.sample((4000, *shape), [(NONE, 1.0)], PLAIN, noise)
    assert found.dtype == torch.int64
    index = (found.flatten(1) * torch.tensor([27, 9, 3, 1])).sum(1)
    wanted = 4000 * model.log_prob(every(shape), NONE).double().exp()
    counts = torch.bincount(index, minlength=81).double()
    rare = wanted < 5  # too few for the approximation: pooled
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    wanted = torch.cat([wanted[~rare], wanted[rare].sum()[None]]).clamp(min=1e-9)
    assert ((counts - wanted) ** 2 / wanted).sum() < 136


@pytest.mark.parametrize("network", [gpt(height=3, width=3), gpt(height=2, width=2), pixelcnn()])
@torch.no_grad()
def test_a_picture_does_not_depend_on_its_batch_and_steps_build_it(network: Any):
    model = prior(network)
    steps = list(model.steps((3, 3, 3), [(NONE, 1.0)], PLAIN, PictureNoise([4, 5, 6])))
    assert [s.index for s in steps] == list(range(9))
    assert {s.total for s in steps} == {9}
    last = steps[-1].z_t
    for s in steps:
        done = s.z_t.flatten(1)
        assert torch.equal(done[:, : s.index + 1], last.flatten(1)[:, : s.index + 1])
        assert done[:, s.index + 1 :].abs().sum() == 0
    alone = model.sample((1, 1, 3, 3), [(NONE, 1.0)], PLAIN, PictureNoise([5]))
    assert torch.equal(alone[0, 0], last[1])
    assert not torch.equal(last[0], last[1])


@pytest.mark.parametrize("changes", [{}, {"context_dim": 4}, {"context_dim": 4, "context": "cross"}])
@torch.no_grad()
def test_cached_sampling_equals_uncached(changes: dict[str, Any]):
    model = prior(gpt(vocabulary=9, height=4, width=4, **changes), shake=0.3)
    context = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)) if changes else None
    cond, noise = Conditioning(context=context), PictureNoise([1, 2])
    found = model.sample((2, 1, 4, 4), [(cond, 1.0)], PLAIN, PictureNoise([1, 2]))
    uniform = torch.special.ndtr(noise(torch.empty(2, 16)).double())
    codes = torch.zeros(2, 1, 4, 4, dtype=torch.int64)
    for index in range(16):
        logits = model.network(codes, cond)[:, 0, index // 4, index % 4]
        codes[:, 0, index // 4, index % 4] = draw(logits, uniform[:, index])
    assert torch.equal(found, codes)


@pytest.mark.parametrize("kind", ["gpt", "pixelcnn"])
def test_guidance_combines_logits(kind: str):
    """With a scale of 3 the first code follows softmax(3 l(y) - 2 l(null)), an exact marginal; scale 1 and 0 are the twins'."""
    model = prior(gpt(num_classes=2) if kind == "gpt" else pixelcnn(num_classes=2))
    count, zeros = 20000, torch.zeros(1, 1, 2, 2, dtype=torch.int64)
    wanted_cond, null = (Conditioning(vector=torch.full((count,), label)) for label in (0, 1))
    with torch.no_grad():
        ours, theirs = (model.network(zeros, Conditioning(vector=torch.tensor([k])))[0, 0, 0, 0] for k in (0, 1))
    for scale in (3.0, 1.0, 0.0):
        twins = [(wanted_cond, scale), (null, 1 - scale)]
        noise = SharedNoise(torch.Generator().manual_seed(0))
        first = next(model.steps((count, 1, 2, 2), twins, PLAIN, noise)).z_t[:, 0, 0, 0]
        wanted = (scale * ours + (1 - scale) * theirs).softmax(0)
        found = torch.bincount(first, minlength=3) / count
        assert (found - wanted).abs().max() < 4 * 0.5 / math.sqrt(count)


def test_truncation_keeps_the_likeliest():
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3]])

    def kept(**settings: Any) -> list[float]:
        return truncated(p.log(), AutoregressiveSettings(**settings)).softmax(1)[0].tolist()

    assert kept() == pytest.approx([0.1, 0.4, 0.2, 0.3])
    assert kept(top_k=2) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert kept(top_k=9) == pytest.approx([0.1, 0.4, 0.2, 0.3])
    assert kept(top_p=0.65) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert kept(top_p=0.75) == pytest.approx([0, 4 / 9, 2 / 9, 3 / 9])
    assert kept(top_p=1e-9) == [0, 1, 0, 0]
    assert kept(top_k=3, top_p=0.5) == pytest.approx([0, 4 / 7, 0, 3 / 7])  # 4/9 of the top three is less than a half
    assert kept(temperature=0.5) == pytest.approx([0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3])
    ties = truncated(torch.zeros(1, 5), AutoregressiveSettings(top_k=2))
    assert ties.isfinite().sum() == 2


def test_draw_inverts_the_cumulated_probability_and_never_draws_the_impossible():
    logits = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0]).log().expand(5, -1)
    uniform = torch.tensor([0.0, 0.2499, 0.2501, 0.999, 1.0])
    assert draw(logits, uniform).tolist() == [1, 1, 3, 3, 3]


@torch.no_grad()
def test_top_k_of_one_is_greedy():
    model = prior(gpt())
    settings = AutoregressiveSettings(top_k=1)
    samples = model.sample((6, 2, 2), [(NONE, 1.0)], settings, PictureNoise(range(6)))
    assert (samples == samples[0]).all()
    logits = model.network(samples[:1, None], NONE)
    assert torch.equal(logits.argmax(-1)[0, 0], samples[0])


XOR = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]])  # two coins and their exclusive or: entropy 2 ln 2


@pytest.mark.parametrize(
    "network", [GPTConfig(2, 1, 3, dim=16, depth=2, heads=2), PixelCNNConfig(2, dim=16, depth=2, first_kernel=5)]
)
def test_learns_the_exclusive_or_to_its_entropy(network: Any):
    model = prior(network, shake=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    grids = XOR.view(4, 1, 1, 3)
    for _ in range(200):
        optimizer.zero_grad()
        model.loss(grids, NONE, None).total.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        surprise = -model.log_prob(grids, NONE).mean().item()
    assert 2 * math.log(2) - 1e-4 <= surprise < 2 * math.log(2) + 0.05  # cross-entropy is never below the entropy
    samples = model.sample((400, 1, 1, 3), [(NONE, 1.0)], PLAIN, SharedNoise(torch.Generator().manual_seed(0)))
    wrong = samples[:, 0, 0, :2].sum(1) % 2 != samples[:, 0, 0, 2]
    assert wrong.float().mean() < 0.05
    assert len(samples.flatten(1).unique(dim=0)) >= 4


def test_learns_a_class_from_its_condition():
    """One grid a class: the conditional entropy is 0."""
    model = prior(gpt(vocabulary=4, num_classes=3), shake=0.0).train()
    grids = torch.tensor([[0, 1, 2, 3], [3, 3, 0, 1], [2, 0, 1, 0]]).view(3, 1, 2, 2)
    cond = Conditioning(vector=torch.arange(3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(grids, cond, None).total.backward()
        optimizer.step()
    assert -model.log_prob(grids, cond).mean() < 0.05
    assert torch.equal(
        model.sample((3, 1, 2, 2), [(cond, 1.0)], AutoregressiveSettings(top_p=0.9), PictureNoise([0, 1, 2])), grids
    )


def test_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="vocabulary is 3"):
        AutoregressivePrior(AutoregressiveConfig(gpt()), Codes((4,), 512))
    with pytest.raises(InputError, match="channels is 1"):
        AutoregressivePrior(AutoregressiveConfig(gpt()), Codes((4,), 3, channels=3))
    with pytest.raises(InputError, match="2 grids"):
        AutoregressivePrior(AutoregressiveConfig(gpt()), Codes((8, 4), 3))
    for fields in ({"temperature": 0.0}, {"temperature": math.nan}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(InputError, match=next(iter(fields))):
            AutoregressiveSettings(**fields)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="whole numbers"):
        prior(gpt()).log_prob(torch.zeros(1, 1, 2, 2), NONE)


@pytest.mark.parametrize("network", [gpt(), pixelcnn()])
def test_config_survives_json(network: Any):
    config = AutoregressiveConfig(network)
    assert configs.from_dict(AutoregressiveConfig, configs.to_dict(config)) == config
