"""Files are whole or not there, whatever the disk does; a manifest tells what was changed."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from faults import Disk, die, in_child, refuse
from sfumato.errors import InputError, MachineError
from sfumato.io.files import MANIFEST, check_manifest, new_directory, read_json, remove_leftovers, write_bytes, write_json

OLD, NEW = b"old" * 100, b"new!" * 100


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def operations(work: object) -> int:
    """How many operations the disk sees when nothing fails."""
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(0, refuse()).install(patch)
        work()
    return disk.count


def write_folder(target: Path, text: str) -> None:
    with new_directory(target) as folder:
        write_json(folder / "a.json", {"text": text})
        write_bytes(folder / "sub" / "b.bin", text.encode() * 50)


def test_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_bytes(path, OLD)
    write_bytes(path, NEW)
    assert path.read_bytes() == NEW
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_failing_file_writes_leave_the_old_file(tmp_path: Path, number: int) -> None:
    path = tmp_path / "file"
    write_bytes(path, OLD)
    count = operations(lambda: write_bytes(tmp_path / "file", OLD))
    assert count == 5  # open, write, fsync, rename, fsync of the folder
    for at in range(1, count + 1):
        with pytest.MonkeyPatch.context() as patch:
            Disk(at, refuse(number)).install(patch)
            with pytest.raises(MachineError, match="cannot write") as caught:
                write_bytes(path, NEW)
        assert str(path) in str(caught.value)
        assert os.strerror(number) in str(caught.value)
        assert path.read_bytes() == (OLD if at < count else NEW)  # the last only makes the rename survive a power cut
        assert names(tmp_path) == ["file"]
        write_bytes(path, OLD)


def test_other_errors_leave_the_old_file_too(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, OLD)

    def interrupt() -> None:
        raise KeyboardInterrupt

    for at in range(1, 5):
        with pytest.MonkeyPatch.context() as patch:
            Disk(at, interrupt).install(patch)
            with pytest.raises(KeyboardInterrupt):
                write_bytes(path, NEW)
        assert path.read_bytes() == OLD
        assert names(tmp_path) == ["file"]


def test_failing_folder_writes_leave_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    count = operations(lambda: write_folder(tmp_path / "x", "x"))
    shutil.rmtree(tmp_path / "x")
    for exists in (False, True):
        if exists:
            write_folder(target, "old")
        total = count + exists  # the old one steps aside
        for at in range(1, total + 1):
            with pytest.MonkeyPatch.context() as patch:
                Disk(at, refuse()).install(patch)
                with pytest.raises(MachineError, match="cannot write"):
                    write_folder(target, "new")
            if at == total:  # only the folder's fsync failed: the new one is there, whole
                check_manifest(target)
                assert read_json(target / "a.json") == {"text": "new"}
            elif exists:
                check_manifest(target)
                assert read_json(target / "a.json") == {"text": "old"}
            assert names(tmp_path) == (["folder"] if exists or at == total else [])


def test_a_block_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "old")

    def half() -> None:
        with new_directory(tmp_path / "folder") as folder:
            write_bytes(folder / "a.json", b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert read_json(tmp_path / "folder" / "a.json") == {"text": "old"}
    assert names(tmp_path) == ["folder"]


def test_killed_writes_leave_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for at in range(1, 6):
        write_bytes(path, OLD)

        def work(at: int = at) -> None:
            Disk(at, die).install(pytest.MonkeyPatch())
            write_bytes(path, NEW)

        assert in_child(work) == -9
        assert path.read_bytes() == (OLD if at < 5 else NEW)


def test_leftovers_of_killed_writes_can_be_removed(tmp_path: Path) -> None:
    for kept in (".hidden", ".git/x.1.tmp", "a.12.tmp", ".a.b.tmp"):
        write_bytes(tmp_path / kept, b"x")
    before = sorted(tmp_path.rglob("*"))

    def work(at: int) -> None:
        Disk(at, die).install(pytest.MonkeyPatch())
        write_folder(tmp_path / "deep" / "folder", "new")
        write_bytes(tmp_path / "deep" / "file", NEW)

    for at in (3, 11, 17, 20):
        assert in_child(lambda at=at: work(at)) == -9
    leftovers = [p for p in (tmp_path / "deep").rglob("*") if p.name.endswith((".tmp", ".old"))]
    assert leftovers
    remove_leftovers(tmp_path)
    assert not any(p.exists() for p in leftovers)
    assert all(p.exists() for p in before)
    check_manifest(tmp_path / "deep" / "folder")


def test_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(MachineError, match="Permission denied"):
        write_bytes(tmp_path / "a" / "b", NEW)
    with pytest.raises(MachineError, match="Permission denied"), new_directory(tmp_path / "c"):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"\x00", b"[1,", b"nope", b"[" * 100_000, b"1" * 5000])
def test_read_json_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match="no such file"):
        read_json(path)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json"):
        read_json(path)


def test_a_folder_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        read_json(tmp_path)


def test_names_that_are_not_utf8_survive_json(tmp_path: Path) -> None:
    """As Python spells the file name b"caf\\xe9": json would write a character that UTF-8 does not have."""
    write_json(tmp_path / "x.json", {"name": "caf\udce9 é 犬"})
    assert read_json(tmp_path / "x.json") == {"name": "caf\udce9 é 犬"}
    assert "é 犬" in (tmp_path / "x.json").read_text("utf-8")


def test_manifest_lists_every_file(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "text")
    entries = read_json(tmp_path / "folder" / MANIFEST)["files"]
    assert sorted(entries) == ["a.json", "sub/b.bin"]
    assert entries["sub/b.bin"]["bytes"] == 200
    check_manifest(tmp_path / "folder")


def damage_bit(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def test_every_damage_is_found(tmp_path: Path) -> None:
    rng, whole, folder = random.Random(0), tmp_path / "whole", tmp_path / "folder"
    write_folder(whole, "some text")
    files = [whole / "a.json", whole / "sub" / "b.bin", whole / MANIFEST]
    for index in range(300):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        path = folder / rng.choice(files).relative_to(whole)
        if index < 200:
            damage_bit(path, rng)
        elif index < 250:
            path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
        elif index < 275:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes() + b"x")
        with pytest.raises(InputError, match=r"restore it|no such file") as caught:
            check_manifest(folder)
        assert "\n" not in str(caught.value)


def test_swapped_files_are_found(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_folder(tmp_path / name, name)
    shutil.copy(tmp_path / "two" / "a.json", tmp_path / "one" / "a.json")
    with pytest.raises(InputError, match=r"a\.json does not match"):
        check_manifest(tmp_path / "one")


@pytest.mark.parametrize("manifest", [[], {}, {"files": []}, {"files": {"a.json": 3}}, {"files": {"a.json": {}}}, None, 3])
def test_manifest_of_another_kind(tmp_path: Path, manifest: object) -> None:
    write_folder(tmp_path / "folder", "x")
    (tmp_path / "folder" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="restore it"):
        check_manifest(tmp_path / "folder")
