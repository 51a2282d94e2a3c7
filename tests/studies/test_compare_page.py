"""The page: one file that needs nothing else, and shows what the results hold."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from made_results import made
from sfumato.io.files import write_json
from sfumato.studies.chart import HEIGHT, WIDTH, Axis, Dot, scatter, spark
from sfumato.studies.families import FAMILIES
from sfumato.studies.overview import write_overview
from sfumato.studies.page import write_page
from sfumato.studies.results import DIVERGED, NEIGHBOURS, SAMPLES, Curve, Result, Score
from sfumato.training.report import save_sheet, sheet

VOID = {"meta", "img", "circle", "path", "polyline"}


class Tags(HTMLParser):
    """Every element opened is closed, in order; and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.sources: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.rows and self.rows[-1] and "table" in self.open:
            self.rows[-1][-1] += data + " "


def read(path: Path) -> Tags:
    tags = Tags()
    tags.feed(path.read_text(encoding="utf-8"))
    assert tags.open == []
    return tags


def folder(out: Path, results: list[Result]) -> Path:
    for index, result in enumerate(results):
        (out / result.family).mkdir(parents=True)
        pictures = torch.full((64, 3, 16, 16), 3 * index, dtype=torch.uint8)
        save_sheet(out / result.family / SAMPLES, sheet(list(pictures), 8))
        save_sheet(out / result.family / NEIGHBOURS, sheet(list(pictures[:16]), 8))
    return out


@pytest.fixture
def results() -> list[Result]:
    found = [made(name, 10.0 + index, seconds_per_sample=0.001 * 2**index) for index, name in enumerate(FAMILIES)]
    found[3] = dataclasses.replace(found[3], status=DIVERGED, reason="20 steps were not finite <b>.", scores={}, num_samples=0)
    return found


def test_it_needs_nothing_else(results: list[Result], tmp_path: Path) -> None:
    page = read(write_page(results, folder(tmp_path, results), "sfumato compare --data emoji"))
    links = [source for source in page.sources if not source.startswith("data:image/webp;base64,")]
    assert all(link.startswith("https://arxiv.org/abs/") for link in links)
    assert len(page.sources) - len(links) == 2 * len(results)
    assert "sfumato compare --data emoji" in page.text


def test_pictures_lose_nothing(tmp_path: Path) -> None:
    result = made("gan")
    (tmp_path / "gan").mkdir()
    pixels = torch.randint(0, 256, (64, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    save_sheet(tmp_path / "gan" / SAMPLES, sheet(list(pixels), 8))
    source = next(s for s in read(write_page([result], tmp_path)).sources if s.startswith("data:"))
    with (
        Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as shown,
        Image.open(tmp_path / "gan" / SAMPLES) as file,
    ):
        assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(file.convert("RGB")))


def test_weights_that_are_not_the_last_ones_are_told(tmp_path: Path) -> None:
    told = "kept are the weights of step 1,000, the best on held-out pictures"
    for keep, best, expected in (("best", 1000, True), ("last", 1000, False), ("best", 5000, False)):
        out = folder(tmp_path / f"{keep}-{best}", results := [made("vqvae")])
        (out / "vqvae/prior").mkdir()
        write_json(out / "vqvae/config.json", {"prior": {"train": {"keep": keep}}})
        write_json(out / "vqvae/prior/held_out.json", {"best": 4.6, "best_step": best, "last": 15.0, "last_step": 5000})
        assert (told in write_page(results, out).read_text()) is expected


def test_the_number_of_samples_is_a_column_where_it_differs(tmp_path: Path) -> None:
    same = write_page([made("gan"), made("vae")], tmp_path).read_text()
    assert "judged by one protocol, by 2,000 samples each." in same
    assert "<th scope=col>samples</th>" not in same
    page = read(write_page([made("gan"), made("vae", num_samples=1400)], tmp_path))
    rows = {row[0].strip(): row for row in page.rows}
    assert [rows[name][-1].strip() for name in ("family", "GAN", "VAE")] == ["samples", "2,000", "1,400"]
    assert "samples each" not in " ".join(page.text)


def test_every_family_has_its_row_and_its_card(results: list[Result], tmp_path: Path) -> None:
    page = read(write_page(results, folder(tmp_path, results)))
    rows = {row[0].strip(): row for row in page.rows}
    for result in results:
        assert result.title in rows
        assert page.text.count(result.title) >= 2
    assert rows["GAN"][1].split() == ["10", "9.5–10.5"]
    assert rows["VQ-VAE-2"][1].strip() == "diverged"
    assert rows["other real pictures"][1].strip() == "3"
    order = [row[0].strip() for row in page.rows[1:-1]]
    assert order[:3] == ["GAN", "VAE", "VQ-VAE + PixelCNN"]
    assert order[-1] == "VQ-VAE-2"


def test_texts_are_no_markup(results: list[Result], tmp_path: Path) -> None:
    text = write_page(results, folder(tmp_path, results)).read_text()
    assert "not finite &lt;b&gt;" in text
    assert "<b>" not in text


def test_bounds_are_marked_and_missing_bits_explained(tmp_path: Path) -> None:
    bits = Score(3.0, 2.9, 3.1)
    results = [
        made("ddpm", scores=made("ddpm").scores | {"bits": bits}, bits_kind="bound"),
        made("autoregressive", scores=made("vae").scores | {"bits": bits}, bits_kind="exact"),
        made("gan", bits_kind="a GAN defines no density."),
    ]
    page = read(write_page(results, folder(tmp_path, results)))
    rows = {row[0].strip(): " ".join(row) for row in page.rows}
    assert "≤ 3" in rows["pixel DDPM"]
    assert "≤" not in rows["PixelCNN++"]
    assert "No bits per dimension for GAN: a GAN defines no density." in page.text


def test_without_pictures_or_scores_it_is_a_page_still(tmp_path: Path) -> None:
    bare = made("vae", scores={}, missing={"fd": "50 samples."}, curves=(), seconds_per_sample=None)
    page = read(write_page([bare], tmp_path))
    assert "VAE: 50 samples." in page.text
    assert "There is nothing to draw yet." in page.text


def test_the_overview_has_a_row_for_each(results: list[Result], tmp_path: Path) -> None:
    with Image.open(write_overview(results, folder(tmp_path, results), "All on the same × data.")) as page:
        few = Image.open(write_overview(results[:2], tmp_path, "")).size
        assert page.size[0] == few[0] == 1200
        assert page.size[1] - few[1] == 170 * (len(results) - 2)


def labels(svg: str) -> dict[str, tuple[float, float, str]]:
    found = re.findall(r'<text class="(?:plain|strong)" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)<', svg)
    return {name: (float(x), float(y), anchor) for x, y, anchor, name in found}


def test_the_figure_is_logarithmic_and_whole() -> None:
    svg = scatter([Dot("a", 0.001, 10), Dot("b", 0.01, 20), Dot("c", 0.1, 40, 35, 45, True)], "s", "fd", 5.0, "real")
    root = ElementTree.fromstring(svg)
    dots = [(float(e.get("cx", 0)), float(e.get("cy", 0))) for e in root.iter("circle")]
    assert dots[1][0] - dots[0][0] == pytest.approx(dots[2][0] - dots[1][0], abs=0.2)
    assert dots[0][1] - dots[1][1] == pytest.approx(dots[1][1] - dots[2][1], abs=0.2)
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in dots)
    assert scatter([Dot("none", 0.0, 3.0)], "x", "y") == ""


def test_labels_of_near_points_do_not_lie_on_each_other() -> None:
    dots = [Dot(f"family {i}", 0.01 * 1.02**i, 10 * 1.01**i) for i in range(5)] + [Dot("far", 1, 100)]
    found = labels(scatter(dots, "x", "y"))
    boxes = []
    for name, (x, y, anchor) in found.items():
        wide = 7.2 * len(name)
        left = {"start": x, "end": x - wide, "middle": x - wide / 2}[anchor]
        boxes.append((left, y - 12, left + wide, y + 3))
    assert len(boxes) == 6
    crossing = [
        (a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]
    assert crossing == []


def test_ticks_are_round_numbers_within() -> None:
    assert Axis(9, 130).ticks() == [10, 20, 50, 100]
    assert Axis(5e-5, 0.2).ticks() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])


def test_a_spark_says_its_ends() -> None:
    svg = spark(Curve("first_stage", "generator/total", ((0, 2.0), (10, float("nan")), (20, 0.5))))
    assert "first stage: generator/total from 2 at step 0 to 0.5 at step 20" in svg
    assert spark(Curve("prior", "loss", ((0, 1.0),))) == ""
