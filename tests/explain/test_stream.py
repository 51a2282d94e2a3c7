"""The stream against what is known on paper: Gaussian data, whose best estimate, error and code length are formulas."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from oracles import GaussianData
from sfumato.diffusion.forward import coefficients
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError
from sfumato.explain.rate_distortion import log_plan
from sfumato.explain.stream import Stream, decode, encode

pytest.importorskip("constriction", reason="an optional extra: pip install sfumato[stream]")

DATA = GaussianData(mean=0.1, std=0.7)
SCHEDULE = make_schedule(ScheduleConfig(ScheduleName.linear, 1e-4, 0.02))
SHAPE = (4, 3, 32, 32)
MOST = {False: 0.5 * math.log2(2 * math.pi * math.e / 12), True: 0.5208}
"""Bits a value and level above the KL divergence: h(N(0, 1)) less h of the noise, uniform of variance 1, or less the mean
h of the uniforms that a Gaussian is mixed of: log2(2) + (digamma(3/2) / ln 2 + 1) / 2 = 1.5264 bits."""


def data() -> Tensor:
    return DATA.mean + DATA.std * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def estimates(part: slice):
    return DATA.denoiser(SCHEDULE)


def plan(levels: int) -> Tensor:
    return log_plan(SCHEDULE, levels + 1)[:-1]


def test_the_constants():
    exact = 1 + (stats.chi2(3).expect(np.log2)) / 2
    assert MOST[True] == pytest.approx(0.5 * math.log2(2 * math.pi * math.e) - exact, abs=1e-3)
    assert MOST[False] == pytest.approx(0.2546, abs=1e-4)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("levels", [1, 4, 16])
def test_the_receiver_has_what_the_sender_has(levels, exact):
    """Bit for bit, from the bytes alone; and any first levels are a stream of their own."""
    seen: list[Tensor] = []
    made = encode(
        estimates, SCHEDULE, data(), plan(levels), seed=7, batch_size=3, exact=exact, on_level=lambda i, x: seen.append(x)
    )
    read = Stream.from_bytes(made.stream.to_bytes())
    z, x_hat = decode(estimates, SCHEDULE, read, plan(levels))
    assert torch.equal(z, made.z)
    assert torch.equal(x_hat, made.x_hat)
    assert len(seen) == levels + 1
    _, early = decode(estimates, SCHEDULE, read, plan(levels)[: levels // 2 + 2][: levels + 1])
    assert torch.equal(early, seen[min(levels // 2 + 1, levels)])


@pytest.mark.parametrize("exact", [False, True])
def test_every_level_costs_what_it_may(exact):
    """The KL divergence is that of a Gaussian channel, 1/2 log2(1 + b^2 Var[x_0 | z_t] / var); the stream is above it by at
    most the noise's lack of entropy, plus what 64 bits of the coder and the lines weigh."""
    x_0, times = data(), plan(4)
    made = encode(estimates, SCHEDULE, x_0, times, exact=exact)
    for index, level in enumerate(made.stream.levels):
        s, t = times[index + 1 : index + 2], times[index : index + 1]
        c = coefficients(SCHEDULE, s, t)
        missed = DATA.std**2 / (1 + float(SCHEDULE.log_snr(t).exp()) * DATA.std**2)
        b, variance = float(c.of_x_0), float(c.posterior)
        if index == 0:  # nothing is known: q(z_s | x_0) whole
            b, variance, missed = float(SCHEDULE(s)[0]), float(SCHEDULE(s)[1]) ** 2, DATA.std**2
        on_paper = 0.5 * math.log2(1 + b**2 * missed / variance)
        assert float(made.ideal[index]) / x_0.numel() == pytest.approx(on_paper, rel=0.03)
        bits = level.num_bits / x_0.numel()
        assert 0 < bits - on_paper < MOST[exact] + 0.03 * on_paper + 0.04


def test_the_first_level_has_the_entropy_of_the_dithered_value():
    """E H(k | u) = h(mu + w U) - log2 w, with the density of a Gaussian convolved with a uniform, integrated numerically."""
    x_0, times = data(), plan(1)
    made = encode(estimates, SCHEDULE, x_0, times)
    alpha, sigma = (float(v) for v in SCHEDULE(times[1:]))
    width, spread = math.sqrt(12) * sigma, alpha * DATA.std
    y = np.linspace(-6 * spread - width, 6 * spread + width, 200_001)
    density = (stats.norm.cdf((y + width / 2) / spread) - stats.norm.cdf((y - width / 2) / spread)) / width
    terms = np.where(density > 0, -density * np.log2(np.where(density > 0, density, 1)), 0)
    on_paper = float(integrate.trapezoid(terms, y)) - math.log2(width)
    coder = 32 * len(made.stream.levels[0].words) / x_0.numel()
    assert coder == pytest.approx(on_paper, rel=0.01)


@pytest.mark.parametrize("exact", [False, True])
def test_what_is_received_has_the_moments_of_the_chain(exact):
    """z_s ~ N(alpha_s x_0, sigma_s^2) given x_0, the first two moments or all; the estimate is off by Var[x_0 | z_s]."""
    x_0, times = data(), plan(3)
    made = encode(estimates, SCHEDULE, x_0, times, exact=exact)
    alpha, sigma = (float(v) for v in SCHEDULE(times[-1:]))
    noise = (made.z - alpha * x_0) / sigma
    assert float(noise.mean()) == pytest.approx(0, abs=4 / math.sqrt(x_0.numel()))
    assert float(noise.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / x_0.numel()))
    missed = DATA.std**2 / (1 + float(SCHEDULE.log_snr(times[-1:]).exp()) * DATA.std**2)
    assert float((made.x_hat - x_0).square().mean()) == pytest.approx(missed, rel=0.05)
    if exact:
        assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01


def test_a_worse_estimate_costs_more_and_is_still_received():
    """One that is wrong by a line costs nothing more: the line is sent; one that is noise costs bits."""

    def bent(part: slice):
        return lambda z, t: 3 * DATA.denoiser(SCHEDULE)(z, t) - 5

    def blind(part: slice):
        return lambda z, t: torch.zeros_like(z)

    sizes = {}
    for name, asked in (("best", estimates), ("bent", bent), ("blind", blind)):
        made = encode(asked, SCHEDULE, data(), plan(4))
        sizes[name] = len(made.stream.to_bytes())
        assert torch.equal(decode(asked, SCHEDULE, made.stream, plan(4))[0], made.z)
    assert sizes["bent"] == pytest.approx(sizes["best"], rel=1e-3)
    assert sizes["blind"] > 1.2 * sizes["best"]


def test_without_the_coder_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(InputError, match=r"pip install 'sfumato\[stream\]'"):
        encode(estimates, SCHEDULE, data(), plan(1))


def test_what_is_wrong_is_said():
    made = encode(estimates, SCHEDULE, data(), plan(2)).stream.to_bytes()
    with pytest.raises(InputError, match="do not begin as one"):
        Stream.from_bytes(b"PK" + made)
    for cut in (30, 45, 60, len(made) - 1):
        with pytest.raises(InputError, match=r"do not begin|cut or damaged"):
            Stream.from_bytes(made[:cut])
    with pytest.raises(InputError, match="fall from 1 and end above 0"):
        encode(estimates, SCHEDULE, data(), torch.tensor([1.0, 0.5, 0.0]))
    with pytest.raises(InputError, match="not finite"):
        encode(lambda part: lambda z, t: z * math.nan, SCHEDULE, data(), plan(2))
    with pytest.raises(InputError, match="2 levels, and times for 3"):
        decode(estimates, SCHEDULE, Stream.from_bytes(made), plan(3))
