"""The audit of a folder, and the data set made of what it leaves."""

import errno
import json

import numpy as np
import pytest
import torch
from corpus import bad, good, picture, saved

from sfumato.data.audit import audit
from sfumato.data.dataset import ImageDataset
from sfumato.data.folder import scan
from sfumato.errors import InputError, MachineError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for item in (*good(), *bad()):
        (folder / item.name).write_bytes(item.data)
    return folder


def test_the_corpus(corpus, tmp_path):
    report = audit(corpus, tmp_path / "audit" / "bad_files.jsonl", max_bad=1.0)
    assert {record.name for record in report.records} == {item.name for item in good()}
    assert {item.name for item in report.bad} == {item.name for item in bad()}
    listed = [json.loads(line) for line in (tmp_path / "audit" / "bad_files.jsonl").read_text().splitlines()]
    assert listed == [{"file": item.name, "reason": item.reason} for item in report.bad]
    assert report.sizes == (((32, 24), len(report.records)),)
    assert report.smallest_side == 24
    same = next(group for group in report.duplicates if "rgb.png" in group)
    assert {"rgb.bmp", "lossless.webp", "exif 6.png", "animated.png"} <= set(same)
    assert report.no_caption == len(report.records)
    assert any("unreadable" in line for line in report.lines())
    assert report.num_bytes == sum((corpus / item.name).stat().st_size for item in good())


def test_too_many_bad_files_stop_it_and_are_listed(corpus, tmp_path):
    with pytest.raises(InputError, match=r"unreadable .*more than 1\.0%.*Repair"):
        audit(corpus, tmp_path / "bad.jsonl")
    assert (tmp_path / "bad.jsonl").exists()


@pytest.mark.parametrize(("num_good", "num_bad", "stops"), [(10, 5, False), (10, 6, True), (3, 3, False), (3, 4, True)])
def test_a_handful_of_bad_files_is_allowed(tmp_path, num_good, num_bad, stops):
    for index in range(num_good):
        (tmp_path / f"good {index}.png").write_bytes(saved(picture(), "PNG"))
    for index in range(num_bad):
        (tmp_path / f"bad {index}.png").write_bytes(b"")
    if stops:
        with pytest.raises(InputError, match="unreadable"):
            audit(tmp_path)
    else:
        assert len(audit(tmp_path).records) == num_good


@pytest.mark.parametrize(("count", "message"), [(0, "0 pictures found"), (1, "1 readable picture of 1")])
def test_none_and_one(tmp_path, count, message):
    if count:
        (tmp_path / "a.png").write_bytes(saved(picture(), "PNG"))
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(InputError, match=message):
        audit(tmp_path)


def test_captions_are_counted(tmp_path):
    for name, caption in (("a", "a dragon"), ("b", "x"), ("c", "")):
        (tmp_path / f"{name}.png").write_bytes(saved(picture(), "PNG"))
        (tmp_path / f"{name}.txt").write_text(caption)
    report = audit(tmp_path)
    assert (report.no_caption, report.near_empty_captions) == (1, 1)
    assert report.duplicates == (("a.png", "b.png", "c.png"),)


def test_an_old_list_of_bad_files_is_removed(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(saved(picture(), "PNG"))
    (tmp_path / "bad.jsonl").write_text("old")
    audit(tmp_path, tmp_path / "bad.jsonl")
    assert not (tmp_path / "bad.jsonl").exists()


def test_an_unwritable_list(corpus, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match="cannot write"):
        audit(corpus, tmp_path / "file" / "bad.jsonl", max_bad=1.0)


def test_an_impossible_share(tmp_path):
    with pytest.raises(InputError, match="share between 0 and 1"):
        audit(tmp_path, max_bad=1.5)


def test_progress(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(saved(picture(), "PNG"))
    seen = []
    audit(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.fixture
def classes(tmp_path):
    for index, name in enumerate(("cat/1", "cat/2", "dog/1")):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(saved(np.full((16, 16, 3), 10 * index, np.uint8), "PNG"))
    return tmp_path


def test_dataset(classes):
    pictures = ImageDataset(scan(classes).records, 8)
    assert len(pictures) == 3
    assert pictures.shape == (3, 8, 8)
    assert [pictures.label(i) for i in range(3)] == [0, 0, 1]
    assert pictures.classes == ("cat", "dog")
    assert pictures.captions(2) == ("dog",)
    everything = pictures.load_all(workers=2)
    assert everything.dtype == torch.uint8
    assert everything.shape == (3, 3, 8, 8)
    for index in range(3):
        assert (everything[index] == 10 * index).all()
        assert torch.equal(pictures.pixels(index), everything[index])


def test_resident_pictures_are_read_once(classes, monkeypatch):
    pictures = ImageDataset(scan(classes).records, 8)
    everything = pictures.load_all()
    assert torch.equal(pictures.resident(), everything)
    monkeypatch.setattr(ImageDataset, "load_all", lambda self: pytest.fail("read again"))
    assert torch.equal(pictures.resident(), everything)


def test_too_many_resident_pictures_are_not_kept(classes, monkeypatch):
    pictures = ImageDataset(scan(classes).records, 8)
    monkeypatch.setattr("sfumato.data.dataset.KEPT", 3 * 3 * 8 * 8 - 1)
    first = pictures.resident()
    assert pictures.resident() is not first
    assert torch.equal(pictures.resident(), first)


def test_a_part_keeps_the_class_indices_of_the_whole(classes):
    folder = scan(classes)
    dogs = ImageDataset(folder.records[2:], 8, classes=folder.classes)
    assert dogs.label(0) == 1
    with pytest.raises(InputError, match="class 'dog' is none of"):
        ImageDataset(folder.records, 8, classes=("cat",)).label(2)


def test_no_caption_is_the_empty_one(tmp_path):
    (tmp_path / "a.png").write_bytes(saved(picture(), "PNG"))
    pictures = ImageDataset(scan(tmp_path).records, (8, 12), channels=1)
    assert pictures.captions(0) == ("",)
    assert pictures.label(0) is None
    assert pictures.pixels(0).shape == (1, 8, 12)


def test_fingerprint_depends_on_everything_that_reaches_a_batch(classes):
    def fingerprint(**options):
        return ImageDataset(scan(classes).records, **({"size": 8} | options)).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    assert (
        len({first, fingerprint(size=9), fingerprint(channels=1), fingerprint(background="black"), fingerprint(crop="pad")})
        == 5
    )
    (classes / "cat" / "1.png").write_bytes(saved(np.full((16, 16, 3), 99, np.uint8), "PNG"))
    changed = fingerprint()
    assert changed != first
    (classes / "cat" / "1.png").rename(classes / "cat" / "0.png")
    assert fingerprint() not in (first, changed)


def test_too_large_for_memory_is_said(classes, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(MachineError, match="3 pictures need"):
        ImageDataset(scan(classes).records, 8).load_all()


def test_a_full_disk_leaves_no_half_list(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.png").write_bytes(saved(picture(), "PNG"))
    (tmp_path / "in" / "bad.png").write_bytes(b"")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sfumato.data.audit.os.replace", full)
    with pytest.raises(MachineError, match="No space left"):
        audit(tmp_path / "in", tmp_path / "out" / "bad.jsonl")
    assert list((tmp_path / "out").iterdir()) == []
