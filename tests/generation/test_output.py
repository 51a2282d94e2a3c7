"""Files that are whole or not there, names that are free, sheets and films."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sfumato.errors import InputError, MachineError
from sfumato.generation.engine import Progress
from sfumato.generation.film import FILM_FORMATS, HOLD_MS, Film, kept_steps
from sfumato.generation.metadata import Parameters, read_parameters
from sfumato.generation.output import SHEET_FORMATS, checked_file, checked_path, destination, save_picture, slug
from sfumato.generation.request import Picture
from sfumato.generation.sheet import GAP, columns_of, make_sheet, save_sheet

RED = Image.new("RGB", (8, 6), "red")
CAT = Picture(0, "a cat", 7)


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert destination(None).place(CAT, 4) == Path("a-cat-7.png")
    assert destination("some/dir").place(CAT, 1) == Path("some/dir/a-cat-7.png")
    assert destination("x/y.png").place(CAT, 1) == Path("x/y.png")
    assert destination("x/y.PNG").place(CAT, 2) == Path("x/y-7.png")
    (tmp_path / "odd.png").mkdir()
    assert destination("odd.png").place(CAT, 1) == Path("odd.png/a-cat-7.png")


def test_taken_names(tmp_path: Path) -> None:
    first, second, third = (save_picture(RED, tmp_path / "a.png") for _ in range(3))
    assert [p.name for p in (first, second, third)] == ["a.png", "a-2.png", "a-3.png"]
    assert save_picture(Image.new("RGB", (8, 6), "blue"), first, overwrite=True) == first
    with Image.open(first) as image:
        assert image.getpixel((0, 0)) == (0, 0, 255)
    assert sorted(os.listdir(tmp_path)) == ["a-2.png", "a-3.png", "a.png"]
    with pytest.raises(InputError, match="--overwrite"):
        destination(str(first))
    assert destination(str(first), overwrite=True).stem == "a"


def test_taken_names_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert [save_picture(RED, tmp_path / "a.png").name for _ in range(2)] == ["a.png", "a-2.png"]
    assert sorted(os.listdir(tmp_path)) == ["a-2.png", "a.png"]


def test_saved_picture_carries_its_parameters(tmp_path: Path) -> None:
    image = RED.copy()
    image.info.update(Parameters("a cat", seed=7, steps=3).to_info() | {"icc_profile": None, "other": "not written"})
    path = save_picture(image, tmp_path / "new" / "a.png")
    assert read_parameters(path) == Parameters("a cat", seed=7, steps=3)
    with Image.open(path) as found:
        assert set(found.info) == {"parameters", "sfumato"}
        assert found.tobytes() == RED.tobytes()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
def test_a_refusing_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str) -> None:
    (tmp_path / "a.png").write_bytes(b"old")

    def refuse(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    if call == "link":
        monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(MachineError):
        save_picture(RED, tmp_path / "a.png", overwrite=call == "replace")
    assert os.listdir(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_picture(RED, tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["", "a\0b", "n" * 300, "x.jpg", "x.gif", "file/x.png", "file", "dir/../file/y.png", "p/" * 3000]
)
def test_wrong_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("dir").mkdir()
    with pytest.raises(InputError) as caught:
        destination(text)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        checked_file("film", text, {".png": "PNG"}, overwrite=False)


def test_existing_sheet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"grid: .*--overwrite"):
        checked_file("grid", str(path), SHEET_FORMATS, overwrite=False)
    assert checked_file("grid", str(path), SHEET_FORMATS, overwrite=True) == path
    assert checked_path("out", str(tmp_path)) == tmp_path


@given(st.text(max_size=300))
def test_slug_is_a_safe_name(text: str) -> None:
    name = slug(text)
    assert name
    assert len(name.encode("utf-8")) <= 96
    assert not set(name) & set('/\\:*?"<>|. \n\t\0_')
    assert not name.startswith("-")


def test_slugs() -> None:
    assert slug("A red Dragon, 3D style!") == "a-red-dragon-3d-style"
    assert slug("日本語 の 犬") == "日本語-の-犬"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("🐉") == slug("") == "picture"


@pytest.mark.parametrize(
    ("prompts", "num", "columns"),
    [(1, 1, 1), (1, 4, 2), (1, 5, 3), (4, 1, 2), (3, 4, 4), (2, 8, 8), (1, 10_000, 100), (2, 5000, 100)],
)
def test_layout(prompts: int, num: int, columns: int) -> None:
    assert columns_of(prompts, num) == columns


def test_sheet_places_pictures_in_order() -> None:
    colours = ["red", "green", "blue", "black", "yellow"]
    sheet = make_sheet([Image.new("RGB", (8, 6), c) for c in colours], 3)
    assert sheet.size == (3 * 8 + 2 * GAP, 2 * 6 + GAP)
    for i, colour in enumerate(colours):
        row, column = divmod(i, 3)
        corner = (column * (8 + GAP), row * (6 + GAP))
        for dx, dy in ((0, 0), (7, 5)):
            assert sheet.getpixel((corner[0] + dx, corner[1] + dy)) == Image.new("RGB", (1, 1), colour).getpixel((0, 0))
    assert sheet.getpixel((2 * (8 + GAP), 6 + GAP)) == (255, 255, 255)


def test_sheet_is_bounded() -> None:
    assert max(make_sheet([Image.new("RGB", (64, 32))] * 400, 20, largest=300).size) <= 300
    assert make_sheet([Image.new("L", (4, 4), 9)], 1).getpixel((0, 0)) == (9, 9, 9)


@pytest.mark.parametrize("suffix", [*SHEET_FORMATS, ".PNG"])
def test_sheet_formats(tmp_path: Path, suffix: str) -> None:
    with Image.open(save_sheet(RED, tmp_path / f"a{suffix}")) as image:
        assert image.format == SHEET_FORMATS[suffix.lower()]
        assert image.size == (8, 6)


class Constant(torch.nn.Module):
    """Stands for a first stage: the latent is the grey value."""

    preview = None

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z.expand(-1, 3, 6, 8)


def film_of(num_pictures: int, num_steps: int) -> Film:
    film = Film(num_pictures, columns_of(1, num_pictures))
    pictures = [Picture(i, "x", i) for i in range(num_pictures)]
    for picture in pictures:  # one after the other, as on the CPU
        for step in range(1, num_steps + 1):
            z = torch.full((1, 1, 1, 1), -1 + 2 * step / num_steps)
            film.add(Progress((picture,), step, num_steps, z, Constant()))  # type: ignore[arg-type]
        film.finish(picture.index, Image.new("RGB", (8, 6), "white"))
    return film


@pytest.mark.parametrize("suffix", [*FILM_FORMATS, ".GIF"])
def test_film_shows_every_step_and_holds_the_last(tmp_path: Path, suffix: str) -> None:
    path = film_of(2, 5).save(tmp_path / f"a{suffix}")
    with Image.open(path) as film:
        assert film.is_animated
        # the estimate after the last step equals the finished picture here, and some formats join equal frames
        assert film.n_frames in (5, 6)
        assert film.size == (2 * 8 + GAP, 6)
        greys, durations = [], []
        for i in range(film.n_frames):
            film.seek(i)
            greys.append(film.convert("L").getpixel((4, 3)))
            film.load()
            durations.append(film.info.get("duration", 0))
    assert greys == sorted(greys)
    assert abs(greys[0] - 51) <= 3
    assert greys[-1] >= 252
    assert durations[-1] >= HOLD_MS


def test_film_thins_out_long_runs() -> None:
    assert kept_steps(5) == {1, 2, 3, 4, 5}
    kept = kept_steps(1000)
    assert len(kept) == 60
    assert max(kept) == 1000
    assert len(film_of(1, 200).sheets()) == 61


def test_film_of_one_step() -> None:
    assert len(film_of(1, 1).sheets()) == 2


def test_film_is_bounded() -> None:
    film = Film(4, 2)
    film.finish(0, Image.new("RGB", (2048, 1024)))
    assert film.finished[0].size == (512, 256)
    with pytest.raises(InputError, match="film"):
        Film(65, 9)


def test_film_from_previews() -> None:
    film = Film(1, 1, previews=True)
    stage = Constant()
    stage.preview = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])  # type: ignore[assignment]
    film.add(Progress((CAT,), 1, 1, torch.ones(1, 1, 3, 4), stage))  # type: ignore[arg-type]
    assert film.frames[1][0].size == (4, 3)
    film.finish(0, RED)
    assert [sheet.size for sheet in film.sheets()] == [(8, 6), (8, 6)]
