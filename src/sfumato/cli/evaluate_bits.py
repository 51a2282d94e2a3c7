"""`sfumato evaluate --bits N`: bits per dimension of a loaded model's held-out pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfumato.errors import InputError

if TYPE_CHECKING:
    from sfumato.conditioning import Conditioning
    from sfumato.evaluation.data import EvaluationData
    from sfumato.evaluation.decoder import DecoderLoss
    from sfumato.evaluation.likelihood import Bits, BitSettings, Kind
    from sfumato.evaluation.protocol import Progress
    from sfumato.evaluation.source import Source
    from sfumato.generation.pipeline import Pipeline
    from sfumato.generation.request import Request


@dataclass(frozen=True)
class AskedBits:
    """num: pictures at most. steps: of a diffusion chain. gaussian: take the decoder for the mean of a Gaussian."""

    num: int
    steps: int | None = None
    gaussian: bool = False


def bits_of(
    pipeline: Pipeline, source: Source, asked: AskedBits, request: Request, progress: Progress | None
) -> Callable[[EvaluationData], Sequence[Bits]]:
    """What `evaluate` asks for bits, of a source with `fitted_to` pictures. Raises `InputError` where they are undefined."""
    from sfumato.evaluation.data import choose
    from sfumato.evaluation.likelihood import Kind, kinds_of, measure_bits

    model, decoder = pipeline.model, decoder_of(pipeline, asked.gaussian)
    kinds = kinds_of(model.first_stage, model.prior, decoder)
    settings = _settings(pipeline, source, asked, kinds, decoder, request)

    def measured(held: EvaluationData) -> Sequence[Bits]:
        chosen = held.take(choose(len(held), asked.num, request.seed))

        def one(kind: Kind) -> Bits:
            def told(done: int, total: int) -> None:
                if progress is not None:
                    progress("bits of codes" if kind is Kind.codes else "bits", done, total)

            return measure_bits(
                model.first_stage,
                model.prior,
                chosen.pixels,
                lambda part: condition(pipeline, list(chosen.captions[part])),
                settings,
                kind=kind,
                device=pipeline.device,
                on_batch=told,
            )

        return [one(kind) for kind in kinds]

    return measured


def fitted_to(pipeline: Pipeline, asked: AskedBits | None) -> int:
    """How many training pictures these bits want a variance fitted to. Raises `InputError` where they are undefined."""
    from sfumato.evaluation.decoder import NUM_FITTED
    from sfumato.evaluation.likelihood import GAUSSIAN, kinds_of

    if asked is None:
        return 0
    kinds = kinds_of(pipeline.model.first_stage, pipeline.model.prior, decoder_of(pipeline, asked.gaussian))
    return NUM_FITTED if kinds[-1] in GAUSSIAN else 0


def decoder_of(pipeline: Pipeline, asked: bool = False) -> DecoderLoss:
    """What a model's card says of its decoder's training, or what was asked."""
    from sfumato.evaluation.decoder import DecoderLoss
    from sfumato.io.pretrained import CARD
    from sfumato.training.card import config_of

    if asked:
        return DecoderLoss.asked
    path = pipeline.loaded.path / CARD
    config = config_of(path.read_text("utf-8", errors="replace")) if path.is_file() else None
    return DecoderLoss.of(None if config is None else config.first_stage.squared_error_alone)


def _settings(
    pipeline: Pipeline, source: Source, asked: AskedBits, kinds: Sequence[Kind], decoder: DecoderLoss, request: Request
) -> BitSettings:
    """The chain's plan, or the variance of a decoder from training pictures."""
    from sfumato.evaluation.decoder import fitted_variance
    from sfumato.evaluation.likelihood import GAUSSIAN, BitSettings, Kind
    from sfumato.explain.rate_distortion import log_plan
    from sfumato.first_stages.base import FirstStage
    from sfumato.priors.diffusion import DiffusionPrior

    model, times, variance = pipeline.model, None, None
    if asked.steps is not None:
        if Kind.chain not in kinds:
            raise InputError(f"--bits-steps is for a diffusion chain, and these bits are {kinds[-1].value}; leave it out.")
        assert isinstance(model.prior, DiffusionPrior)
        times = log_plan(model.prior.denoiser.schedule, asked.steps)
    if kinds[-1] in GAUSSIAN:
        assert isinstance(model.first_stage, FirstStage)
        if source.fit is None:
            raise InputError("--bits fit the variance of this decoder to training pictures, and this data has none.")
        same = {"seed": request.seed, "batch_size": request.batch_size}
        variance = fitted_variance(model.first_stage, source.fit.pixels, device=pipeline.device, **same)
    elif asked.gaussian:
        raise InputError(f"--bits-gaussian is for the decoder of a KL or VQ first stage, and these bits are {kinds[-1].value}.")
    return BitSettings(request.seed, request.batch_size, times, variance=variance, decoder=decoder)


def condition(pipeline: Pipeline, prompts: list[str]) -> Conditioning:
    """What the prior is told for `prompts`, without guidance, which would be another model."""
    import torch

    model = pipeline.model
    conditioner = model.conditioner
    with torch.no_grad():
        told = [conditioner.from_prompt(prompt, model.image_size) for prompt in prompts]
        return conditioner(conditioner.prepare(told).to(pipeline.device))
