"""Tensors -> a safetensors file, one after the other: beside the tensors there is never a second copy of all of them.

    u64 length of the header | header: JSON, name -> type, shape, bytes from and to | the tensors' bytes, without gaps

Wide types come first, so that every tensor lies at a multiple of its element's size.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.io.files import fsync, machine_errors

_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write `tensors` bit by bit in their own types, atomically. `notes`: the file's metadata.

    Raises `InputError` naming a tensor of a type that is not written.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    header = _header(order, tensors, notes or {})
    with machine_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(header)
                for name in order:
                    _write(file, tensors[name])
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync(path.parent)


def _header(order: list[str], tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> bytes:
    table: dict[str, Any] = {"__metadata__": {"format": "pt", **notes}}
    end = 0
    for name in order:
        value = tensors[name]
        if value.dtype not in _CODES:
            raise InputError(
                f"{name} has type {str(value.dtype).removeprefix('torch.')}, which is not written; give --storage."
            )
        start, end = end, end + value.numel() * value.dtype.itemsize
        table[name] = {"dtype": _CODES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write(file: IO[bytes], value: Tensor) -> None:
    if value.numel():
        file.write(memoryview(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
