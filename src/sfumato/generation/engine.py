"""Run a request step by step: noise of each picture's own seed -> latents -> pixels.

On the CPU every network call has the shape of one picture, whatever the batch size, since kernels change their last bits
with the shape but not with anything else: a picture is bit-equal with any neighbours. On a GPU pictures go in batches;
there the noise is equal and fp32 pixels agree closely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sfumato.conditioners.base import Prepared
from sfumato.errors import MachineError, SfumatoError
from sfumato.first_stages.base import Decoder
from sfumato.generation.limits import WHITE
from sfumato.generation.pixels import to_bytes, to_pictures, to_previews
from sfumato.generation.request import Picture, Request
from sfumato.generation.tiling import TILING, Tiling, decode
from sfumato.model import LatentModel
from sfumato.noise import PictureNoise


class NotFiniteError(SfumatoError, ArithmeticError):
    """Sampling ran into NaN or infinity: an error, never a black picture."""

    exit_code = 3


@dataclass(frozen=True)
class Progress:
    """After step `step` (from 1) of `num_steps`, for `pictures` (of the whole call): the present estimate z_0 (B, C, h, w)."""

    pictures: tuple[Picture, ...]
    step: int
    num_steps: int
    z_0: Tensor
    first_stage: Decoder
    background: str = WHITE
    tiling: Tiling | None = TILING

    def decode(self) -> list[Image.Image]:
        """The estimates as pictures of full size, on the request's background."""
        return to_pictures(decode(self.first_stage, self.z_0, self.tiling), self.background)

    def previews(self) -> list[Image.Image]:
        """Small pictures by the first stage's linear preview map, on white; where it has none, full ones."""
        preview = self.first_stage.preview
        return self.decode() if preview is None else to_previews(self.z_0, preview)


OnStep = Callable[[Progress], None]


@dataclass(frozen=True)
class Made:
    """A picture that is done: `pixels` are the model's own, uint8 (C, H, W); `image` is on the request's background."""

    picture: Picture
    pixels: Tensor
    image: Image.Image


@dataclass(frozen=True)
class Each:
    """Inputs that differ from picture to picture, such as noise of a picture's own: `inputs(picture)`."""

    inputs: Callable[[Picture], Any]


def run(
    model: LatentModel,
    request: Request,
    settings: Any,
    device: torch.device,
    on_step: OnStep | None = None,
    tiling: Tiling | None = TILING,
    inputs: Any = None,
) -> Iterator[Made]:
    """Make the request's pictures in order, each as soon as it is done.

    `settings` are the sampling settings of the model's prior; `tiling` says which pictures are decoded in tiles; `inputs`
    is what the conditioner is given beside each prompt (`Conditioner.with_inputs`), or `Each`. Raises
    `NotFiniteError`, `MachineError` (out of memory), `InputError` (a prompt that the model does not know); an exception in
    `on_step` stops the run.
    """
    size = chunk_size(request, device)
    pictures = request.pictures()
    for first in range(0, len(pictures), size):
        chunk = tuple(pictures[first : first + size])
        try:
            with _full_precision(device):
                made = _make(model, chunk, request, settings, on_step, tiling, inputs)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise _out_of_memory(request, device, len(chunk)) from None
        yield from made


def chunk_size(request: Request, device: torch.device) -> int:
    """Pictures at once on `device`."""
    return 1 if device.type == "cpu" else request.batch_size


def _full_precision(device: torch.device) -> AbstractContextManager[None]:
    """On CUDA, convolutions in true fp32: PyTorch's default there, TensorFloat-32, rounds at 2**-11, which a picture shows."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


@torch.inference_mode()
def _make(
    model: LatentModel,
    chunk: tuple[Picture, ...],
    request: Request,
    settings: Any,
    on_step: OnStep | None,
    tiling: Tiling | None,
    inputs: Any,
) -> list[Made]:
    prepared, negative = _inputs(model, chunk, request, inputs)
    twins = model.conditioner.twins(prepared, request.guidance, negative)
    shape = (len(chunk), *model.latent_shape(request.height, request.width))
    noise = PictureNoise([picture.seed for picture in chunk])
    z: Tensor | None = None
    for number, step in enumerate(model.prior.steps(shape, twins, settings, noise), start=1):
        z = step.z_t
        if z.device.type == "cpu":  # a GPU would have to wait for the answer; there the last step tells
            _check_finite(z, chunk, number, step.total)
        if on_step is not None:
            on_step(Progress(chunk, number, step.total, step.z_0, model.space, request.background, tiling))
    assert z is not None, "a prior yields at least one step"
    _check_finite(z, chunk, number, number)
    x = decode(model.space, z, tiling)  # (B, C, H, W)
    _check_finite(x, chunk, number, number)
    images = to_pictures(x, request.background)
    return [Made(*one) for one in zip(chunk, to_bytes(x).cpu(), images, strict=True)]


def _inputs(model: LatentModel, chunk: tuple[Picture, ...], request: Request, inputs: Any) -> tuple[Prepared, Prepared | None]:
    """The chunk's prompts and negative prompts as the conditioner's tensors, on its device."""
    device = next(model.parameters()).device
    conditioner, size = model.conditioner, (request.height, request.width)
    given = [inputs.inputs(picture) if isinstance(inputs, Each) else inputs for picture in chunk]
    told = [conditioner.with_inputs(picture.prompt, size, one) for picture, one in zip(chunk, given, strict=True)]
    prepared = conditioner.prepare(told).to(device)
    if request.negative is None or request.guidance == 1.0:
        return prepared, None
    return prepared, conditioner.prepare([request.negative] * len(chunk)).to(device)


def _check_finite(values: Tensor, chunk: tuple[Picture, ...], step: int, total: int) -> None:
    finite = torch.isfinite(values).flatten(1).all(1)  # (B,)
    if bool(finite.all()):
        return
    bad = chunk[int((~finite).nonzero()[0, 0])]
    raise NotFiniteError(
        f"picture {bad.index + 1} (seed {bad.seed}) became NaN or infinite by step {step} of {total}; try a lower guidance, "
        "more steps or another sampler, and if every picture fails, the model's weights are damaged."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is one of the ways in which PyTorch and Python say that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "CUBLAS_STATUS_ALLOC_FAILED" in text
    )


def _out_of_memory(request: Request, device: torch.device, batch: int) -> SfumatoError:
    if device.type == "cuda":
        torch.cuda.empty_cache()  # so that a smaller request can follow in the same process
    tried = f"out of memory on {device} with {batch} pictures of {request.height}x{request.width} at once"
    if batch > 1:
        return MachineError(f"{tried}; try a batch size of {batch // 2}.")
    return MachineError(f"{tried}; try a smaller size, or another device.")
