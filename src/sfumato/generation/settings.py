"""A model's sampling defaults and what a call asks for -> the settings of its prior."""

from __future__ import annotations

from typing import Any

from sfumato.diffusion.grids import Spacing
from sfumato.diffusion.guidance import Guidance
from sfumato.errors import unknown
from sfumato.io.pretrained import SamplingDefaults
from sfumato.priors.autoregressive import AutoregressivePrior, AutoregressiveSettings
from sfumato.priors.base import Prior
from sfumato.priors.diffusion import DiffusionSettings
from sfumato.priors.flow import FlowPrior, FlowSettings
from sfumato.priors.hierarchical import HierarchicalPrior
from sfumato.priors.normal import NormalPrior, NormalSettings
from sfumato.samplers import SAMPLERS


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
    """Of any prior: a temperature and truncation where it has no steps to choose."""
    match prior:
        case AutoregressivePrior() | HierarchicalPrior():
            return AutoregressiveSettings(defaults.temperature, defaults.top_k, defaults.top_p)
        case FlowPrior():
            return FlowSettings(defaults.temperature)
        case NormalPrior():
            return NormalSettings(defaults.temperature)
        case _:
            return settings_of(defaults)


def has_sampler(prior: Prior[Any]) -> bool:
    """Whether a sampler and its number of steps can be chosen."""
    return not isinstance(prior, AutoregressivePrior | HierarchicalPrior | FlowPrior | NormalPrior)
