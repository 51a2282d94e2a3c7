"""`sfumato generate --guide` and guidance by part, on tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import tiny_models
from sfumato.cli.main import main
from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS, guidance_from_text
from sfumato.generation.metadata import Parameters, parse_exact, parse_text
from sfumato.generation.pipeline import load
from sfumato.generation.request import Draft


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("models") / "tiny", tiny_models.text_config())


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4), (200, 30, 30)).save("small.png")
    return Path("small.png")


def run(*argv: object) -> int:
    return main(["generate", *map(str, argv), "--device", "cpu"])


def test_a_picture_guides(model, small, capsys):
    flags = ["cat", "--model", model, "--seed", 1, "--steps", 3]
    assert run(*flags, "--out", "plain.png") == 0
    assert run(*flags, "--out", "guided.png", "--guide", small, "--guide-scale", 0.05) == 0
    with Image.open("plain.png") as plain, Image.open("guided.png") as guided, Image.open(small) as given:
        expected = load(model, "cpu").generate("cat", seed=1, steps=3, guide=given, guide_scale=0.05)[0]
        assert guided.tobytes() == expected.tobytes()
        assert guided.tobytes() != plain.tobytes()
    capsys.readouterr()
    assert run("--from", "guided.png", "--model", model, "--out", "again.png") == 0
    assert "from 'small.png', which its parameters alone cannot repeat" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--guide", "nowhere.png"], "guide"),
        (["--guide", "text.png"], "guide"),
        (["--guide", "small.png", "--guide-scale", "nan"], "guide-scale"),
        (["--guide", "small.png", "--guide-scale", "-1"], "guide-scale"),
        (["--guide", "small.png", "--guide-scale", "x"], "guide-scale"),
        (["--guide-scale", "2"], "without a guide"),
        (["--guidance", "text=3"], "single number"),
        (["--guidance", "text=3,text=4"], "two scales"),
        (["--guidance", "text=x"], "guidance of text"),
        (["--guidance", "=3"], "names of parts"),
        (["--guidance", "text=99"], "from 0 to 50"),
    ],
)
def test_mistakes_are_one_line(model, flags, said, capsys):
    Path("text.png").write_text("no picture")
    assert run("cat", "--model", model, *flags, "--out", "x.png") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
    assert not Path("x.png").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", 3), ("1.5", 1.5), ("text=3,map=1.5", {"text": 3, "map": 1.5}), (" text = 3 ", {"text": 3}), ("x", "x")],
)
def test_scales_as_they_are_typed(text, expected):
    assert guidance_from_text(text) == expected


@pytest.mark.parametrize(
    "value", [{}, {"": 1.0}, {"a b": 1.0}, {1: 2.0}, {"text": None}, {"text": True}, {"text": float("inf")}]
)
def test_scales_that_are_none(value):
    with pytest.raises(InputError, match="guidance"):
        LIMITS.guidance(value)
    with pytest.raises(InputError, match="guidance"):
        Draft(guidance=value)


def test_the_file_says_the_scales():
    made = Parameters("cat", seed=1, steps=3, guidance={"text": 3.0, "map": 1.5}, sampler="ddim", height=16, width=16)
    assert parse_exact(made.to_json()) == made
    assert parse_text(made.to_text()) == made
    assert "CFG scale: text=3,map=1.5" in made.to_text().replace('"', "")
    plain = Parameters("cat", seed=1, steps=3, guidance=3.0)
    assert "CFG scale: 3," in plain.to_text()
