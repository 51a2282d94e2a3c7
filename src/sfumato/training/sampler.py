"""Sample grids of fixed seeds while the prior trains."""

from __future__ import annotations

import numpy as np
import torch

from sfumato.diffusion.grids import Spacing
from sfumato.diffusion.guidance import Guidance
from sfumato.errors import unknown
from sfumato.generation.pixels import to_bytes
from sfumato.io.pretrained import SamplingDefaults
from sfumato.model import LatentModel
from sfumato.noise import PictureNoise
from sfumato.priors.diffusion import DiffusionSettings
from sfumato.samplers import SAMPLERS
from sfumato.training.config import RunConfig
from sfumato.training.prepare import Prepared, conditions_of
from sfumato.training.report import sheet


def settings_of(defaults: SamplingDefaults) -> DiffusionSettings:
    """Sampling defaults as the prior's own settings. Raises `InputError` for an unknown sampler."""
    if defaults.sampler not in SAMPLERS:
        raise unknown("sampler", defaults.sampler, SAMPLERS)
    guidance = Guidance(defaults.guidance_interval, defaults.guidance_rescale)
    spacing = None if defaults.spacing is None else Spacing(defaults.spacing)
    return DiffusionSettings(SAMPLERS[defaults.sampler], defaults.steps, spacing, guidance)


class SampleSheet:
    """The same prompts and seeds each time: held-out conditions, spread over the set, seeds from the run's own."""

    def __init__(self, model: LatentModel, config: RunConfig, data: Prepared, device: torch.device, count: int = 16):
        self.model, self.device = model, device
        self.defaults = config.sampling
        shown = data.held_out if len(data.held_out) else data.train
        rows = (
            [i * len(shown) // count for i in range(count)] if len(shown) >= count else [i % len(shown) for i in range(count)]
        )
        self.inputs = [conditions_of(model.conditioner, shown, i)[0] for i in rows]
        self.seeds = [config.seed + i for i in range(count)]

    @torch.inference_mode()
    def make(self) -> np.ndarray:
        """A sheet (H, W, 3) uint8."""
        prepared = self.model.conditioner.prepare(self.inputs).to(self.device)
        x = self.model.sample(prepared, settings_of(self.defaults), PictureNoise(self.seeds), self.defaults.guidance)
        return sheet(list(to_bytes(x).cpu()), 8)
