"""The picture of the rate-distortion plane: points stand where their numbers say."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest
import torch
from PIL import ImageFont

from sfumato.errors import InputError
from sfumato.explain.compared import LONGEST_SIZED
from sfumato.explain.plane import COLOURS, Series, plane, planes, root_ticks
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


def curve_of(rates: list[float], errors: list[float], lossless: float | None = None) -> Curve:
    return Curve(torch.linspace(1, 0.1, len(rates)), torch.tensor(rates).double(), torch.tensor(errors).double(), lossless, 8)


def elements(text: str, tag: str) -> list[ET.Element]:
    return [one for one in ET.fromstring(text).iter() if one.tag.rpartition("}")[2] == tag]


def test_rates_may_stand_at_their_square_roots():
    """0.04 and 1 of 4 bits stand at a tenth and a half of the way, and so does the axis's 1; a point falls on the curve."""
    one = Series([("pixels", curve_of([0.0, 0.04, 1.0, 4.0], [60, 50, 20, 4]))], [("stage", Point("stage", 1.0, 20.0, ""))])
    text = planes([one], "title", root=True)
    pairs = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', text)[1].split()]
    xs = [x for x, _ in pairs]
    assert [(x - xs[0]) / (xs[3] - xs[0]) for x in xs] == pytest.approx([0, 0.1, 0.5, 1], abs=1e-3)
    ring = elements(text, "circle")[0]
    assert (float(ring.get("cx")), float(ring.get("cy"))) == pairs[2]
    ticks = {words.text: float(words.get("x")) for words in elements(text, "text") if words.get("text-anchor") == "middle"}
    assert ticks["1"] == pytest.approx(xs[2], abs=0.02)
    assert "square-root scale" in text
    assert "square-root" not in planes([one], "title")


@pytest.mark.parametrize("most", [0.03, 0.9, 1.0, 6.65, 80.0])
def test_numbers_of_a_root_axis_are_round_and_apart(most):
    """From 0, each 1, 2 or 5 times a power of ten, at least a twentieth of the axis apart, the last one above a third of it."""
    found = root_ticks(most)
    places = [math.sqrt(value / most) for value in found]
    assert found[0] == 0
    assert all(f"{value:e}"[0] in "125" and float(f"{value:.0e}") == pytest.approx(value) for value in found[1:])
    assert all(b - a > 0.05 for a, b in itertools.pairwise(places))
    assert 0.6 < places[-1] <= 1
    assert len(found) >= 4


def test_every_model_has_its_colour_and_every_mark_its_line_of_the_legend():
    """Names as long as may be run into no numbers, and lines stand below one another, inside the figure."""
    longest = f"{'m' * LONGEST_SIZED} (512 x 512 x 4): first stage, a Gaussian fitted per channel"
    point = Point("stage", 0.1234, 12.34, "")
    one = Series([("a", curve_of([0, 1], [9, 1], 2.0)), ("b", curve_of([0, 2], [9, 1]))], [(longest, point)], [("c", point)])
    text = planes([one] * len(COLOURS), "title", "of which pictures")
    height = float(ET.fromstring(text).get("viewBox").split()[-1])
    rows: dict[str, list[ET.Element]] = {}
    for words in elements(text, "text"):
        if words.get("font-size") == "11":
            rows.setdefault(words.get("y"), []).append(words)
    assert len(rows) == 4 * len(COLOURS)
    ys = sorted(map(float, rows))
    assert min(b - a for a, b in itertools.pairwise(ys)) > 13
    assert ys[-1] < height - 4
    font = ImageFont.load_default(11)
    for name, numbers in rows.values():
        assert float(name.get("x")) + font.getlength(name.text) < float(numbers.get("x")) - font.getlength(numbers.text)
    lines = elements(text, "polyline")
    assert len({line.get("stroke") for line in lines}) == len(COLOURS)
    assert [line.get("stroke-dasharray") is None for line in lines[:2]] == [True, False]
    assert {ring.get("stroke") for ring in elements(text, "circle")} == set(COLOURS)
    assert any(words.text == "of which pictures" for words in elements(text, "text"))
    with pytest.raises(InputError, match=f"got {len(COLOURS) + 1} models, expected at most {len(COLOURS)}"):
        planes([one] * (len(COLOURS) + 1), "title")


def test_what_is_not_finite_has_no_place():
    for wrong in (math.nan, math.inf):
        with pytest.raises(InputError, match="not finite"):
            planes([Series([("a", curve_of([0.0, wrong], [9.0, 1.0]))])], "title")
        with pytest.raises(InputError, match="not finite"):
            plane([], [Point("stage", 1.0, wrong, "")], "title")
