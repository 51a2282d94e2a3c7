"""Which type a model runs in; and first stages in half precision that overflow: found out, said once, run in fp32 from then on.

fp16 ends at 65,504, and activations of published decoders (Stable Diffusion XL's, the x4 upscaler's) pass it: then pixels are
NaN though the latents are fine. bf16 has the range of fp32 but only 8 bits of precision, as many as a picture has; so fp32
comes first, and bf16 where fp32 does not fit into the GPU's memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from sfumato.errors import unknown
from sfumato.first_stages.base import Decoder
from sfumato.generation.limits import AUTO, DTYPE_NAMES
from sfumato.model import LatentModel

HALVES = (torch.float16, torch.bfloat16)


class HalfPrecisionWarning(UserWarning):
    """A first stage overflowed in half precision and was turned into a wider type."""


def find_dtype(name: str | torch.dtype, device: torch.device, published: bool) -> torch.dtype:
    """The type by its name. "auto": fp32, but fp16 for a model that others published on CUDA, where it is twice as fast and
    small: that is the type in which those models are passed on, and the first stage, which may overflow, is guarded. The
    denoiser's sums and the sampler stay in fp32. Raises `InputError` for other names.
    """
    said = str(name).removeprefix("torch.")
    if said not in DTYPE_NAMES:
        raise unknown("dtype", said[:40], DTYPE_NAMES)
    if said == AUTO:
        return torch.float16 if published and device.type == "cuda" else torch.float32
    found: torch.dtype = getattr(torch, said)
    return found


def turn_parameters(model: LatentModel, kind: torch.dtype) -> None:
    """Every parameter becomes `kind`; buffers, which are statistics, stay as they are."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(kind)


def guarded(first_stage: Decoder, given: Tensor, code: Callable[[Tensor], Tensor]) -> Tensor:
    """`code(given)`, which runs `first_stage`, in at least fp32; `given` is cast to a first stage in half precision.

    When half precision, its own or autocast's, makes NaN or infinity of finite numbers, the first stage itself is turned into
    fp32 with one `HalfPrecisionWarning` and asked again without autocast. What is not finite even then comes back as it is.
    """
    kind = _half(first_stage)
    found = code(given if kind is None else given.to(kind))
    narrow = kind is not None or found.dtype in HALVES
    if not narrow or _finite(found) or not _finite(given):
        return _at_least_fp32(found)
    name = str(kind or found.dtype).removeprefix("torch.")
    warnings.warn(
        f"the first stage makes NaN or infinity in {name}; it runs in float32 from now on.", HalfPrecisionWarning, stacklevel=2
    )
    del found
    with torch.autocast(given.device.type, enabled=False):
        try:
            _turn(first_stage, torch.float32)
            return code(given.float())
        except torch.OutOfMemoryError:
            _turn(first_stage, torch.bfloat16)
            return _at_least_fp32(code(given.to(torch.bfloat16)))


def _half(first_stage: Decoder) -> torch.dtype | None:
    """The half precision of its parameters; None for wider ones, or none."""
    kind = next((p.dtype for p in first_stage.parameters() if p.is_floating_point()), None)
    return kind if kind in HALVES else None


def _turn(first_stage: Decoder, kind: torch.dtype) -> None:
    with torch.inference_mode(False):  # parameters made in inference mode could never be trained again
        first_stage.to(kind)


def _finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def _at_least_fp32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in HALVES else values
