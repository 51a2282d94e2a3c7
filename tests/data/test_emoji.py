"""The emoji data set from packages made up here: no network."""

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.data import emoji_sources
from sfumato.data.emoji import build_emoji, hash_split, splits
from sfumato.data.emoji_render import Job, render
from sfumato.data.emoji_sources import Emoji, Package, code_key, fetch, fluent_name, parse_emojis, slug, split_sprite
from sfumato.data.emoji_text import PHRASES, caption, subject, variants, with_article
from sfumato.errors import InputError, MachineError

pytest.importorskip("resvg_py")


def svg(body: str, side: int = 32) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}">{body}</svg>'


RED = svg('<rect x="8" y="8" width="16" height="16" fill="#f00"/>')
DRAGON = {"label": "dragon", "hexcode": "1F409", "tags": ["animal", "fairy", "tale"], "group": 3, "subgroup": 37}
WOMAN = {
    "label": "woman firefighter", "hexcode": "1F469-200D-1F692", "tags": ["fire", "firefighter"], "group": 1, "subgroup": 25,
    "skins": [{"label": "woman firefighter: medium skin tone", "hexcode": "1F469-1F3FD-200D-1F692", "tone": 3}],
}  # fmt: skip
NAMES = {"groups": {"1": "people-body", "3": "animals-nature"}, "subgroups": {"25": "person-role", "37": "animal-reptile"}}


def make_emoji(label: str, base: str | None = None, tone: tuple[int, ...] = (), tags: tuple[str, ...] = ()) -> Emoji:
    return Emoji("1F409", label, base or label, tags, "g", "s", tone)


@pytest.mark.parametrize(
    ("hexcode", "style", "expected"),
    [
        ("1F409", "noto", "train"),  # h = 5
        ("1F600", "twemoji", "test"),
        ("1F606", "fluent-3d", "test"),
        ("1F60C", "fluent-3d", "validation"),
        ("1F614", "openmoji", "validation"),
        ("1F603", "fluent-flat", "test"),
    ],
)
def test_hash_split_is_the_written_rule(hexcode, style, expected):
    """Values worked out in a shell: `printf 1F600/twemoji | sha256sum`, its first eight digits modulo 20."""
    assert hash_split(hexcode, style) == expected


def test_about_a_tenth_is_held_out():
    counts = [hash_split(f"{code:05X}", style) for code in range(4000) for style in PHRASES]
    assert abs(counts.count("test") / 20_000 - 0.05) < 0.006  # four standard deviations
    assert abs(counts.count("validation") / 20_000 - 0.05) < 0.006


def find(expected: str, style: str, skip: int = 0) -> str:
    codes = [f"{code:05X}" for code in range(1000) if hash_split(f"{code:05X}", style) == expected]
    return codes[skip]


def test_equal_pictures_leave_training_together():
    style, other = "noto", "twemoji"
    test, valid, train, train2 = find("test", style), find("validation", style), find("train", style), find("train", style, 1)
    foreign = find("train", other)
    digests = {(test, style): "a", (train, style): "a", (valid, style): "b", (train2, style): "b", (foreign, other): "a"}
    assert splits(digests) == {
        (test, style): "test",
        (train, style): "excluded",
        (valid, style): "validation",
        (train2, style): "excluded",
        (foreign, other): "train",  # groups are within one style
    }
    assert splits({(train, style): "a", (train2, style): "a"}) == {(train, style): "train", (train2, style): "train"}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("twelve o\u2019clock", "twelve-oclock"),
        ("pi\u00f1ata", "pinata"),
        ("keycap: #", "keycap-hashtag"),
        ("T-Rex", "t-rex"),
        ("Japanese \u201cfree of charge\u201d button", "japanese-free-of-charge-button"),
    ],
)
def test_slug(label, expected):
    assert slug(label) == expected


def test_code_key():
    assert code_key("23-fe0f-20e3") == code_key("0023-FE0F-20E3") == "0023-20E3"


def test_fluent_names():
    files = dict.fromkeys(
        ["dragon.svg", "baby-default.svg", "baby-medium-light.svg", "person-mage-dark.svg", "woman-wrestling.svg"], ""
    )
    assert fluent_name(make_emoji("dragon"), files) == "dragon"
    assert fluent_name(make_emoji("baby"), files) == "baby-default"
    assert fluent_name(make_emoji("baby: medium-light skin tone", "baby", (2,)), files) == "baby-medium-light"
    assert fluent_name(make_emoji("mage: dark skin tone", "mage", (5,)), files) == "person-mage-dark"
    assert fluent_name(make_emoji("women wrestling"), files) == "woman-wrestling"
    assert fluent_name(make_emoji("mage"), files) is None
    assert fluent_name(make_emoji("kiss: light skin tone, dark skin tone", "baby", (1, 5)), files) is None


def test_sprite_is_split_at_its_first_level():
    root = '<svg xmlns:xlink="x"><style>s</style>'
    first = '<svg viewBox="0 0 1 1" id="1F1E6-FE0F"><use xlink:href="#a"/><svg id="in"><g/></svg><svg id="self"/></svg>'
    second = '<svg id="0023"><g/></svg>'
    parts = dict(split_sprite(f"{root}{first}{second}</svg>"))
    assert list(parts) == ["1F1E6", "0023"]
    assert parts["1F1E6"] == first.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)
    assert parts["0023"] == second


def test_emojibase_is_read():
    dragon, woman, toned = parse_emojis([DRAGON, WOMAN], NAMES)
    assert (dragon.group, dragon.subgroup, dragon.tone) == ("animals-nature", "animal-reptile", ())
    assert (toned.base_label, toned.tone, toned.tags) == ("woman firefighter", (3,), woman.tags)


@pytest.mark.parametrize(
    ("label", "base", "tone", "expected"),
    [
        ("dragon", None, (), "dragon"),
        ("woman firefighter: medium skin tone", "woman firefighter", (3,), "woman firefighter with medium skin tone"),
        ("person: light skin tone, blond hair", "person: blond hair", (1,), "person with blond hair and light skin tone"),
        ("man: bald", None, (), "bald man"),
        ("flag: Japan", None, (), "flag of Japan"),
        ("keycap: #", None, (), "keycap #"),
        ("family: man, woman, boy", None, (), "family of a man, a woman and a boy"),
        ("person walking: facing right", None, (), "person walking facing right"),
        (
            "people holding hands: x",
            "people holding hands",
            (1, 3),
            "people holding hands with light skin tone and medium skin tone",
        ),
        ("twelve o\u2019clock", None, (), "twelve o'clock"),
    ],
)
def test_subject(label, base, tone, expected):
    assert subject(make_emoji(label, base, tone)) == expected


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("dragon", "a dragon"),
        ("owl", "an owl"),
        ("umbrella", "an umbrella"),
        ("unicorn", "a unicorn"),
        ("people holding hands", "people holding hands"),
        ("flag of Japan", "the flag of Japan"),
        ("1st place medal", "1st place medal"),
        ("3D", "a 3D"),
        ("grapes", "grapes"),
        ("glass of milk", "a glass of milk"),
    ],
)
def test_articles(noun, expected):
    assert with_article(noun) == expected


@pytest.mark.parametrize("style", PHRASES)
def test_captions(style):
    dragon = make_emoji("dragon", tags=("animal", "fairy", "tale", "dragon"))
    texts = variants(dragon, style)
    assert texts[0] == caption(dragon, style) == f"dragon, {PHRASES[style]}"
    assert f"a dragon, {PHRASES[style]}" in texts
    assert "a dragon" in texts
    assert len(texts) == len(set(texts))
    assert 6 <= len(texts) <= 11
    assert variants(dragon, style) == texts
    if style == "fluent-3d":
        assert {"a 3D emoji of a dragon", "dragon emoji, 3D style", "3D dragon"} <= set(texts)


def square(body: str, background: str = "white", style: str = "noto", size: int = 32, side: int = 32) -> np.ndarray:
    made = render(Job(style, "1F409", svg(body, side), size, background))
    pixels = np.asarray(Image.open(io.BytesIO(made.png)))
    on_white = pixels if pixels.shape[-1] == 3 else lay_on_white(pixels)
    assert made.digest == hashlib.sha256(on_white.tobytes()).hexdigest()
    return pixels


def lay_on_white(rgba: np.ndarray) -> np.ndarray:
    colour, alpha = rgba[..., :3] / 255, rgba[..., 3:] / 255
    return np.rint(255 * (colour * alpha + 1 - alpha)).astype(np.uint8)


def test_render_is_centred_antialiased_and_on_white():
    pixels = square('<circle cx="16" cy="16" r="10" fill="#000"/>')
    assert pixels.shape == (32, 32, 3)
    assert (pixels[0] == 255).all()
    assert (pixels[16, 16] == 0).all()
    assert np.abs(pixels.astype(int) - pixels[::-1].astype(int)).max() <= 2
    assert np.abs(pixels.astype(int) - pixels.transpose(1, 0, 2).astype(int)).max() <= 2
    assert abs((255 - pixels[..., 0].astype(float)).sum() / 255 - np.pi * 100) < 2  # the area of the disc
    assert len(np.unique(pixels)) > 8  # soft edges


def test_render_keeps_a_margin():
    pixels = square('<rect width="32" height="32" fill="#00f"/>', size=128, style="openmoji")
    ink = np.flatnonzero((pixels < 250).any(-1).any(0))
    assert ink[0] >= 2
    assert ink[-1] <= 125
    assert ink[-1] - ink[0] > 115


def test_render_moves_what_sticks_out():
    pixels = square('<rect x="0" y="12" width="8" height="8" fill="#00f"/>', size=128, style="openmoji")
    ink = np.flatnonzero((pixels < 128).any(-1).any(0))
    assert 2 <= ink[0] <= 4  # 1.2 times its size, it would begin left of the picture


def test_render_wide_view_box():
    text = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 30 20"><rect width="30" height="20" fill="#f00"/></svg>'
    pixels = np.asarray(Image.open(io.BytesIO(render(Job("noto", "X", text, 96, "white")).png)))
    ink = (pixels[..., 1] < 128).nonzero()
    height, width = (int(np.ptp(axis)) + 1 for axis in ink)
    assert abs(width / height - 1.5) < 0.06
    assert abs((ink[0].min() + ink[0].max()) / 2 - 47.5) <= 1


def test_render_transparent_has_no_halo():
    pixels = square('<circle cx="16" cy="16" r="10" fill="#f00"/>', "transparent")
    assert pixels.shape == (32, 32, 4)
    assert (pixels[..., 0][pixels[..., 3] > 0] >= 254).all()
    assert pixels[0, 0, 3] == 0


BLURRED = """<defs><filter id="f"><feGaussianBlur stdDeviation="3"/></filter></defs>
<circle cx="16" cy="16" r="7" fill="#38c" filter="url(#f)"/>
<rect x="9" y="12" width="9" height="5" fill="#fff" opacity="0.4"/>"""


@pytest.mark.parametrize("style", PHRASES)
def test_transparent_pictures_laid_on_white_are_the_white_ones(style):
    """To the last bit, soft edges and faint whites too; so the splits are the same."""
    white, rgba = (square(BLURRED, background, style, size=64) for background in ("white", "transparent"))
    assert (lay_on_white(rgba) == white).all()
    assert len(np.unique(rgba[..., 3])) > 50


@pytest.mark.parametrize(("text", "reason"), [("<svg", "cannot draw"), (svg(""), "empty")])
def test_render_names_what_it_cannot_draw(text, reason):
    with pytest.raises(InputError, match=f"noto 1F409: .*{reason}"):
        render(Job("noto", "1F409", text, 32, "white"))


def tarball(cache: Path, package: Package, files: dict[str, str]) -> Package:
    """Write `files` as the package's tarball; the package with the tarball's own digest."""
    with tarfile.open(cache / package.tarball, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            data = text.encode()
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return Package(package.name, package.version, hashlib.sha256((cache / package.tarball).read_bytes()).hexdigest())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with small packages of the real layout."""
    folder = tmp_path / "cache"
    folder.mkdir()
    icons = {"width": 32, "height": 32, "icons": {"dragon": {"body": RED.split(">", 1)[1].removesuffix("</svg>")}}}
    flags = f'<svg><svg viewBox="0 0 32 32" xmlns="http://www.w3.org/2000/svg" id="1F469-200D-1F692">{RED}</svg></svg>'
    files = {
        "EMOJIBASE": {"en/data.json": json.dumps([DRAGON, WOMAN]), "meta/groups.json": json.dumps(NAMES)},
        "TWEMOJI": {"1f409.svg": RED, "1f469-200d-1f692.svg": RED, "license": "MIT"},
        "OPENMOJI": {"color/svg/1F409.svg": RED, "black/svg/1F409.svg": RED},
        "FLUENT": {
            "icons/modern/dragon.svg": RED,
            "icons/flat/dragon.svg": RED,
            "icons/modern/woman-firefighter-medium.svg": svg(""),
        },
        "NOTO": {"icons.json": json.dumps(icons), "chars.json": json.dumps({"1f409": "dragon"}), "info.json": "{}"},
        "NOTO_FLAGS": {"sprites/all.svg": flags},
    }
    for name, content in files.items():
        monkeypatch.setattr(emoji_sources, name, tarball(folder, getattr(emoji_sources, name), content))
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("no network in tests"))
    return folder


def test_build(cache, tmp_path):
    seen = []
    report = build_emoji(tmp_path / "set", 32, cache=cache, workers=1, progress=lambda *event: seen.append(event))
    rows = [json.loads(line) for line in (tmp_path / "set" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["file_name"] for row in rows] == [
        "images/noto/1F409.png", "images/twemoji/1F409.png", "images/openmoji/1F409.png", "images/fluent-3d/1F409.png",
        "images/fluent-flat/1F409.png", "images/noto/1F469-200D-1F692.png", "images/twemoji/1F469-200D-1F692.png",
    ]  # fmt: skip
    assert report.total == len(rows) == sum(report.counts.values())
    assert list(report.failed) == ["fluent-3d/1F469-1F3FD-200D-1F692"]
    for row in rows:
        image = Image.open(tmp_path / "set" / row["file_name"])
        assert (image.size, image.mode, image.format) == ((32, 32), "RGBA", "PNG")
        assert row["texts"][0] == row["text"]
        assert row["split"] in (hash_split(row["hexcode"], row["style"]), "excluded")
    assert rows[3] | {"texts": 0, "split": 0} == {
        "file_name": "images/fluent-3d/1F409.png", "text": "dragon, 3D style", "texts": 0, "hexcode": "1F409",
        "style": "fluent-3d", "label": "dragon", "tags": ["animal", "fairy", "tale"],
        "group": "animals-nature", "subgroup": "animal-reptile",
        "tone": [], "family": "1F409", "split": 0,
    }  # fmt: skip
    assert "CC BY-SA 4.0" in (tmp_path / "set" / "NOTICE").read_text()
    assert ("rendering", 8, 8) in seen


def test_build_is_deterministic_with_processes_too(cache, tmp_path):
    contents = []
    for name, workers in (("a", 1), ("b", 2)):
        build_emoji(tmp_path / name, 32, cache=cache, workers=workers)
        contents.append(
            {p.relative_to(tmp_path / name): p.read_bytes() for p in sorted((tmp_path / name).rglob("*")) if p.is_file()}
        )
    assert contents[0] == contents[1]
    build_emoji(tmp_path / "a", 32, styles=["noto"], background="white", cache=cache, workers=1)  # again, into the same folder
    assert len((tmp_path / "a" / "metadata.jsonl").read_text().splitlines()) == 2
    assert Image.open(tmp_path / "a" / "images" / "noto" / "1F409.png").mode == "RGB"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "size 8"),
        ({"styles": ["notto"]}, "did you mean 'noto'"),
        ({"styles": []}, "no style"),
        ({"background": "blue"}, "background"),
        ({"num_pairs": -1}, "num_pairs -1"),
    ],
)
def test_build_refuses(cache, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        build_emoji(tmp_path / "set", cache=cache, **options)
    assert not (tmp_path / "set").exists()


def test_build_does_not_touch_a_folder_of_something_else(cache, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to mother.txt").write_text("dear")
    with pytest.raises(InputError, match="holds other files"):
        build_emoji(tmp_path / "letters", cache=cache)
    with pytest.raises(InputError, match="is a file"):
        build_emoji(tmp_path / "letters" / "to mother.txt", cache=cache)


PACKAGE = Package("@scope/name", "1.0.0", hashlib.sha256(b"good").hexdigest())


def test_no_npm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MachineError, match=r"npm was not found.*scope-name-1\.0\.0\.tgz.*npm pack @scope/name@1\.0\.0"):
        fetch(PACKAGE, tmp_path / "cache")


def fake_npm(folder: Path, script: str) -> None:
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", MachineError, "ENOTFOUND.*check the network"),
        ("exit 0", MachineError, "no output"),
        ("printf bad > scope-name-1.0.0.tgz", InputError, "delete it and run again"),
    ],
)
def test_npm_fails(tmp_path, monkeypatch, script, error, message):
    fake_npm(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(error, match=message):
        fetch(PACKAGE, tmp_path / "cache")


def test_npm_is_asked_once(tmp_path, monkeypatch):
    fake_npm(tmp_path / "bin", f'echo "$@" >> {tmp_path}/calls; printf good > scope-name-1.0.0.tgz')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    for _ in range(2):
        assert fetch(PACKAGE, tmp_path / "cache").read_bytes() == b"good"
    assert (tmp_path / "calls").read_text().splitlines() == ["pack --silent --ignore-scripts @scope/name@1.0.0"]
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["scope-name-1.0.0.tgz"]
