"""Figures: what stands where, in both forms."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET

import pytest
import torch
from PIL import Image

from sfumato.explain.axes import Axes, tick_step, ticks
from sfumato.explain.figure import Box, Figure, Line, Picture, Text, save_figure
from sfumato.explain.heat import overlay
from sfumato.explain.sheets import Row, evenly, sheet


def test_parts_stand_where_they_say():
    figure = Figure(60, 40)
    figure.boxes.append(Box(10, 10, 20, 20, "#ff0000"))
    figure.lines.append(Line([(0, 35), (60, 35)], "#0000ff", 2))
    figure.pictures.append(Picture(40, 10, 10, 10, Image.new("RGB", (2, 2), (0, 255, 0)), smooth=False))
    image = figure.image(2)
    assert image.size == (120, 80)
    assert image.getpixel((40, 40)) == (255, 0, 0)
    assert image.getpixel((15, 40)) == (255, 255, 255)
    assert image.getpixel((60, 70)) == (0, 0, 255)
    assert image.getpixel((90, 30)) == (0, 255, 0)
    assert image.getpixel((81, 21)) == (0, 255, 0)
    assert image.getpixel((78, 21)) == (255, 255, 255)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("anchor", "share"), [("start", 0.0), ("middle", 0.5), ("end", 1.0)])
def test_text_is_anchored(turned, anchor, share):
    """Ink lies on the right side of its anchor; turned text reads upwards from it."""
    figure = Figure(200, 200, texts=[Text(100, 100, "HHHHHH", anchor, 14, turned=turned)])
    box = Image.eval(figure.image(1).convert("L"), lambda v: 255 - v).getbbox()
    low, high = (200 - box[3], 200 - box[1]) if turned else (box[0], box[2])
    assert low + share * (high - low) == pytest.approx(100, abs=3)
    baseline = box[2] if turned else box[3]
    assert baseline == pytest.approx(100, abs=2)


def test_the_svg_holds_its_pictures_and_words():
    figure = Figure(60, 40, texts=[Text(1, 2, "a <b> & \x00 ü 猫")])
    figure.pictures.append(Picture(0, 0, 10, 10, Image.new("RGBA", (3, 3), (255, 0, 0, 0))))
    root = ET.fromstring(figure.svg())
    words = [e.text for e in root.iter() if e.tag.endswith("text")]
    assert words == ["a <b> &   ü 猫"]
    (data,) = re.findall(r"base64,([^\"]+)", figure.svg())
    inside = Image.open(io.BytesIO(base64.b64decode(data)))
    assert inside.convert("RGB").getpixel((1, 1)) == (255, 255, 255)  # transparent is white


@pytest.mark.parametrize(("side", "smooth", "kept"), [(500, True, 20), (8, True, 8), (500, False, 500)])
def test_the_svg_holds_no_more_than_a_screen_shows(side, smooth, kept):
    figure = Figure(10, 10, pictures=[Picture(0, 0, 10, 10, Image.new("RGB", (side, side)), smooth)])
    (data,) = re.findall(r"base64,([^\"]+)", figure.svg())
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (kept, kept)


@pytest.mark.parametrize("suffix", ["svg", "png", "webp"])
def test_figures_are_files(suffix, tmp_path):
    path = tmp_path / f"figure.{suffix}"
    figure = Figure(30, 20, boxes=[Box(0, 0, 10, 10), Box(0, 0, 0, 0), Box(3, 3, 4, 0)])
    assert save_figure(figure, path) == path
    assert save_figure(figure, path).name == f"figure-2.{suffix}"
    assert save_figure(figure, path, overwrite=True) == path
    if suffix != "svg":
        assert Image.open(path).size == (60, 40)


def test_a_figure_on_a_figure_is_moved():
    small = Figure(10, 10, [Box(1, 2, 3, 4)], [Line([(0, 0), (1, 1)])], [], [Text(5, 6, "a")])
    whole = Figure(100, 100)
    whole.add(small, 20, 30)
    assert (whole.boxes[0].x, whole.boxes[0].y) == (21, 32)
    assert whole.lines[0].points == [(20, 30), (21, 31)]
    assert (whole.texts[0].x, whole.texts[0].y) == (25, 36)


def test_axes_place_numbers():
    axes = Axes(Figure(200, 200), 50, 20, 100, 80, (-1.0, 3.0), (0.0, 10.0))
    assert (axes.x(-1), axes.x(1), axes.x(3)) == (50, 100, 150)
    assert (axes.y(0), axes.y(5), axes.y(10), axes.y(99)) == (100, 60, 20, 20)
    axes.frame("across", "up")
    axes.bars([0, 1, 2], [5, 10])
    assert [(b.x, b.y, b.width, b.height) for b in axes.figure.boxes] == [(75, 60, 25, 40), (100, 20, 25, 80)]
    assert {t.words for t in axes.figure.texts} >= {"across", "up", "-1", "3", "10"}


@pytest.mark.parametrize(("width", "step"), [(1, 0.2), (10, 2), (6, 1), (7, 2), (0.03, 0.005), (0, 1), (float("inf"), 1)])
def test_ticks_are_round(width, step):
    assert tick_step(width) == pytest.approx(step)
    assert ticks(-4, 4) == [-4, -2, 0, 2, 4]


def test_a_sheet_has_room_for_its_words():
    rows = [Row("a name", [Image.new("RGB", (8, 4))] * 3, ["one", "two", "three"]), Row("", [Image.new("RGB", (8, 8))])]
    found = sheet(rows, ["h1", "h2", "h3"], "title", 40, ["note"])
    figure = found.figure
    assert len(figure.pictures) == 4
    assert figure.pictures[0].height == 20  # as wide as 40, half as high
    assert all(p.x + p.width <= figure.width and p.y + p.height <= figure.height for p in figure.pictures)
    assert [t.x for t in figure.texts if t.words.startswith("h")] == list(found.middles)
    assert all(0 < t.y < figure.height for t in figure.texts)


def test_evenly_keeps_both_ends():
    assert evenly(3, 8) == [0, 1, 2]
    assert evenly(10, 4) == [0, 3, 6, 9]
    assert len(evenly(100, 8)) == 8


def test_heat_lies_where_the_map_is_high():
    values = torch.zeros(4, 4)
    values[0, 0] = 1.0
    image = overlay(Image.new("RGB", (16, 16), "white"), values, 1.0)
    assert image.getpixel((15, 15)) == (255, 255, 255)
    red, green, blue = image.getpixel((1, 1))
    assert red > 150
    assert green < 120
    assert blue < 120
    flat = overlay(Image.new("L", (4, 4), 128), torch.ones(2, 2), 1.0, 1.0)  # nothing to tell apart
    assert len(set(flat.getdata())) == 1
