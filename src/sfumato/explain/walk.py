"""Sampling, watched: at every call of the denoiser x_t, t and the estimate of x_0, in the run that `generate` would make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.generation.engine import Progress
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.request import Request
from sfumato.priors.diffusion import DiffusionPrior


@dataclass(frozen=True)
class Moment:
    """One call: the time t, the state z_t and the guided estimate z_0, both (1, C, h, w) in unit scale."""

    t: float
    z_t: Tensor
    z_0: Tensor


def diffusion_of(pipeline: Pipeline, what: str) -> DiffusionPrior:
    """The model's diffusion prior. Raises `InputError` where it has another, of which there is no `what`."""
    prior = pipeline.model.prior
    if not isinstance(prior, DiffusionPrior):
        raise InputError(f"model: {pipeline.name} has no diffusion prior, and only that has {what}.")
    return prior


def watched(
    pipeline: Pipeline, request: Request, on_call: Callable[[], None] | None = None, inputs: Any = None
) -> tuple[list[Moment], Image]:
    """Make the request's one picture and keep every moment; `on_call` is told before each call of the network.

    Raises `InputError` for a model without a diffusion prior, and what `Pipeline.stream` raises.
    """
    assert len(request.pictures()) == 1, "one picture is watched at a time"
    moments: list[Moment] = []
    asked: list[tuple[float, Tensor]] = []

    def before(module: nn.Module, given: tuple[Any, ...]) -> None:
        asked.append((float(given[1][0]), given[0][:1].clone()))  # the twins' states are equal
        if on_call is not None:
            on_call()

    def after(progress: Progress) -> None:
        t, z_t = asked[-1]
        moments.append(Moment(t, z_t, progress.z_0.clone()))

    with _before(diffusion_of(pipeline, "steps to look at").denoiser, before):
        (made,) = pipeline.stream(request, after, inputs=inputs)
    return moments, made.image


@contextmanager
def _before(module: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...]], None]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
