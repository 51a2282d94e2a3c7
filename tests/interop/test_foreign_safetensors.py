"""safetensors headers: what the reference reader takes and is unambiguous is taken, bit for bit; the rest is refused."""

from __future__ import annotations

import json
import random
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from hostile import refusal
from sfumato.errors import InputError
from sfumato.interop.checkpoint import open_checkpoint
from sfumato.interop.files import Kind
from sfumato.interop.headers import MAX_HEADER, read_header

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool, torch.complex64,
)  # fmt: skip


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def test_every_type_is_bit_exact(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    saved = {f"t.{dtype}": (torch.rand(3, 7, generator=rng) * 100).to(dtype) for dtype in DTYPES}
    saved |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "nan": torch.tensor([float("nan"), -0.0])}
    save_file(saved, tmp_path / "x.safetensors", {"format": "pt", "global_step": "840000", "epoch": "3", "note": "ü"})
    found, expected = open_checkpoint(tmp_path / "x.safetensors"), load_file(tmp_path / "x.safetensors")
    assert found.kind is Kind.safetensors
    assert found.index.keys() == expected.keys()
    for name, tensor in found.index.read().items():
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)
        assert bits(tensor) == bits(expected[name]) == bits(saved[name])
    assert (found.metadata.step, found.metadata.epoch) == (840_000, 3)
    assert found.metadata.facts == {"format": "pt", "note": "ü"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_reading_as_another_type(tmp_path: Path, dtype: torch.dtype) -> None:
    """Larger than a piece, so that pieces meet; torch's own conversion is the witness."""
    saved = {
        "big": torch.randn(5_000_001),
        "whole": torch.arange(5),
        "half": torch.randn(4, 3).half(),
        "truth": torch.tensor([True]),
    }
    save_file(saved, tmp_path / "x.safetensors")
    got = open_checkpoint(tmp_path / "x.safetensors").index.read(dtype=dtype)
    assert torch.equal(got["big"], saved["big"].to(dtype))
    assert torch.equal(got["half"], saved["half"].to(dtype))
    assert torch.equal(got["whole"], saved["whole"])
    assert got["whole"].dtype == torch.int64
    assert got["truth"].dtype == torch.bool


def test_reading_some_names(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2), "b": torch.zeros(2)}, tmp_path / "x")
    index = open_checkpoint(tmp_path / "x").index
    assert list(index.read(["b"])) == ["b"]
    with pytest.raises(InputError, match="no tensor 'c' and 1 more in the file"):
        index.read(["a", "c", "d"])


def write(path: Path, header: str | bytes | dict[str, Any], data: bytes = b"\0" * 16, length: int | None = None) -> Path:
    raw = json.dumps(header).encode() if isinstance(header, dict) else header.encode() if isinstance(header, str) else header
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


A = '"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
B = '"b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}'


def table(*entries: str) -> str:
    return f"{{{', '.join(entries)}}}"


def one(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes}


BAD: dict[str, tuple[Any, str]] = {
    "a tensor twice": (table(A, A.replace("0, 8", "8, 16")), "'a' stands twice"),
    "a tensor twice, spelled differently": (table(A, B.replace('"b"', r'"\u0061"')), "'a' stands twice"),
    "a field twice": (
        '{"a": {"dtype": "F32", "dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', "'dtype' stands twice"),
    "notes twice": (table('"__metadata__": {}', '"__metadata__": {}', A, B), "'__metadata__' stands twice"),
    "a note twice": (table('"__metadata__": {"x": "1", "x": "2"}', A, B), "'x' stands twice"),
    "an overlap": (table(A, B.replace("8, 16", "4, 12")), "overlap"),
    "the same bytes": (table(A, B.replace("8, 16", "0, 8")), "overlap"),
    "a gap": (table(A.replace("[2]", "[1]").replace("0, 8", "0, 4"), B), "gap"),
    "a gap at the start": (table(B), "gap"),
    "too little": (table(A), "end at byte"),
    "too much": (one(shape=[8], data_offsets=[0, 32]), "did not finish"),
    "a size that is not the shape's": (one(shape=[3]), "takes 12 bytes"),
    "a size that is not the type's": (one(dtype="F16"), "takes 8 bytes"),
    "offsets the wrong way": (one(data_offsets=[16, 0]), "data_offsets say -16"),
    "a negative offset": (one(data_offsets=[-16, 0]), "no two whole numbers"),
    "a negative size": (one(shape=[-4]), "shape"),
    "two negative sizes": (one(shape=[-2, -2]), "shape"),
    "a size over all bounds": (one(shape=[2**64, 0]), "shape"),
    "a product over all bounds": (one(shape=[2**59] * 5), "takes"),
    "many dimensions": (one(shape=[1] * 17), "shape"),
    "truth for a number": (one(shape=[True, 4]), "shape"),
    "a point in a number": ('{"a": {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}}', "whole number"),
    "no number": ('{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 16]}}', "whole number"),
    "a number of many digits": (A.replace("2", "9" * 9999).join("{}"), "sound"),
    "an unknown type": (one(dtype="F33"), "unknown type"),
    "a type that is a list": (one(dtype=["F32"]), "unknown type"),
    "a field too many": (one(extra=1), "is not dtype, shape and data_offsets"),
    "a field too few": ({"a": {"dtype": "F32", "shape": [4]}}, "is not dtype, shape and data_offsets"),
    "an entry that is a list": ({"a": [1]}, "is not dtype, shape and data_offsets"),
    "notes that are numbers": ({"__metadata__": {"x": 1}} | one(), "__metadata__"),
    "notes that are a list": ({"__metadata__": []} | one(), "__metadata__"),
    "a name that climbs": ({"../../etc/passwd": one()["a"]}, "unsafe"),
    "a name that is a place": ({"/etc/passwd": one()["a"]}, "unsafe"),
    "a name with a backslash": ({"a\\b": one()["a"]}, "unsafe"),
    "a name with control characters": ({"a\x1b[2Jb": one()["a"]}, "unsafe"),
    "a name with a NUL": ({"a\0b": one()["a"]}, "unsafe"),
    "a name that reads backwards": ({"a\u202eb": one()["a"]}, "unsafe"),
    "a name of half a letter": ('{"\\ud800": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', "unsafe"),
    "no name": ({"": one()["a"]}, "unsafe"),
    "a long name": ({"a" * 501: one()["a"]}, "unsafe"),
    "a list": (b"[1]" + b" " * 20, "is in no format|JSON"),
    "a table cut off": ('{"a": ', "sound"),
    "depth": ('{"a":' + "[" * 100_000, "sound"),
    "two tables": (table(A, B) + "{}", "sound"),
    "not UTF-8": (b'{"\xff": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', "sound"),
    "tensors without number": (
        {f"{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_001)}, "more than 100000 tensors"),
    "many marks": ("{" + '"a":[' * 10 + "[],[],[],[]," * 500_000, "larger than any model's"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_headers(tmp_path: Path, what: str) -> None:
    header, why = BAD[what]
    path = write(tmp_path / "x.safetensors", header)
    with pytest.raises(InputError, match=why) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500 + len(str(path))


def test_lengths(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="has a header of"):
        open_checkpoint(write(path, "{", length=MAX_HEADER + 1))
    with pytest.raises(InputError, match="inside its header"):
        open_checkpoint(write(path, table(A), data=b"", length=1000))
    with pytest.raises(InputError, match="without tensors"):
        open_checkpoint(write(path, "{}", data=b""))
    with pytest.raises(InputError, match="end at byte"):
        open_checkpoint(write(path, "{}"))
    names = ", ".join(f'"{n}": {{"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}' for n in range(100_001))
    with pytest.raises(InputError, match="more than 100000 tensors"):
        open_checkpoint(write(path, table(names), data=b""))


def test_orders_and_spaces_that_are_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "x", table(B, "\n " + A, '"e": {"shape": [0], "dtype": "F64", "data_offsets": [8, 8]}') + "   ")
    assert read_header(path).tensors.keys() == {"a", "b", "e"}
    assert load_file(path).keys() == {"a", "b", "e"}


def library(path: Path) -> dict[str, bytes] | None:
    """What the reference implementation says of a file: the tensors' bytes, or nothing."""
    try:
        with safe_open(path, "pt") as file:
            return {name: bits(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OverflowError, UnicodeError, AttributeError, RuntimeError, KeyError, TypeError):
        return None


STRICTER = "unsafe|stands twice|not dtype, shape and data_offsets|without tensors|no format|whole number|unknown type"


def test_mutations_against_the_reference(tmp_path: Path) -> None:
    """What is read is what the reference reads; what the reference reads and is refused here has one of the reasons above."""
    rng, path = random.Random(0), tmp_path / "x.safetensors"
    tensors = {"a.b": torch.arange(6.0).view(2, 3), "c": torch.arange(4, dtype=torch.int16), "e": torch.ones(())}
    save_file(tensors, path, {"format": "pt"})
    honest = path.read_bytes()
    end = 8 + struct.unpack("<Q", honest[:8])[0]
    read = stricter = 0
    for _ in range(1000):
        data = bytearray(honest)
        for _ in range(rng.randint(1, 2)):
            data[rng.randrange(6, end)] = rng.choice([rng.randrange(256), *b'0123456789,:[]{}" '])
        path.write_bytes(bytes(data))
        expected = library(path)
        got: dict[str, bytes] = {}
        message = refusal(lambda: got.update({name: bits(t) for name, t in open_checkpoint(path).index.read().items()}))  # noqa: B023
        if message is None:
            assert got == expected
            read += 1
            continue
        assert message.isprintable()
        if expected is not None:
            stricter += 1
            assert re.search(STRICTER, message), message
    assert read > 30
    assert stricter < 200
