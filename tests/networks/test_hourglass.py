"""The hourglass transformer: the promises of every denoising network, and what rotation and regrouping of tokens mean."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from sfumato import config as configs
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.networks.hourglass import Hourglass, HourglassConfig, merged, rotary_turns, split, turned
from sfumato.priors.diffusion import DiffusionConfig

PLAIN = HourglassConfig(4, 4, widths=(32,), depths=(2,), head_channels=16, condition_channels=24)
FULL = HourglassConfig(
    4,
    8,
    widths=(32, 48),
    depths=(1, 2),
    head_channels=16,
    condition_channels=24,
    context_dim=10,
    vector_dim=6,
    concat_channels=3,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shaken(config: HourglassConfig) -> Hourglass:
    """Away from the zeros in which branches start, so that everything matters."""
    torch.manual_seed(0)
    network, g = Hourglass(config), rng(5)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.05)
    return network


def inputs(config: HourglassConfig, size=(8, 8)):
    x, time = torch.randn(2, 4, *size, generator=rng()), torch.tensor([3.0, 950.0])
    if config is PLAIN:
        return x, time, Conditioning()
    cond = Conditioning(
        context=torch.randn(2, 5, 10, generator=rng(1)),
        mask=torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool(),
        concat=torch.randn(2, 3, *size, generator=rng(2)),
        vector=torch.randn(2, 6, generator=rng(3)),
    )
    return x, time, cond


@pytest.mark.parametrize("config", [PLAIN, FULL])
def test_starts_at_zero_and_every_parameter_learns(config):
    given = inputs(config)
    out = Hourglass(config)(*given)
    assert out.shape == (2, config.out_channels, 8, 8)
    assert out.abs().max() == 0
    network = shaken(config)
    network(*given).square().sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


@pytest.mark.parametrize("config", [PLAIN, FULL])
def test_checkpointing_gives_the_same_gradients(config):
    network, given, grads = shaken(config), inputs(config), []
    for flag in (False, True):
        network.checkpointing = flag
        network.zero_grad()
        network(*given).square().sum().backward()
        grads.append([p.grad.clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("config", [PLAIN, FULL])
def test_in_bf16(config):
    network, (x, time, cond) = shaken(config).eval(), inputs(config)
    wanted = network(x, time, cond)
    with torch.autocast("cpu", torch.bfloat16):
        cast = network(x, time, cond)
    whole = network.bfloat16()(x.bfloat16(), time, cond.to(dtype=torch.bfloat16))
    for out in (cast, whole):  # bf16 keeps 8 bits: 0.4 % a rounding, some dozens of them
        assert (out.float() - wanted).norm() / wanted.norm() < 0.05


@torch.no_grad()
def test_does_not_see_masked_context():
    network, (x, time, cond) = shaken(FULL).eval(), inputs(FULL)
    hidden = torch.where(cond.mask[..., None], cond.context, torch.tensor(77.0))
    torch.testing.assert_close(
        network(x, time, Conditioning(hidden, cond.mask, cond.concat, cond.vector)), network(x, time, cond)
    )
    assert not torch.allclose(network(x, time, Conditioning(hidden, None, cond.concat, cond.vector)), network(x, time, cond))


@torch.no_grad()
@pytest.mark.parametrize("slot", ["context", "concat", "vector"])
def test_listens_to_each_slot(slot):
    network, (x, time, cond) = shaken(FULL).eval(), inputs(FULL)
    slots = {name: getattr(cond, name) for name in ("context", "mask", "concat", "vector")}
    other = Conditioning(**slots | {slot: slots[slot].flip(0)})
    assert not torch.allclose(network(x, time, other), network(x, time, cond), atol=1e-4)
    with pytest.raises(AssertionError, match=slot):
        network(x, time, Conditioning(**slots | {slot: None}))


@torch.no_grad()
def test_rows_do_not_meet_and_sizes_are_free():
    network = shaken(FULL).eval()
    x, time, cond = inputs(FULL, (4, 12))
    together = network(x, time, cond)
    assert together.shape == (2, 8, 4, 12)
    for i in range(2):
        alone = network(x[i : i + 1], time[i : i + 1], cond[slice(i, i + 1)])
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)  # fp32, other shapes of matrix products


@torch.no_grad()
def test_compiles_in_one_graph():
    network, given = shaken(FULL).eval(), inputs(FULL)
    torch.testing.assert_close(torch.compile(network, fullgraph=True, backend="eager")(*given), network(*given))


def test_merging_is_pixel_unshuffle_and_splitting_its_inverse():
    x = torch.randn(2, 3, 4, 6, generator=rng())
    tokens = x.flatten(2).transpose(1, 2)  # (B, h w, 3)
    wide = merged(tokens, (4, 6))
    theirs = F.pixel_unshuffle(x, 2).unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2).flatten(2).transpose(1, 2)
    assert torch.equal(wide, theirs)  # pixel_unshuffle orders channels before places; ours places before channels
    assert torch.equal(split(wide, (2, 3)), tokens)


def test_rotation_keeps_lengths_and_tells_only_differences():
    """q(p) . k(p') is a function of p - p' in both directions (Su et al. 2021, arXiv 2104.09864)."""
    q, k = (torch.randn(1, 1, 1, 16, generator=rng(s)).expand(1, 1, 30, 16) for s in (1, 2))
    turns = rotary_turns((5, 6), 16, 1, torch.device("cpu"))
    a, b = turned(q, turns)[0, 0], turned(k, turns)[0, 0]
    torch.testing.assert_close(a.norm(dim=-1), q[0, 0].norm(dim=-1))
    scores = (a @ b.T).view(5, 6, 5, 6)
    torch.testing.assert_close(scores[1, 2, 3, 5], scores[0, 1, 2, 4], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores[4, 0, 1, 2], scores[3, 3, 0, 5], atol=1e-5, rtol=1e-5)
    assert abs(scores[1, 2, 3, 5] - scores[1, 2, 3, 4]) > 1e-3
    assert abs(scores[1, 2, 3, 5] - scores[1, 2, 2, 5]) > 1e-3


def test_coarse_tokens_stand_in_the_middle_of_fine_ones():
    fine, coarse = (rotary_turns(size, 8, step, torch.device("cpu")) for size, step in (((4, 4), 1), ((2, 2), 2)))
    angle = [torch.atan2(sine, cosine) for cosine, sine in (fine, coarse)]
    middle = (angle[0][0] + angle[0][5]) / 2  # tokens (0, 0) and (1, 1) of the fine grid
    torch.testing.assert_close(middle, angle[1][0])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"head_channels": 20}, "does not divide"),
        ({"head_channels": 6}, "multiple of 4"),
        ({"widths": (32, 64), "depths": (1,)}, "a depth from 1"),
        ({"widths": ()}, "a depth from 1"),
        ({"depths": (0,), "widths": (64,)}, "a depth from 1"),
        ({"condition_channels": 0}, "1 or more"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_config_refuses(fields, words):
    with pytest.raises(InputError, match=words):
        HourglassConfig(3, 3, **fields)


def test_a_prior_tells_its_networks_apart_by_kind():
    config = DiffusionConfig(network=FULL)
    assert configs.from_dict(DiffusionConfig, configs.to_dict(config)) == config
    assert configs.to_dict(config)["network"]["kind"] == "hourglass"
    assert dataclasses.replace(FULL).factor == 2
