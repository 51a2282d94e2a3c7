"""Tar shards: round trip, and archives that mean no good."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from corpus import picture, saved
from PIL import Image

from sfumato.data.dataset import ImageDataset
from sfumato.data.folder import scan
from sfumato.data.shards import pack
from sfumato.errors import InputError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "folder"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for index in range(5):
        pixels = rng.integers(0, 256, (16, 16, 3 if index else 4)).astype(np.uint8)
        (root / "images" / f"v1.{index}.png").write_bytes(saved(pixels, "PNG"))
        rows.append(
            {"file_name": f"images/v1.{index}.png", "text": f"picture {index}", "texts": ["b"], "label": "x", "style": "s"}
        )
    rows[3]["split"] = "test"
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.mark.parametrize("format", ["webp", "bmp"])
def test_round_trip(folder, tmp_path, format):
    size = pack(folder, tmp_path / "a.tar", format=format)
    assert size == (tmp_path / "a.tar").stat().st_size
    before, after = scan(folder), scan(tmp_path / "a.tar")
    assert after.convention == "shard"
    assert [(r.captions, r.label, r.split, r.row["style"]) for r in after.records] == [
        (r.captions, r.label, r.split, r.row["style"]) for r in before.records
    ]
    assert after.records[3].split == "test"
    for channels in (3, 4):
        left, right = ImageDataset(before.records, 16, channels), ImageDataset(after.records, 16, channels)
        assert torch.equal(left.load_all(), right.load_all())
    assert [r.name for r in after.records] == [f"images/v1_{i}.{format}" for i in range(5)]


@pytest.mark.parametrize("format", ["webp", "bmp"])
def test_lossless_keeps_transparency_as_other_programs_see_it(folder, tmp_path, format):
    """Straight RGBA in the file: the alpha as it was, and on black what the picture showed on black."""
    pack(folder, tmp_path / "a.tar", format=format)
    before, after = (
        np.asarray(Image.open(io.BytesIO(scan(path).records[0].read()))).astype(float) for path in (folder, tmp_path / "a.tar")
    )
    assert before.shape == after.shape == (16, 16, 4)
    assert (before[..., 3] == after[..., 3]).all()
    shown, kept = (rgba[..., :3] * rgba[..., 3:] / 255 for rgba in (before, after))
    assert np.abs(shown - kept).max() <= 0.5 + 0.5  # rounded on white, and to a straight colour
    opaque = Image.open(io.BytesIO(scan(tmp_path / "a.tar").records[1].read()))
    assert opaque.mode == "RGB"


def test_packing_is_deterministic_and_complete(folder, tmp_path):
    for name in ("a.tar", "b.tar"):
        pack(folder, tmp_path / name, size=8, quality=90)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "b.tar", "folder"]
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert len(archive.getmembers()) == 10


@pytest.mark.parametrize("options", [{"quality": 0}, {"quality": 101}, {"format": "gif"}])
def test_impossible_packs(folder, tmp_path, options):
    with pytest.raises(InputError):
        pack(folder, tmp_path / "a.tar", **options)
    assert not (tmp_path / "a.tar").exists()


def test_a_bad_picture_leaves_nothing_half_written(folder, tmp_path):
    (folder / "images" / "v1.4.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"v1\.4\.png: the file is empty"):
        pack(folder, tmp_path / "a.tar")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_names_are_labels_never_paths(tmp_path):
    png = saved(picture(), "PNG")
    hostile = ["../../up.png", "/abs/olute.png", "a/../../b.png", "~/.ssh/c.png", "C:\\d.png"]
    (tmp_path / "a.tar").write_bytes(archive_of(*((member(name), png) for name in hostile)))
    folder = scan(tmp_path / "a.tar")
    assert len(folder.records) == 5
    assert all(record.path == tmp_path / "a.tar" and record.read() == png for record in folder.records)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_links_and_devices_are_passed_over(tmp_path):
    kinds = [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "ok.png"),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CHRTYPE, ""),
        (tarfile.DIRTYPE, ""),
    ]
    members = [(member(f"{index}.png", kind, target), b"") for index, (kind, target) in enumerate(kinds)]
    (tmp_path / "a.tar").write_bytes(archive_of((member("ok.png"), saved(picture(), "PNG")), *members))
    assert [record.name for record in scan(tmp_path / "a.tar").records] == ["ok.png"]


def test_text_and_class_members(tmp_path):
    png = saved(picture(), "PNG")
    files = {"a.jpg": png, "a.txt": b"a cat\n", "a.cls": b"3\n", "b.seg.png": png, "b.txt": b"b"}
    (tmp_path / "a.tar").write_bytes(archive_of(*((member(name), data) for name, data in files.items())))
    first, second = scan(tmp_path / "a.tar").records
    assert (first.captions, first.label) == (("a cat",), "3")
    assert second.captions == ("b",)


def test_two_pictures_of_one_key(tmp_path):
    png = saved(picture(), "PNG")
    (tmp_path / "a.tar").write_bytes(archive_of((member("a.png"), png), (member("a.jpg"), png)))
    folder = scan(tmp_path / "a.tar")
    assert len(folder.records) == 1
    assert [bad.name for bad in folder.bad] == ["a.jpg"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a tar"),
        (b"hello" * 1000, "not a tar"),
        (b"\x1f\x8b" + b"\0" * 600, "compressed archive"),
        (b"PK\3\4" + b"\0" * 600, "compressed archive"),
        (archive_of((member("a.png"), saved(picture(), "PNG") * 4))[:1500], "cut"),
        (archive_of((member("a.png"), b"x"), (member("a.json"), b"{")), "not JSON"),
        (archive_of((member("a.png"), b"x"), (member("a.json"), b"\xff\xfe")), "not UTF-8"),
        (archive_of((member("a.png"), b"x"), (member("a.json"), b'{"split": 3}')), "split 3"),
    ],
)
def test_what_is_no_shard(tmp_path, data, message):
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(InputError, match=message):
        scan(tmp_path / "a.tar")


def test_a_member_larger_than_the_archive_is_not_read(tmp_path):
    data = bytearray(archive_of((member("a.png"), saved(picture(), "PNG"))))
    data[124:136] = b"77777777777\0"  # 8 GB, says the header
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (tmp_path / "a.tar").write_bytes(bytes(data))
    with pytest.raises(InputError, match="cut at member 1"):
        scan(tmp_path / "a.tar")
