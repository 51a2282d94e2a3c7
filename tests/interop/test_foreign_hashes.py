"""Hashes are taken once and remembered by size and time; `verify` takes them again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from sfumato.errors import InputError
from sfumato.interop import hashes
from sfumato.interop.hashes import HASHES, file_hash, user_cache


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were read to be hashed."""
    seen: list[Path] = []

    def count(path: Path) -> str:
        seen.append(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(hashes, "sha256", count)
    return seen


def test_a_file_is_hashed_once(tmp_path: Path, reads: list[Path]) -> None:
    path = tmp_path / "ü.ckpt"
    path.write_bytes(b"weights")
    for _ in range(3):
        assert file_hash(path, cache=tmp_path / "cache") == hashlib.sha256(b"weights").hexdigest()
    assert reads == [path]
    (tmp_path / "link").symlink_to(path)
    file_hash(tmp_path / "link", cache=tmp_path / "cache")
    assert reads == [path]


def test_another_size_or_time_is_another_file(tmp_path: Path, reads: list[Path]) -> None:
    path, cache = tmp_path / "x", tmp_path / "cache"
    path.write_bytes(b"one")
    file_hash(path, cache=cache)
    path.write_bytes(b"three")
    assert file_hash(path, cache=cache) == hashlib.sha256(b"three").hexdigest()
    os.utime(path, ns=(1, 1))
    assert file_hash(path, cache=cache) == hashlib.sha256(b"three").hexdigest()
    assert len(reads) == 3


def test_verify_finds_silent_damage(tmp_path: Path, reads: list[Path]) -> None:
    path, cache = tmp_path / "x", tmp_path / "cache"
    path.write_bytes(b"weights")
    before, digest = path.stat(), file_hash(path, cache=cache)
    assert file_hash(path, verify=True, cache=cache) == digest
    path.write_bytes(b"wfights")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_hash(path, cache=cache) == digest  # as far as size and time tell
    with pytest.raises(InputError, match="other bytes than when it was first seen"):
        file_hash(path, verify=True, cache=cache)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"x": 3}', b"\xff"])
def test_a_damaged_cache_costs_time_only(tmp_path: Path, content: bytes, reads: list[Path]) -> None:
    path, cache = tmp_path / "x", tmp_path / "cache"
    path.write_bytes(b"weights")
    cache.mkdir()
    (cache / HASHES).write_bytes(content)
    for _ in range(2):
        assert file_hash(path, cache=cache) == hashlib.sha256(b"weights").hexdigest()
    assert reads == [path]


def test_a_cache_that_cannot_be_written(tmp_path: Path, reads: list[Path]) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"weights")
    (tmp_path / "cache").write_bytes(b"a file where the folder would be")
    for _ in range(2):
        assert file_hash(path, cache=tmp_path / "cache") == hashlib.sha256(b"weights").hexdigest()
    assert len(reads) == 2


def test_the_cache_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]) -> None:
    monkeypatch.setattr(hashes, "MOST", 3)
    for number in range(5):
        (tmp_path / str(number)).write_bytes(b"%d" % number)
        file_hash(tmp_path / str(number), cache=tmp_path / "cache")
    for number in (4, 3, 2):
        file_hash(tmp_path / str(number), cache=tmp_path / "cache")
    assert len(reads) == 5
    file_hash(tmp_path / "0", cache=tmp_path / "cache")
    assert len(reads) == 6


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "own"))
    assert user_cache() == tmp_path / "own"
    monkeypatch.delenv("SFUMATO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(hashes.sys, "platform", "linux")
    assert user_cache() == tmp_path / "xdg" / "sfumato"
