"""What the conditioners of pictures and maps share: checking and stacking what the user gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sfumato.errors import InputError

Encode = Callable[[Tensor], Tensor]
"""Pixels (B, 3, H, W) in [-1, 1] -> latents (B, C, h, w) in unit scale: the first stage, as `build` hands it in."""

LARGEST = 1 + 1e-3  # of a pixel: room for rounding


def stacked(images: Sequence[Tensor], channels: int, what: str) -> Tensor:
    """B floating tensors (channels, H, W) in [-1, 1], all of one size -> (B, channels, H, W) fp32.

    Raises `InputError` that names `what` for another shape, type or range.
    """
    for image in images:
        expected = f"expected a floating tensor ({channels}, height, width) in [-1, 1]"
        if not isinstance(image, Tensor) or not image.is_floating_point():
            kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise InputError(f"{what} is {kind}; {expected}.")
        if image.ndim != 3 or image.shape[0] != channels or image.numel() == 0:
            raise InputError(f"{what} has shape {tuple(image.shape)}; {expected}.")
        if not bool(torch.isfinite(image).all()) or float(image.abs().max()) > LARGEST:
            raise InputError(f"{what} has values outside of [-1, 1]; {expected}: x / 127.5 - 1 for bytes.")
    return one_size([image.detach().to("cpu", torch.float32) for image in images], (channels, 0, 0), what)


def one_size(values: Sequence[Tensor], empty: tuple[int, ...], what: str) -> Tensor:
    """A batch (B, ...) of tensors of one shape, or (0, *empty). Raises `InputError` when shapes differ."""
    if not values:
        return torch.zeros(0, *empty)
    shapes = sorted({tuple(value.shape) for value in values})
    if len(shapes) > 1:
        raise InputError(f"{what}: shapes {shapes[0]} and {shapes[1]} in one call; expected one shape for all pictures.")
    return torch.stack(list(values))


def level_of(level: int, largest: int, what: str) -> int:
    """A noise level, 0 to `largest`. Raises `InputError` for any other."""
    if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= largest:
        raise InputError(f"{what} is {str(level)[:40]}; expected a whole number, 0 to {largest}.")
    return level


def check_names(what: str, names: Sequence[str], count: int | None) -> None:
    """Raise `InputError` unless there are no names, or `count` different ones that say something."""
    if names and (len(names) != count or len(set(names)) < len(names) or "" in names):
        raise InputError(
            f"{what}: {len(names)} class names for {count} classes; expected as many, different, none of them empty."
        )
