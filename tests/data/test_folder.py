"""Which files of a folder are found, with which captions, labels and splits."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from sfumato.data.folder import scan
from sfumato.data.split import split
from sfumato.errors import InputError


def draw(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, value, value)).save(path, "PNG")
    return path


def names(folder) -> list[str]:
    return [record.name for record in folder.records]


def test_captions_beside_pictures(tmp_path):
    draw(tmp_path / "b.png")
    draw(tmp_path / "sub" / "a.png")
    draw(tmp_path / "c.png")
    (tmp_path / "b.txt").write_text("a red dragon\na dragon\n")
    (tmp_path / "sub" / "a.png.txt").write_bytes("\ufeffh\u00e9llo".encode("utf-16-le"))
    folder = scan(tmp_path)
    assert folder.convention == "text"
    assert names(folder) == ["b.png", "c.png", "sub/a.png"]
    assert [record.captions for record in folder.records] == [("a red dragon", "a dragon"), (), ("h\u00e9llo",)]
    assert folder.classes == ()


def test_classes_by_subfolder(tmp_path):
    for name in ("cat/1.png", "cat/deep/2.png", "big_dog/1.png"):
        draw(tmp_path / name)
    folder = scan(tmp_path)
    assert folder.convention == "classes"
    assert folder.classes == ("big_dog", "cat")
    assert [(r.name, r.label, r.captions) for r in folder.records] == [
        ("big_dog/1.png", "big_dog", ("big dog",)),
        ("cat/1.png", "cat", ("cat",)),
        ("cat/deep/2.png", "cat", ("cat",)),
    ]


def test_pictures_in_the_root_mean_no_classes(tmp_path):
    draw(tmp_path / "1.png")
    draw(tmp_path / "cat" / "2.png")
    folder = scan(tmp_path)
    assert folder.convention == "images"
    assert [record.label for record in folder.records] == [None, None]


def test_split_folders(tmp_path):
    for name in ("train/cat/1.png", "val/cat/2.png", "test/dog/3.png"):
        draw(tmp_path / name)
    assert [(r.name, r.split, r.label) for r in scan(tmp_path).records] == [
        ("test/dog/3.png", "test", "dog"),
        ("train/cat/1.png", "train", "cat"),
        ("val/cat/2.png", "validation", "cat"),
    ]


def test_jsonl(tmp_path):
    for name in ("b.png", "a/1.png", "unlisted.png"):
        draw(tmp_path / name)
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "b.png", "text": "one", "texts": ["one", "two"], "split": "val", "style": "flat", "label": 3}\n'
        '\n{"file_name": "a/1.png", "caption": "three"}\n{"file_name": "gone.png", "text": "x"}\n'
    )
    folder = scan(tmp_path)
    assert folder.convention == "metadata"
    assert [(r.name, r.captions, r.label, r.split) for r in folder.records] == [
        ("a/1.png", ("three",), None, None),
        ("b.png", ("one", "two"), "3", "validation"),
    ]
    assert folder.records[1].row["style"] == "flat"
    assert [(bad.name, "line 4" in bad.reason) for bad in folder.bad] == [("gone.png", True)]


def test_csv_and_nested_tables(tmp_path):
    draw(tmp_path / "x" / "1.png")
    draw(tmp_path / "y" / "2.png")
    (tmp_path / "x" / "metadata.csv").write_bytes(b'\xef\xbb\xbffile_name,text,split\r\n1.png,"a, quoted\ncaption",test\r\n')
    (tmp_path / "y" / "metadata.jsonl").write_text('{"file_name": "2.png", "text": "two"}')
    assert [(r.name, r.captions, r.split) for r in scan(tmp_path).records] == [
        ("x/1.png", ("a, quoted caption",), "test"),
        ("y/2.png", ("two",), None),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[1]", "expected a JSON object"),
        ("[" * 100_000, "not JSON"),
        ('{"text": "x"}', "no file_name"),
        ('{"file_name": "../../etc/passwd"}', "below the folder"),
        ('{"file_name": "/etc/passwd"}', "below the folder"),
        ('{"file_name": "a.png", "split": "trian"}', "split 'trian'; expected train"),
        ('{"file_name": "a.png"}\n{"file_name": "a.png"}', "line 2: a.png has a row already"),
    ],
)
def test_wrong_tables(tmp_path, line, message):
    draw(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(InputError, match=message):
        scan(tmp_path)


def test_csv_without_end_of_quote(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"never closed\n')
    with pytest.raises(InputError, match="not CSV"):
        scan(tmp_path)


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        scan(tmp_path / "nothing")


def test_order_ignores_unicode_form_and_case_rules(tmp_path):
    given = ["B.png", "a.png", "\u00e9.png", "f.png", "z.png", "10.png", "9.png"]
    for name in given:
        draw(tmp_path / name)
    expected = ["10.png", "9.png", "B.png", "a.png", "f.png", "z.png", "\u00e9.png"]
    assert names(scan(tmp_path)) == expected
    (tmp_path / "\u00e9.png").rename(tmp_path / unicodedata.normalize("NFD", "\u00e9.png"))
    assert [unicodedata.normalize("NFC", name) for name in names(scan(tmp_path))] == expected


def test_hidden_files_and_other_files_are_passed_over(tmp_path):
    for name in (".hidden.png", ".git/1.png", "__MACOSX/1.png", "ok.png"):
        draw(tmp_path / name)
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "drawing.svg").write_text("<svg/>")
    folder = scan(tmp_path)
    assert names(folder) == ["ok.png"]
    assert [(bad.name, "SVG is not read" in bad.reason) for bad in folder.bad] == [("drawing.svg", True)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_links_and_fifos(tmp_path):
    outside = draw(tmp_path / "outside" / "secret.png")
    root = tmp_path / "root"
    draw(root / "real.png")
    (root / "inside link.png").symlink_to(root / "real.png")
    (root / "out link.png").symlink_to(outside)
    (root / "out folder").symlink_to(outside.parent)
    (root / "loop").symlink_to(root)
    (root / "self.png").symlink_to(root / "self.png")
    (root / "gone.png").symlink_to(root / "nothing.png")
    (root / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(root / "fifo.png")
    assert names(scan(root)) == ["inside link.png", "real.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_a_file_that_turns_into_a_fifo_does_not_hang(tmp_path):
    path = draw(tmp_path / "a.png")
    (record,) = scan(tmp_path).records
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="not a regular file"):
        record.read()


def test_a_linked_root_works(tmp_path):
    draw(tmp_path / "real" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert names(scan(tmp_path / "link")) == ["a.png"]


def test_split_by_hash_is_stable(tmp_path):
    for index in range(100):
        draw(tmp_path / f"{index}.png")
    records = scan(tmp_path).records
    parts = split(records)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (95, 5, 0)
    assert sorted(r.name for r in (*parts.train, *parts.validation)) == sorted(r.name for r in records)
    assert split(records) == parts
    assert split(records, seed=1).validation != parts.validation
    fewer = split(records[:-10])  # most of the held-out ones stay held out
    assert len({r.name for r in fewer.validation} & {r.name for r in parts.validation}) >= 3


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (10, 1), (40, 2)])
def test_split_of_small_folders(tmp_path, count, held_out):
    for index in range(count):
        draw(tmp_path / f"{index}.png")
    parts = split(scan(tmp_path).records)
    assert (len(parts.train), len(parts.validation)) == (count - held_out, held_out)


def test_split_limit_and_errors(tmp_path):
    for index in range(30):
        draw(tmp_path / f"{index}.png")
    records = scan(tmp_path).records
    assert len(split(records, 0.5, limit=4).validation) == 4
    with pytest.raises(InputError, match="fraction"):
        split(records, 0.0)
    with pytest.raises(InputError, match="at least 2"):
        split(records[:1])


def test_split_honours_the_column(tmp_path):
    rows = {"a": "train", "b": "validation", "c": "test", "d": "excluded", "e": ""}
    for name in rows:
        draw(tmp_path / f"{name}.png")
    lines = [f'{{"file_name": "{name}.png", "split": "{value}"}}' for name, value in rows.items()]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    parts = split(scan(tmp_path).records)
    assert [[r.name[0] for r in part] for part in (parts.train, parts.validation, parts.test)] == [["a", "e"], ["b"], ["c"]]
