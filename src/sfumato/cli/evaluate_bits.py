"""`sfumato evaluate --bits N`: bits per dimension of a loaded model's held-out pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sfumato.errors import InputError

if TYPE_CHECKING:
    from sfumato.conditioning import Conditioning
    from sfumato.evaluation.data import EvaluationData
    from sfumato.evaluation.likelihood import Bits, BitSettings
    from sfumato.evaluation.protocol import Progress
    from sfumato.evaluation.source import Source
    from sfumato.generation.pipeline import Pipeline
    from sfumato.generation.request import Request


def bits_of(
    pipeline: Pipeline, source: Source, num: int, steps: int | None, request: Request, progress: Progress | None
) -> Callable[[EvaluationData], Bits]:
    """What `evaluate` asks for bits, of at most `num` pictures. Raises `InputError` at once where they are undefined."""
    from sfumato.evaluation.data import choose
    from sfumato.evaluation.likelihood import kind_of, measure_bits

    model = pipeline.model
    kind_of(model.first_stage, model.prior)
    settings = _settings(pipeline, source, num, steps, request)

    def measured(held: EvaluationData) -> Bits:
        chosen = held.take(choose(len(held), num, request.seed))

        def told(done: int, total: int) -> None:
            if progress is not None:
                progress("bits", done, total)

        return measure_bits(
            model.first_stage,
            model.prior,
            chosen.pixels,
            lambda part: condition(pipeline, list(chosen.captions[part])),
            settings,
            device=pipeline.device,
            on_batch=told,
        )

    return measured


def _settings(pipeline: Pipeline, source: Source, num: int, steps: int | None, request: Request) -> BitSettings:
    """The chain's plan, or the variance of a VAE's decoder, from as many training pictures."""
    from sfumato.evaluation.data import choose
    from sfumato.evaluation.likelihood import BitSettings, Kind, fitted_variance, kind_of
    from sfumato.explain.rate_distortion import log_plan
    from sfumato.first_stages.base import FirstStage
    from sfumato.priors.diffusion import DiffusionPrior

    model, times, variance = pipeline.model, None, None
    kind = kind_of(model.first_stage, model.prior)
    if steps is not None:
        if kind is not Kind.chain:
            raise InputError(f"--bits-steps is for a diffusion chain, and these bits are {kind.value}; leave it out.")
        assert isinstance(model.prior, DiffusionPrior)
        times = log_plan(model.prior.denoiser.schedule, steps)
    if kind is Kind.importance:
        assert isinstance(model.first_stage, FirstStage)
        if source.sets.rest is None:
            raise InputError("--bits of a VAE fit the decoder's variance to training pictures, and this data has none.")
        pixels = source.sets.rest.pixels[choose(len(source.sets.rest), num, request.seed)]
        same = {"seed": request.seed, "batch_size": request.batch_size}
        variance = fitted_variance(model.first_stage, pixels, device=pipeline.device, **same)
    return BitSettings(request.seed, request.batch_size, times, variance=variance)


def condition(pipeline: Pipeline, prompts: list[str]) -> Conditioning:
    """What the prior is told for `prompts`, without guidance, which would be another model."""
    import torch

    model = pipeline.model
    conditioner = model.conditioner
    with torch.no_grad():
        told = [conditioner.from_prompt(prompt, model.image_size) for prompt in prompts]
        return conditioner(conditioner.prepare(told).to(pipeline.device))
