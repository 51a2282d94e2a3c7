"""The taxonomy page: links that lead to the code they name, formulas that are well formed, an example that adds up."""

from __future__ import annotations

import ast
import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from made_results import made
from sfumato.errors import InputError
from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.modes import Modes
from sfumato.studies.mixture.outcome import Outcome, Score, Study
from sfumato.studies.mixture.run import FAMILIES
from sfumato.studies.results import SAMPLES
from sfumato.studies.results import Score as Bits
from sfumato.studies.taxonomy.attention import PLACES, TOKENS, W_K, W_Q, W_V, worked
from sfumato.studies.taxonomy.figures import NODES, bars, tree
from sfumato.studies.taxonomy.formula import mathml
from sfumato.studies.taxonomy.page import page
from sfumato.studies.taxonomy.pictures import Pictures, read_pictures
from sfumato.studies.taxonomy.story import CHAPTERS, links
from sfumato.training.report import save_sheet, sheet

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "docs" / "taxonomy.html"

DETAILS = {
    "autoregressive": {"cell": 0.02},
    "vqvae": {"num_codes": 64, "used": 1.0, "perplexity": 60.0, "bits": 5.9, "rmse": 0.05, "bound": -1.5},
    "vae": {"points": 512, "num_samples": 9, "integral": -1.0, "bound": -1.1, "elbo": -1.5, "gap": 0.5, "gap_error": 0.01},
    "ddpm": {"L_T": 0.1, "steps": [0.1] * 10, "L_0": -6.0, "best_excess": 0.7, "calls": 100},
    "rectified": {"calls": 50},
    "ldm": {"normal_found": 3, "normal_near": 0.2, "kl_weight": 0.05, "posterior_sigma": 0.04},
    "gan": {"film": [{"step": s, "found": f, "near": 0.5, "points": [[0.1, 0.2]]} for s, f in ((0, 0), (9, 5), (99, 8))]},
}


def outcome(name: str, failed: str | None = None) -> Outcome:
    start = (name, name.upper(), "none" if name == "gan" else "bound", 1234, 50, 1.5, ((50, 0.3),))
    if failed:
        return Outcome(*start, failed=failed)
    modes = Modes(7, 0.75, (0.1,) * 8, 0.0)
    score = None if name == "gan" else Score(-0.987, 0.012, 0.678, 0.023)
    return Outcome(*start, 0.01, modes, score, ((0.0, 0.0), (2.0, 0.0)), DETAILS.get(name, {}))


def study(*outcomes: Outcome) -> Study:
    return Study(Mixture(), 0, None, 1000, 4000, outcomes, "0.0")


def everything(pictures: Pictures | None = None) -> str:
    return page(study(*(outcome(family.name) for family in FAMILIES)), pictures)


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """The folder of a comparison of four families; sample i of each is of grey 3 i."""
    for index, name in enumerate(("gan", "ddpm", "vqgan", "autoregressive")):
        kind = {"bits_kind": "exact", "scores": made(name, 13.0).scores | {"bits": Bits(1.94, 1.9, 2.0)}} if index == 3 else {}
        made(name, 10.0 + index, seconds_per_sample=0.004, **kind).write(tmp_path / name)
        grey = torch.arange(64, dtype=torch.uint8)[:, None, None, None] * 3
        save_sheet(tmp_path / name / SAMPLES, sheet(list(grey.expand(64, 3, 16, 16)), 8))
    return tmp_path


class Reader(HTMLParser):
    """Which tags are open, what they name, and whether each is closed."""

    VOID = ("meta", "br", "img")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def names(path: Path) -> set[str]:
    """Functions, classes, methods as Class.method, and constants of a module."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


@pytest.mark.parametrize(("path", "name"), links())
def test_links_lead_to_the_code_that_they_name(path: str, name: str) -> None:
    assert name in names(ROOT / "src" / "sfumato" / path)


@pytest.mark.parametrize("text", [everything, lambda: PUBLISHED.read_text(encoding="utf-8")], ids=["built", "published"])
def test_the_page_needs_nothing_else(text) -> None:
    html = text()
    read = Reader(html)
    assert read.open == []
    ids = {value for _, name, value in read.attributes if name == "id"}
    targets = [value for _, name, value in read.attributes if name in ("href", "src")]
    assert len(targets) > 40
    for target in targets:
        if target.startswith("data:image/webp;base64,"):
            continue
        assert target[1:] in ids if target.startswith("#") else (ROOT / "docs" / target).is_file(), target
    assert not {tag for tag, _, _ in read.attributes} & {"script", "link", "iframe"}
    assert not re.search(r"https?:|@import|url\(", html.replace("http://www.w3.org", ""))
    assert {chapter.name for chapter in CHAPTERS} <= ids


def test_the_published_page_is_of_all_families_and_tells_the_present_story() -> None:
    html = PUBLISHED.read_text(encoding="utf-8")
    assert "broke down" not in html
    for chapter in CHAPTERS:
        assert all(mathml(formula) in html for formula in chapter.formulas), chapter.name
        assert f'<h2 id="{chapter.name}">' in html


def test_numbers_of_the_study_are_on_the_page() -> None:
    html = everything()
    for said in ("≥ −0.987 ± 0.012", "≤ 0.678 ± 0.023", "7 of 8", "0.750", "1,234", "−0.3121", "between 5 and\n8"):
        assert said in html, said


def test_pictures_stand_beside_the_formulas(compared: Path) -> None:
    html = everything(read_pictures(compared))
    read = Reader(html)
    assert read.open == []
    ids = {value for _, name, value in read.attributes if name == "id"}
    assert {value[1:] for _, name, value in read.attributes if name == "href" and value[0] == "#"} <= ids
    assert re.findall(r'alt="samples of ([^"]*)"', html) == ["PixelCNN++", "pixel DDPM", "GAN", "VQGAN + transformer"]
    chapter = html[html.index('<h2 id="autoregressive">') : html.index('<h2 id="flow">')]
    assert "<dt>bits per dimension</dt><dd>1.94</dd>" in chapter
    assert "On pictures" not in html[html.index('<h2 id="flow">') : html.index('<h2 id="vqvae">')]
    table = html[html.index('<h2 id="pictures">') :]
    order = [re.sub("<[^>]*>", "", row) for row in re.findall(r"<tr><td class=words>(.*?)</td>", table)][:4]
    assert order == ["GAN", "pixel DDPM", "VQGAN + transformer", "PixelCNN++"]
    assert "Mode coverage" in table
    assert "sfumato compare --data emoji --budget 5 --samples 2000 --batch-size 100 --out compare\n" in table


def test_the_strip_shows_the_first_samples_in_order(compared: Path) -> None:
    html = everything(read_pictures(compared))
    data = re.search(r'alt="samples of GAN" src="data:image/webp;base64,([^"]*)"', html)
    assert data is not None
    with Image.open(io.BytesIO(base64.b64decode(data[1]))) as strip:
        assert strip.size == (12 * 18 - 2, 2 * 18 - 2)
        for index in (0, 11, 12, 23):
            x, y = index % 12 * 18 + 8, index // 12 * 18 + 8
            assert abs(strip.convert("L").getpixel((x, y)) - 3 * index) <= 3


def test_a_study_of_one_family_shows_the_others_all_the_same(compared: Path) -> None:
    made("flow", status="diverged", reason="20 steps were <not> finite.", scores={}).write(compared / "flow")
    html = page(study(outcome("gan"), outcome("flow")), read_pictures(compared))
    others = html[html.index('<h2 id="others">') : html.index('<h2 id="pictures">')]
    assert re.findall(r'alt="samples of ([^"]*)"', others) == ["VQGAN + transformer", "PixelCNN++", "pixel DDPM"]
    assert "It diverged: 20 steps were &lt;not&gt; finite." in html
    assert Reader(html).open == []


def test_a_folder_without_a_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no family's result"):
        read_pictures(tmp_path)
    made("gan", status="diverged").write(tmp_path / "gan")
    with pytest.raises(InputError, match="no family's result"):
        read_pictures(tmp_path)


def test_a_family_that_broke_down_is_said_to_have() -> None:
    html = page(study(outcome("flow", "the loss was <no> number"), outcome("gan")))
    assert html.count("the loss was &lt;no&gt; number") == 2
    assert 'id="vae"' not in html
    assert Reader(html).open == []


def test_every_family_has_a_chapter_and_a_place_in_the_tree() -> None:
    chapters = {chapter.name for chapter in CHAPTERS}
    assert chapters == {family.name for family in FAMILIES}
    assert chapters == {name for *_, name in NODES if name}
    assert tree({"gan": "GAN"}).count("<a ") == 1


@pytest.mark.parametrize("formula", [formula for chapter in CHAPTERS for formula in chapter.formulas])
def test_formulas_are_well_formed(formula: str) -> None:
    root = ElementTree.fromstring(mathml(formula))
    children = {"msub": 2, "msup": 2, "msubsup": 3, "mfrac": 2, "munder": 2, "mover": 2, "munderover": 3, "msqrt": 1}
    for element in root.iter():
        assert len(element) == children.get(element.tag, len(element)), element.tag
    assert "\\" not in "".join(root.itertext())


def test_a_formula_says_what_it_should() -> None:
    assert mathml("x_t^2", block=False) == "<math><mrow><msubsup><mi>x</mi><mi>t</mi><mn>2</mn></msubsup></mrow></math>"
    fraction = "<mfrac><mn>1</mn><mrow><mi>K</mi></mrow></mfrac>"
    assert (
        mathml(r"\frac{1}{K}", block=False).replace("<mrow><mn>1</mn></mrow>", "<mn>1</mn>")
        == f"<math><mrow>{fraction}</mrow></math>"
    )
    for wrong in (r"\nothing", "{x", "x}", "_x"):
        with pytest.raises(ValueError, match="a formula"):
            mathml(wrong)


def test_the_attention_example_adds_up() -> None:
    """By numpy, from the numbers on the page."""
    example, tokens = worked(), np.array(TOKENS)
    keys, values = tokens @ np.array(W_K).T, tokens @ np.array(W_V).T
    np.testing.assert_allclose(example.keys, keys, atol=1e-6)
    np.testing.assert_allclose(example.values, values, atol=1e-6)
    for place, feature in zip(example.places, PLACES.values(), strict=True):
        query = np.array(W_Q) @ np.array(feature)
        scores = keys @ query / math.sqrt(2)
        weights = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(place.scores, scores, atol=1e-5)
        np.testing.assert_allclose(place.weights, weights, atol=1e-6)
        np.testing.assert_allclose(place.out, weights @ values, atol=1e-5)
    fur, outline = example.places
    assert np.argmax(fur.weights) == 1  # as the page says in words
    assert np.argmax(outline.weights) == 2


def test_bars_start_at_zero_and_go_both_ways() -> None:
    svg = ElementTree.fromstring(bars([("up", 2.0), ("down", -1.0)], "nats", ("down",)))
    up, down = (element for element in svg.iter() if element.tag == "rect")
    assert float(up.get("x", "")) == pytest.approx(float(down.get("x", "")) + float(down.get("width", "")), abs=0.2)
    assert float(up.get("width", "")) == pytest.approx(2 * float(down.get("width", "")), abs=0.2)
    assert down.get("class") == "bar marked"
