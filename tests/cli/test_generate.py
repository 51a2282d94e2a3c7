"""`sfumato generate` and `sfumato info` on a tiny model: files, paths on stdout, one-line errors, the same picture again."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

import tiny_models
from sfumato.cli import generate
from sfumato.cli.main import main
from sfumato.cli.progress import StepBar
from sfumato.generation.metadata import Parameters, png_info, read_parameters
from sfumato.generation.pipeline import load


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("models") / "tiny", tiny_models.text_config())


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("models") / "none", tiny_models.unconditional_config())


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def run(*argv: object) -> int:
    return main(["generate", *map(str, argv), "--device", "cpu"])


def files() -> list[str]:
    return sorted(str(p.relative_to(Path.cwd())) for p in Path().absolute().rglob("*") if p.is_file())


def test_writes_pictures_and_prints_their_paths(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("a red dragon", "--model", model, "--num", 2, "cat", "--seed", 7) == 0
    out, err = capsys.readouterr()
    names = ["a-red-dragon-7.png", "a-red-dragon-8.png", "cat-9.png", "cat-10.png"]
    assert out.splitlines() == names
    assert err == ""
    assert files() == sorted(names)
    expected = load(model, "cpu").generate(["a red dragon", "cat"], num=2, seed=7)
    for name, image in zip(names, expected, strict=True):
        with Image.open(name) as found:
            assert found.tobytes() == image.tobytes()
            assert found.info["parameters"] == image.info["parameters"]


def test_all_outputs(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--num",
        4,
        "--seed",
        1,
        "--steps",
        2,
        "--sampler",
        "euler_a",
        "--guidance",
        2,
        "--negative",
        "x",
        "--size",
        "16x32",
    ]
    assert run("cat", "--model", model, *flags, "--out", "out", "--grid", "g.webp", "--film", "f.gif", "--quiet") == 0
    assert capsys.readouterr().out.splitlines() == [*(f"out/cat-{s}.png" for s in range(1, 5)), "g.webp", "f.gif"]
    with Image.open("out/cat-1.png") as picture, Image.open("g.webp") as grid, Image.open("f.gif") as film:
        assert picture.size == (32, 16)
        assert grid.size == film.size == (66, 34)
        assert film.n_frames >= 2
    found = read_parameters("out/cat-4.png")
    expected = Parameters("cat", "x", 4, 2, 2.0, "euler_a", 16, 32, "tiny", found.model_hash)
    assert found == expected


def test_the_same_picture_again(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cat,\n dog", "--model", model, "--num", 3, "--seed", 5, "--sampler", "dpmpp_2m_sde", "--negative", "a: b") == 0
    original = capsys.readouterr().out.splitlines()[2]
    assert run("--from", original, "--model", model, "--out", "again.png") == 0
    assert Path("again.png").read_bytes() == Path(original).read_bytes()
    assert run("--from", original, "--model", model, "--out", "other.png", "--seed", 8) == 0
    assert read_parameters("other.png").seed == 8
    assert read_parameters("other.png").sampler == "dpmpp_2m_sde"
    assert capsys.readouterr().err == ""


def test_names_are_kept_unless_overwritten(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert run("cat", "--model", model, "--seed", 7) == 0
    assert files() == ["cat-7-2.png", "cat-7.png"]
    before = Path("cat-7.png").read_bytes()
    assert run("cat", "--model", model, "--seed", 8, "--out", "cat-7.png") == 2
    assert Path("cat-7.png").read_bytes() == before
    assert run("cat", "--model", model, "--seed", 8, "--out", "cat-7.png", "--overwrite") == 0
    assert read_parameters("cat-7.png").seed == 8
    assert files() == ["cat-7-2.png", "cat-7.png"]


def test_seed_by_chance_is_written_down(model: Path) -> None:
    assert run("cat", "--model", model, "--out", "a.png") == 0
    assert run("cat", "--model", model, "--out", "b.png") == 0
    assert read_parameters("a.png").seed != read_parameters("b.png").seed


def test_unconditional(unconditional: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", unconditional, "--seed", 1) == 0
    assert capsys.readouterr().out == "picture-1.png\n"


WRONG = [
    ([], "prompt: got none"),
    (["cat", "--size", "16x17"], "multiple of 4"),
    (["cat", "--size", "4x4", "--guidance", "1"], "take a larger picture"),
    (["cat", "--model", "no such model"], "model"),
    (["cat", "--model", "."], "model"),
    (["cat", "--model", ""], "model"),
    (["cat", "--model", "n" * 5000], "model"),
    (["cat", "--grid", "x.gif"], "grid"),
    (["cat", "--film", "x.jpg"], "film"),
    (["cat", "--film", "x.gif", "--num", "65"], "film"),
    (["cat", "--film", "x.png", "--grid", "x.png"], "different names"),
    (["cat", "--out", "x.png", "--grid", "x.png"], "out and grid: both are 'x.png'"),
    (["cat", "--out", "x.png", "--film", "./x.png", "--overwrite"], "out and film: both are 'x.png'"),
    (["cat", "--out", "x.jpg"], "out"),
    (["cat", "--from", "none.png"], "No such file"),
    (["cat", "--from", "."], "directory"),
    (["cat\udcff"], "UTF-8"),
    (["c" * 10_001], "10000"),
    (["cat", "--num", "10000", "dog"], "pictures"),
]


@pytest.mark.parametrize(("argv", "words"), WRONG, ids=range(len(WRONG)))
def test_wrong_input_is_one_line_and_leaves_nothing(
    model: Path, capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    flags = [] if "--model" in argv else ["--model", model]
    assert run(*argv, *flags) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err
    assert files() == []


@pytest.mark.parametrize("name", ["../tiny", "/etc", "no-such", ".", "tiny"])
def test_a_picture_chooses_no_directory(model: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    Image.new("RGB", (4, 4)).save("evil.png", pnginfo=png_info(Parameters("cat", model=name).to_info()))
    os.symlink(model, "tiny")
    assert main(["generate", "--from", "evil.png", "--device", "cpu"]) == 2
    assert "does not ship" in capsys.readouterr().err


def test_other_weights_are_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (4, 4)).save("a.png", pnginfo=png_info(Parameters("cat", seed=1, model_hash="ffffffffff").to_info()))
    assert run("--from", "a.png", "--model", model, "--out", "b.png") == 0
    err = capsys.readouterr().err
    assert "other weights" in err
    assert err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_unwritable_place(model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here.chmod(0o500)
    assert run("cat", "--model", model) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_full_disk(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run("cat", "--model", model, "--num", 2, "--grid", "g.png") == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "No space left" in err
    assert files() == []


def test_interrupt_keeps_finished_pictures(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def step(self: object, progress: object) -> None:
        seen.append(progress)
        if len(seen) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(generate.NoBar, "step", step)
    assert run("cat", "--model", model, "--num", 3, "--seed", 1) == 130
    assert files() == ["cat-1.png"]


def test_bar_is_only_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    with generate.progress_bar(1, quiet=False) as bar:
        assert isinstance(bar, generate.NoBar)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    with generate.progress_bar(1, quiet=True) as bar:
        assert isinstance(bar, generate.NoBar)
    with generate.progress_bar(1, quiet=False) as bar:
        assert isinstance(bar, StepBar)


def test_bar_shows_steps(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    assert run("cat", "--model", model, "--num", 2, "--seed", 1) == 0
    assert capsys.readouterr().out == "cat-1.png\ncat-2.png\n"
    assert "picture 2/2, step 3/3" in terminal.getvalue()


def test_info(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("models:", "device:", "versions:", "torch "))
    assert main(["info", str(model)]) == 0
    out = capsys.readouterr().out
    assert all(
        word in out for word in ("tiny", "16x16", "4x8x8", "KLFirstStage", "TextEncoder", "dpmpp_2m, 3 steps", "A tiny model")
    )
    assert main(["info", "nope"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture(scope="module")
def transparent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("models") / "rgba", tiny_models.rgba_config())


def test_background(transparent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["cat", "--model", transparent, "--seed", 7]
    outputs = ["--grid", "g.png", "--film", "f.webp"]
    assert run(*flags, "--num", 2, "--background", "transparent", "--out", "clear", *outputs) == 0
    assert run(*flags, "--background", "SkyBlue", "--out", "sky.png") == 0
    assert run(*flags, "--out", "white.png") == 0
    for name in ("clear/cat-7.png", "g.png", "f.webp", "sky.png", "white.png"):
        with Image.open(name) as image:
            assert image.mode == ("RGB" if name in ("sky.png", "white.png") else "RGBA"), name
    assert [read_parameters(p).background for p in ("clear/cat-8.png", "sky.png", "white.png")] == [
        "transparent", "#87ceeb", "white",
    ]  # fmt: skip
    [expected] = load(transparent, "cpu").generate("cat", seed=7, background="skyblue")
    with Image.open("sky.png") as image:
        assert image.tobytes() == expected.tobytes()
    assert capsys.readouterr().err == ""


def test_the_same_background_again(transparent: Path) -> None:
    assert run("cat", "--model", transparent, "--seed", 7, "--background", "transparent", "--out", "a.png") == 0
    assert run("--from", "a.png", "--model", transparent, "--out", "b.png") == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert run("--from", "a.png", "--model", transparent, "--out", "c.png", "--background", "white") == 0
    assert run("cat", "--model", transparent, "--seed", 7, "--out", "d.png") == 0
    assert Path("c.png").read_bytes() == Path("d.png").read_bytes()
    assert run("--from", "d.png", "--model", transparent, "--out", "e.png", "--background", "#123") == 0
    assert read_parameters("e.png").background == "#112233"


@pytest.mark.parametrize("flag", ["transparent", "black"])
def test_a_model_without_alpha_is_named(model: Path, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert run("cat", "--model", model, "--background", flag) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "'tiny' draws no transparency" in err
    assert files() == []
    assert run("cat", "--model", model, "--background", "white", "--seed", 1) == 0
