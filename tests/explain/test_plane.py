"""The picture of the rate-distortion plane: points stand where their numbers say."""

from __future__ import annotations

import re

import pytest
import torch

from sfumato.explain.plane import plane
from sfumato.explain.rate_distortion import Curve, Point


def test_lines_and_dots_stand_on_one_pair_of_axes():
    """A point with the numbers of a place on the curve is drawn there; the whole falls inside the axes; no loss is at 0."""
    rates, errors = torch.tensor([0.0, 1.0, 3.7]).double(), torch.tensor([60.0, 20.0, 4.0]).double()
    curve = Curve(torch.tensor([1.0, 0.5, 0.1]), rates, errors, 7.5, 8)
    text = plane([("pixels", curve)], [Point("stage", 1.0, 20.0, "a fitted Gaussian")], "a & b")
    pairs = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', text)[1].split()]
    dot = tuple(float(v) for v in re.search(r'cx="([\d.]+)" cy="([\d.]+)"', text).groups())
    assert len(pairs) == 4
    assert dot == pairs[1]
    xs, ys = zip(*pairs, strict=True)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys)
    axes = [float(v) for v in re.search(r'd="M(\d+) (\d+)V(\d+)H(\d+)"', text).groups()]
    assert xs[0] == axes[0]
    assert ys[-1] == axes[2]
    assert min(ys) >= axes[1]
    assert max(xs) <= axes[3]
    assert (xs[1] - xs[0]) / (xs[2] - xs[0]) == pytest.approx(1 / 3.7, abs=1e-3)
    assert "a &amp; b" in text
