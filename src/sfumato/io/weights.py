"""Weights <-> safetensors, strictly: a missing, extra or mis-shaped tensor is an error and nothing is half loaded.

A file says itself how it is stored: a tensor NAME of int8 is quantized, and NAME.int8_scale beside it has its rows' scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.io.files import write_bytes
from sfumato.io.quantize import Rows, quantize
from sfumato.io.storage import Storage

SCALE = ".int8_scale"


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a safetensors file, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(plain, dict(metadata or {"format": "pt"})))


def pack(tensors: Mapping[str, Tensor], storage: Storage, exact: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Tensors as `storage` keeps them, for `save_weights`. Names that begin with one of `exact`, and whole numbers, stay.

    int8: tensors of two or more dimensions are quantized by row, the rest (biases, norms) is fp16.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(exact) or not tensor.is_floating_point():
            packed[name] = tensor
        elif storage is Storage.int8 and tensor.ndim > 1 and tensor.numel():
            rows = quantize(tensor)
            packed |= {name: rows.q, name + SCALE: rows.scale}
        else:
            packed[name] = tensor.to(torch.float32 if storage is Storage.fp32 else torch.float16)
    return packed


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU, int8 as fp32; raises `InputError` when it is missing or damaged."""
    tensors = read_stored(path)
    scales = {name.removesuffix(SCALE): tensors.pop(name) for name in list(tensors) if name.endswith(SCALE)}
    for name in sorted(scales.keys() | {name for name, tensor in tensors.items() if tensor.dtype == torch.int8}):
        problem = _misfit(name, tensors.get(name), scales.get(name))
        if problem:
            raise InputError(f"{path}: {problem}; the file is damaged, restore it.")
        tensors[name] = Rows(tensors[name], scales[name]).weight()
    return tensors


def _misfit(name: str, q: Tensor | None, scale: Tensor | None) -> str | None:
    """What is wrong with a quantized tensor, if anything."""
    if q is None or q.dtype != torch.int8 or q.ndim < 2:
        found = "no such tensor" if q is None else f"{q.dtype} of shape {tuple(q.shape)}"
        return f"{name}{SCALE} belongs to {found}, expected int8 of two or more dimensions"
    if scale is None:
        return f"{name} is int8 and has no {name}{SCALE}"
    if scale.dtype != torch.float32 or scale.shape != q.shape[:1]:
        return f"{name}{SCALE} is {scale.dtype} of shape {tuple(scale.shape)}, expected torch.float32 of ({len(q)},)"
    if not (torch.isfinite(scale) & (scale >= 0)).all():
        return f"{name}{SCALE} is not finite and 0 or more"
    return None


def read_storage(path: Path) -> Storage:
    """How a weight file is stored. Raises `InputError` as `read_weights` does for one that is no safetensors file."""
    types = {tensor.dtype for tensor in read_stored(path).values()}
    if torch.int8 in types:
        return Storage.int8
    return Storage.fp16 if torch.float16 in types else Storage.fp32


def read_stored(path: Path) -> dict[str, Tensor]:
    """The tensors of a file as they are stored. Raises `InputError` as `read_weights`."""
    try:
        return load_file(path) if _is_utf8(path) else load(path.read_bytes())  # safetensors opens UTF-8 names only
    except FileNotFoundError:
        raise InputError(f"no such file: {path}.") from None
    except SafetensorError as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}); restore it.") from None


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Fill `module` from `tensors`, all or nothing; types are converted to the module's own."""
    own = module.state_dict()
    problems = [f"missing {k}" for k in own if k not in tensors]
    problems += [f"unexpected {k}" for k in tensors if k not in own]
    problems += [
        f"{k} has shape {tuple(tensors[k].shape)}, expected {tuple(v.shape)}"
        for k, v in own.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    problems += [
        f"{k} has type {tensors[k].dtype}, expected {v.dtype}"
        for k, v in own.items()
        if k in tensors and tensors[k].is_floating_point() != v.is_floating_point()
    ]
    problems += [f"{k} is not finite" for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise InputError(f"{source} does not fit this model: {shown}.")
    module.load_state_dict(dict(tensors))  # converts each as it copies it, so that there is never a second whole model
