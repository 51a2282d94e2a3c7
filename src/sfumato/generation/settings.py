"""A model's sampling defaults and what a call asks for -> the settings of its prior."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sfumato.diffusion.grids import Spacing
from sfumato.diffusion.guidance import Guidance
from sfumato.errors import InputError, unknown
from sfumato.generation.request import Draft, Request
from sfumato.io.pretrained import SamplingDefaults
from sfumato.priors.autoregressive import AutoregressivePrior, AutoregressiveSettings
from sfumato.priors.base import Prior
from sfumato.priors.diffusion import DiffusionPrior, DiffusionSettings
from sfumato.priors.flow import FlowPrior, FlowSettings
from sfumato.priors.hierarchical import HierarchicalPrior
from sfumato.priors.normal import NormalPrior, NormalSettings
from sfumato.samplers import DDPM, SAMPLERS, Learned

TRUNCATION = ("temperature", "top_k", "top_p")
"""What is asked of priors without steps to choose."""


def settings_of(defaults: SamplingDefaults) -> DiffusionSettings:
    """Of a diffusion prior. Raises `InputError` for an unknown sampler."""
    if defaults.sampler not in SAMPLERS:
        raise unknown("sampler", defaults.sampler, SAMPLERS)
    return DiffusionSettings(
        sampler=SAMPLERS[defaults.sampler],
        num_steps=defaults.steps,
        spacing=None if defaults.spacing is None else Spacing(defaults.spacing),
        guidance=Guidance(interval=defaults.guidance_interval, rescale=defaults.guidance_rescale),
    )


def settings_for(prior: Prior[Any], defaults: SamplingDefaults) -> Any:
    """Of any prior: a temperature and truncation where it has no steps to choose; DDPM with the variance that was learned."""
    match prior:
        case AutoregressivePrior() | HierarchicalPrior():
            return AutoregressiveSettings(defaults.temperature, defaults.top_k, defaults.top_p)
        case DiffusionPrior() if prior.denoiser.learns_variance and defaults.sampler == "ddpm":
            return replace(settings_of(defaults), sampler=DDPM(variance=Learned.learned))
        case FlowPrior():
            return FlowSettings(defaults.temperature)
        case NormalPrior():
            return NormalSettings(defaults.temperature)
        case _:
            return settings_of(defaults)


def settings_of_request(prior: Prior[Any], defaults: SamplingDefaults, request: Request) -> Any:
    """Of any prior for a request; the defaults give what it does not say."""
    named = {name: getattr(request, name) for name in TRUNCATION if getattr(request, name) is not None}
    return settings_for(prior, replace(defaults, sampler=request.sampler, steps=request.steps, **named))


def check_asked(prior: Prior[Any], draft: Draft, name: str) -> None:
    """Raises `InputError` for what the prior of the model `name` has no use for: steps of one without, a temperature of a
    diffusion, truncation where no codes are drawn."""
    if not has_sampler(prior):
        if draft.steps is not None or draft.sampler is not None:
            raise InputError(f"steps, sampler: the model {name} is no diffusion model and has none to choose; leave them out.")
        draws_codes = isinstance(prior, AutoregressivePrior | HierarchicalPrior)
        if not draws_codes and (draft.top_k is not None or draft.top_p is not None):
            raise InputError(f"top_k, top_p: the model {name} draws no codes, of which some could be left out; leave them out.")
    elif any(getattr(draft, asked) is not None for asked in TRUNCATION):
        raise InputError(
            f"temperature, top_k, top_p: the model {name} takes steps of denoising and has none of these; leave them out."
        )


def has_sampler(prior: Prior[Any]) -> bool:
    """Whether a sampler and its number of steps can be chosen."""
    return not isinstance(prior, AutoregressivePrior | HierarchicalPrior | FlowPrior | NormalPrior)
