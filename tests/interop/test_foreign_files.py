"""A file is what its bytes are, whatever its name; what cannot be read is said to be what it is."""

from __future__ import annotations

import gzip
import io
import os
import random
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from hostile import refusal, rewrite, state
from sfumato.errors import InputError
from sfumato.interop.archive import members
from sfumato.interop.checkpoint import open_checkpoint
from sfumato.interop.files import Kind, kind_of
from sfumato.interop.torchfile import read_zip

NAMES = ("model.safetensors", "model.ckpt", "model.bin", "model.png")


def torch_bytes(legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": state()}, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def tar_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


def other_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.txt", "hello")
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
)
CONTENTS: dict[str, tuple[bytes, str]] = {
    "pointer": (LFS + b"size 12345\n", "Git LFS pointer"),
    "page": (b"<!DOCTYPE html>\n<html><head><title>Access denied</title>", "web page"),
    "page with a mark": (b"\xef\xbb\xbf\r\n  <html lang=en>", "web page"),
    "empty": (b"", "is empty"),
    "zeros": (b"\0" * 5000, "zeros only"),
    "json": (b'{"error": "not found"}', "JSON text"),
    "yaml": (b"model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n", "is text"),
    "gzip": (gzip.compress(b"x" * 100), "gzip"),
    "tar": (tar_bytes(), "tar archive"),
    "other zip": (other_zip(), "zip archive of something else"),
    "empty zip": (b"PK\5\6" + b"\0" * 18, "empty zip"),
    "gguf": (b"GGUF\3\0\0\0" + b"\1" * 50, "GGUF"),
    "array": (npy(), "NumPy array"),
    "picture": (b"\x89PNG\r\n\x1a\n" + b"\1" * 50, "picture"),
    "noise": (random.Random(0).randbytes(5000), "no format"),
    "a few bytes": (b"\x01\x02\x03", "3 bytes only"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", CONTENTS)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, name: str, what: str) -> None:
    data, sentence = CONTENTS[what]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=re.escape(sentence)) as caught:
        open_checkpoint(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_name_says_nothing(tmp_path: Path, name: str) -> None:
    for data, kind in (
        (save(state()), Kind.safetensors),
        (torch_bytes(), Kind.torch_zip),
        (torch_bytes(True), Kind.torch_legacy),
    ):
        (tmp_path / name).write_bytes(data)
        found = open_checkpoint(tmp_path / name)
        assert (found.kind, kind_of(tmp_path / name)) == (kind, kind)
        assert all(torch.equal(found.index[k].read(), v) for k, v in state().items())


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(InputError, match=r"holds neither model_index\.json nor config\.json"):
        open_checkpoint(tmp_path)
    with pytest.raises(InputError, match="cannot be opened"):
        open_checkpoint("a" * 5000)
    with pytest.raises(InputError, match="cannot be opened"):
        open_checkpoint("a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe or a device"):
        open_checkpoint(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe or a device"):
        open_checkpoint("/dev/zero")


def test_a_variant_belongs_to_folders(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "x")
    with pytest.raises(InputError, match="is a choice among the files of a folder"):
        open_checkpoint(tmp_path / "x", variant="fp16")


def test_members_are_where_zipfile_says(tmp_path: Path) -> None:
    """Python's own zip reader gives the same bytes."""
    (tmp_path / "x.ckpt").write_bytes(torch_bytes())
    found, data = members(tmp_path / "x.ckpt"), (tmp_path / "x.ckpt").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.ckpt") as file:
        assert {f"archive/{name}" for name in found} == set(file.namelist())
        for name, member in found.items():
            assert data[member.offset : member.offset + member.size] == file.read(f"archive/{name}")
            assert member.crc == zlib.crc32(file.read(f"archive/{name}"))


def test_zips_with_and_without_zip64(tmp_path: Path) -> None:
    rewrite(tmp_path / "x.ckpt", torch_bytes(), {})  # Python writes zip64 only where it must, torch always
    assert b"PK\6\6" not in (tmp_path / "x.ckpt").read_bytes()
    assert b"PK\6\6" in torch_bytes()
    assert open_checkpoint(tmp_path / "x.ckpt").index.keys() == state().keys()


def test_zip64_fields(tmp_path: Path) -> None:
    """Files over 4 GB keep sizes and places beside the entries; here every entry does. Python's zip reader is the witness."""
    data = torch_bytes()
    start, entries = data.find(b"PK\1\2"), b""
    for at in (match.start() for match in re.finditer(b"PK\1\2", data)):
        fixed, (length, extra) = bytearray(data[at : at + 46]), struct.unpack_from("<2H", data, at + 28)
        packed, size, header = struct.unpack_from("<2I", data, at + 20) + struct.unpack_from("<I", data, at + 42)
        fixed[20:28] = b"\xff" * 8
        fixed[42:46] = b"\xff" * 4
        fixed[30:32] = struct.pack("<H", 28)
        assert extra == 0
        entries += fixed + data[at + 46 : at + 46 + length] + struct.pack("<2H3Q", 1, 24, size, packed, header)
    number = len(re.findall(b"PK\1\2", data))
    where = start + len(entries)
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, number, number, len(entries), start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, where, 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "x.ckpt").write_bytes(data[:start] + entries + record + locator + end)
    with zipfile.ZipFile(tmp_path / "x.ckpt") as file:
        assert file.read("archive/data.pkl")
    found = open_checkpoint(tmp_path / "x.ckpt").index
    assert all(torch.equal(found[name].read(), tensor) for name, tensor in state().items())


def compressed(path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(torch_bytes())) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))


def bomb(path: Path) -> None:
    """A gigabyte of zeros in a megabyte."""
    with zipfile.ZipFile(io.BytesIO(torch_bytes())) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            if info.filename.endswith("data/0"):
                with new.open(info.filename, "w") as file:
                    for _ in range(64):
                        file.write(bytes(2**20))
            else:
                new.writestr(info.filename, old.read(info))


def added(*names: str) -> Callable[[Path], None]:
    return lambda path: rewrite(path, torch_bytes(), {}, dict.fromkeys(names, b"x"))


def patched(find: bytes, replace: bytes, at: int = -1) -> Callable[[Path], None]:
    """Bytes of the directory changed, counted from the last place where `find` stands."""

    def write(path: Path) -> None:
        data = bytearray(torch_bytes())
        where = data.rfind(find) if at < 0 else data.find(find)
        data[where : where + len(replace)] = replace
        path.write_bytes(bytes(data))

    return write


def entry(offset: int, value: bytes) -> Callable[[Path], None]:
    """A field of the first member's entry in the central directory."""

    def write(path: Path) -> None:
        data = bytearray(torch_bytes())
        where = data.find(b"PK\1\2") + offset
        data[where : where + len(value)] = value
        path.write_bytes(bytes(data))

    return write


def around(before: bytes, after: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(before + torch_bytes() + after)


def overlapping(path: Path) -> None:
    """The second storage's entry leads to the first storage's header under a name of its own."""
    data = torch_bytes()
    at = [m.start() for m in re.finditer(b"PK\1\2", data)]
    headers = [data[a + 42 : a + 46] for a in at]
    names = [data[a + 46 : a + 46 + struct.unpack_from("<H", data, a + 28)[0]] for a in at]
    one, two = names.index(b"archive/data/0"), names.index(b"archive/data/1")
    changed = bytearray(data)
    changed[at[two] + 42 : at[two] + 46] = headers[one]
    path.write_bytes(bytes(changed))


ARCHIVES: dict[str, tuple[Callable[[Path], None], str]] = {
    "compressed": (compressed, "compressed or encrypted"),
    "bomb": (bomb, "compressed or encrypted"),
    "encrypted": (entry(8, b"\x01\x08"), "compressed or encrypted"),
    "strongly encrypted": (entry(8, b"\x40\x08"), "compressed or encrypted"),
    "masked": (entry(8, b"\x08\x28"), "compressed or encrypted"),
    "method of no sense": (entry(10, b"\x63\x00"), "compressed or encrypted"),
    "climbs": (added("archive/../../evil"), "unsafe name"),
    "climbs at once": (added("../evil"), "unsafe name"),
    "absolute": (added("/etc/passwd"), "unsafe name"),
    "backslash": (added("archive\\..\\evil"), "unsafe name"),
    "control characters": (added("archive/a\x1b[2J"), "unsafe name"),
    "empty part": (added("archive//a"), "unsafe name"),
    "two of a name": (added("archive/data.pkl"), "two members of the name"),
    "two but for case": (added("archive/DATA.pkl"), "two members of the name"),
    "two folders": (added("evil/data.pkl"), "zip archive of something else"),
    "a program": (added("archive/constants.pkl"), "TorchScript program"),
    "data before": (around(b"PK\3\4", b""), "damaged"),
    "data behind": (around(b"", b"evil"), "other data behind it"),
    "another archive behind": (around(b"", other_zip()), "zip archive"),
    "size too large": (entry(24, b"\xff\xff\xff\x7f"), "damaged|compressed|does not fit"),
    "header elsewhere": (entry(42, b"\x05\x00\x00\x00"), "damaged|does not fit"),
    "header beyond the end": (entry(42, b"\xff\xff\xff\x7f"), "damaged|does not fit"),
    "name too long": (entry(28, b"\xff\xff"), "damaged"),
    "other name in the header": (patched(b"archive/data/0", b"archive/data/9", 0), "does not fit"),
    "overlap": (overlapping, "does not fit|overlap"),
    "many entries": (patched(b"PK\5\6", b"PK\5\6" + b"\0" * 4 + b"\xff\xff\xff\xff"), "damaged|end"),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_archives_that_torch_did_not_write(tmp_path: Path, what: str) -> None:
    write, why = ARCHIVES[what]
    with pytest.warns(UserWarning, match="Duplicate") if what == "two of a name" else _nothing():
        write(tmp_path / "x.ckpt")
    if what == "many entries":  # torch's own zip64 record speaks where the old one does not
        assert open_checkpoint(tmp_path / "x.ckpt").index
        return
    with pytest.raises(InputError, match=why) as caught:
        open_checkpoint(tmp_path / "x.ckpt")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.parent.glob("evil*"))


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_a_nested_archive_stays_closed(tmp_path: Path) -> None:
    rewrite(tmp_path / "x.ckpt", torch_bytes(), {}, {"archive/evil.zip": other_zip(), "archive/evil.pkl": b"cos\nsystem\n."})
    assert read_zip(tmp_path / "x.ckpt").index.keys() == state().keys()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_mutations(tmp_path: Path, legacy: bool) -> None:
    """Of an honest file with one wrong byte outside its numbers, nothing comes but its tensors' places or one line."""
    honest, rng, path = torch_bytes(legacy), random.Random(1), tmp_path / "x.ckpt"
    refused = 0
    for _ in range(25):
        data = bytearray(honest)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))
        message = refusal(lambda: [t.sum() for t in open_checkpoint(path).index.read().values()])
        assert message is None or "\n" not in message
        refused += message is not None
    assert refused > 2
