"""The two-level prior: its likelihood sums to one over both grids, its samples follow it, it learns what the top decides."""

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
from sfumato.networks.gpt import GPTConfig
from sfumato.networks.pixelcnn import PixelCNNConfig
from sfumato.networks.raster import pack
from sfumato.noise import PictureNoise, SharedNoise
from sfumato.priors.autoregressive import AutoregressiveSettings
from sfumato.priors.hierarchical import HierarchicalConfig, HierarchicalPrior

NONE, PLAIN = Conditioning(), AutoregressiveSettings()


def prior(vocabulary: int = 2, gpt: bool = False, shake: float = 0.5, **slots: Any) -> HierarchicalPrior:
    torch.manual_seed(0)
    cnn: dict[str, Any] = {"dim": 8, "depth": 2, "first_kernel": 3}
    top: Any = (
        GPTConfig(vocabulary, 2, 2, dim=8, depth=1, heads=2, **slots) if gpt else PixelCNNConfig(vocabulary, **cnn, **slots)
    )
    config = HierarchicalConfig(top, PixelCNNConfig(vocabulary, **cnn, concat_channels=4, **slots), told_depth=1)
    made = HierarchicalPrior(config, Codes((4, 2), vocabulary)).eval()
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn(p.shape, generator=g) * shake)
    return made


def every(count: int, vocabulary: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(vocabulary), repeat=count)))


@pytest.mark.parametrize("gpt", [False, True])
@torch.no_grad()
def test_the_likelihood_sums_to_one(gpt: bool):
    """A top of 1 x 2 and a bottom of 2 x 4 of two codes: 1024 outcomes; fp32."""
    model = prior(gpt=gpt)
    z = every(10, 2).view(-1, 5, 1, 2)
    log_prob = model.log_prob(z, NONE)
    assert abs(log_prob.double().exp().sum().item() - 1) < 1e-5
    t, _ = model.split(z)
    marginal = torch.zeros(4, dtype=torch.float64).index_add_(0, t.flatten(1) @ torch.tensor([2, 1]), log_prob.double().exp())
    torch.testing.assert_close(marginal, model.top.log_prob(every(2, 2).view(4, 1, 2), NONE).double().exp(), atol=1e-5, rtol=0)
    loss = model.loss(z[::9], NONE, None)
    torch.testing.assert_close(loss.total, -log_prob[::9].mean() / 10)
    torch.testing.assert_close(loss.parts["bits"], loss.total.detach() / math.log(2))
    torch.testing.assert_close((2 * loss.parts["top"] + 8 * loss.parts["bottom"]) / 10, loss.parts["bits"])


@torch.no_grad()
def test_samples_follow_the_likelihood():
    """8000 samples of 32 outcomes: chi-squared of 31 degrees of freedom is below 70 but once in ten thousand times."""
    model = prior()
    found = model.sample((8000, 5, 1, 1), [(NONE, 1.0)], PLAIN, SharedNoise(torch.Generator().manual_seed(0)))
    assert found.dtype == torch.int64
    counts = torch.bincount(found.flatten(1) @ torch.tensor([16, 8, 4, 2, 1]), minlength=32).double()
    wanted = 8000 * model.log_prob(every(5, 2).view(-1, 5, 1, 1), NONE).double().exp()
    rare = wanted < 5
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    wanted = torch.cat([wanted[~rare], wanted[rare].sum()[None]]).clamp(min=1e-9)
    assert ((counts - wanted) ** 2 / wanted).sum() < 70


@torch.no_grad()
def test_the_bottom_sees_all_of_the_top_and_the_top_none_of_the_bottom():
    model = prior(vocabulary=3)
    g = torch.Generator().manual_seed(1)
    t, b = torch.randint(3, (1, 2, 2), generator=g), torch.randint(3, (1, 4, 4), generator=g)
    before = model.bottom.network(b[:, None], model.tell(t, NONE))
    for i, j in itertools.product(range(2), range(2)):
        other = t.clone()
        other[0, i, j] = (other[0, i, j] + 1) % 3
        moved = (model.bottom.network(b[:, None], model.tell(other, NONE)) - before).abs().amax(-1)[0, 0]
        assert moved[0, 0] > 0  # the first code of the bottom is told of the last of the top: two convolutions of radius one
        assert moved[2 * i, 2 * j] > 0
    z = pack([t, b])
    assert torch.equal(model.top.log_prob(model.split(z)[0], NONE), model.top.log_prob(t, NONE))


@pytest.mark.parametrize("gpt", [False, True])
@torch.no_grad()
def test_steps_build_the_picture_top_first_whatever_its_batch(gpt: bool):
    model = prior(vocabulary=3, gpt=gpt)
    steps = list(model.steps((3, 5, 2, 2), [(NONE, 1.0)], PLAIN, PictureNoise([4, 5, 6])))
    assert [s.index for s in steps] == list(range(20))
    assert {s.total for s in steps} == {20}
    assert all(not s.z_t[:, 1:].any() for s in steps[:4])
    last = steps[-1].z_t
    assert all(torch.equal(s.z_t[:, :1], last[:, :1]) for s in steps[3:])
    alone = model.sample((1, 5, 2, 2), [(NONE, 1.0)], PLAIN, PictureNoise([5]))
    assert torch.equal(alone[0], last[1])
    assert not torch.equal(last[0], last[1])
    greedy = model.sample((2, 5, 2, 2), [(NONE, 1.0)], AutoregressiveSettings(top_k=1), PictureNoise([1, 2]))
    assert torch.equal(greedy[0], greedy[1])


@torch.no_grad()
def test_both_levels_hear_the_class_and_guidance_reaches_both():
    model = prior(vocabulary=3, num_classes=2)
    t, b = torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 4, 4, dtype=torch.int64)
    a, c = (Conditioning(vector=torch.tensor([k])) for k in (0, 1))
    assert not torch.equal(model.top.log_prob(t, a), model.top.log_prob(t, c))
    assert not torch.equal(model.bottom.log_prob(b, model.tell(t, a)), model.bottom.log_prob(b, model.tell(t, c)))
    pictures = [
        model.sample((1, 5, 2, 2), [(a, w), (c, 1 - w)], PLAIN, PictureNoise([3])) for w in (1.0, 0.0)
    ]  # fmt: skip
    for picture, cond in zip(pictures, (a, c), strict=True):
        assert torch.equal(picture, model.sample((1, 5, 2, 2), [(cond, 1.0)], PLAIN, PictureNoise([3])))


@pytest.mark.parametrize("gpt", [False, True])
def test_every_parameter_of_both_levels_gets_a_gradient(gpt: bool):
    model = prior(vocabulary=3, gpt=gpt)
    z = torch.randint(3, (4, 5, 2, 2), generator=torch.Generator().manual_seed(1))
    model.loss(z, NONE, None).total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_learns_a_bottom_that_the_top_decides():
    """The bottom repeats its top code: the entropy of the whole is the top's, ln 4 for four equal pictures of two places."""
    model = prior(vocabulary=2, shake=0.0).train()
    t = every(2, 2).view(4, 1, 2)
    z = pack([t, t.repeat_interleave(2, 1).repeat_interleave(2, 2)])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        model.loss(z, NONE, None).total.backward()
        optimizer.step()
    with torch.no_grad():
        surprise = -model.eval().log_prob(z, NONE).mean().item()
    assert math.log(4) - 1e-4 <= surprise < math.log(4) + 0.1
    samples = model.sample((64, 5, 1, 2), [(NONE, 1.0)], PLAIN, SharedNoise(torch.Generator().manual_seed(0)))
    assert (samples[:, 1:] == samples[:, :1]).float().mean() > 0.97


def test_config_survives_json_and_refuses():
    config = prior().config
    assert configs.from_dict(HierarchicalConfig, configs.to_dict(config)) == config
    with pytest.raises(InputError, match="concat_channels is 0"):
        HierarchicalConfig(config.top, PixelCNNConfig(2))
    with pytest.raises(InputError, match="told_depth is -1"):
        HierarchicalConfig(config.top, config.bottom, -1)
    with pytest.raises(InputError, match="two grids"):
        HierarchicalPrior(config, Codes((4,), 2))
    with pytest.raises(InputError, match="two grids"):
        HierarchicalPrior(config, Codes((2, 4), 2))
    with pytest.raises(InputError, match="vocabulary is 2"):
        HierarchicalPrior(config, Codes((4, 2), 3))
