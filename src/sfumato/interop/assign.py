"""Weights into a module that was built on the meta device: checked first, then assigned, all or nothing.

Nothing is copied where types agree: a parameter is then a view of the mapped file. Where they don't, one tensor after the
other is converted in pieces, so that beside the result there is never more than a piece.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.interop.index import Loadable

MOST_SHOWN = 10


def assign(
    module: nn.Module,
    tensors: Mapping[str, Loadable],
    source: str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    exact: tuple[str, ...] = (),
    keep: bool = False,
) -> None:
    """Give `module` the tensors of its state dict's names, on `device`.

    Numbers with a point become `dtype`, or the module's own types when it is None; whole numbers keep the module's type, and
    so do names that begin with one of `exact`. With `keep` every tensor stays of the type that it has in its file.
    Raises `InputError` that lists the first ten names that are missing, unexpected, of another shape or another kind of
    number; the module is then as it was, as it is when reading fails. `source` names the weights in the message.
    """
    own = module.state_dict()
    found = misfits(own, tensors)
    if found:
        shown = "; ".join(found[:MOST_SHOWN]) + (f"; and {len(found) - MOST_SHOWN} more" if found[MOST_SHOWN:] else "")
        raise InputError(f"{source} does not fit: {shown}.")
    stays = [name for name, buffer in module.named_buffers() if buffer.is_meta and name not in own]
    assert not stays, f"buffers outside the state dict must be made off the meta device: {stays[:MOST_SHOWN]}"
    read: dict[str, Tensor] = {}
    for name, place in own.items():
        wanted = dtype is not None and place.dtype.is_floating_point and not name.startswith(exact)
        kind = dtype if dtype is not None and wanted else place.dtype
        read[name] = tensors[name].read().to(device) if keep else tensors[name].read(kind).to(device, kind)
    module.load_state_dict(read, strict=True, assign=True)


def misfits(own: Mapping[str, Tensor], tensors: Mapping[str, Loadable]) -> list[str]:
    """What keeps tensors from filling a state dict, a phrase each: missing, then unexpected, then shapes, then types."""
    both = [name for name in own if name in tensors]
    return [
        *(f"missing {name}" for name in own if name not in tensors),
        *(f"unexpected {name}" for name in tensors if name not in own),
        *(
            f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}"
            for name in both
            if tuple(tensors[name].shape) != tuple(own[name].shape)
        ),
        *(
            f"{name} has type {_word(tensors[name].dtype)}, expected {_word(own[name].dtype)}"
            for name in both
            if _kind(tensors[name].dtype) != _kind(own[name].dtype)
        ),
    ]


def _kind(dtype: torch.dtype) -> str:
    """Types that convert into one another without losing what they mean."""
    if dtype.is_floating_point:
        return "float"
    return "complex" if dtype.is_complex else "bool" if dtype == torch.bool else "whole"


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
