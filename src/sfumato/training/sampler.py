"""Sample grids of fixed seeds while the prior trains."""

from __future__ import annotations

import numpy as np
import torch

from sfumato.conditioners.frozen_text import FrozenText
from sfumato.conditioners.label import ClassLabel
from sfumato.conditioners.none import Unconditional
from sfumato.conditioners.text import TextEncoder
from sfumato.generation.pixels import to_bytes
from sfumato.generation.settings import settings_for
from sfumato.model import LatentModel
from sfumato.noise import PictureNoise
from sfumato.training.conditions import ConditionSource
from sfumato.training.config import RunConfig
from sfumato.training.fit import latent_factor
from sfumato.training.inputs import first_conditions
from sfumato.training.prepare import Prepared
from sfumato.training.report import sheet

COLUMNS = 8  # of a sheet


class SampleSheet:
    """The same conditions and seeds each time: held-out pictures' own, spread over the set, seeds from the run's own."""

    def __init__(
        self,
        model: LatentModel,
        config: RunConfig,
        data: Prepared,
        source: ConditionSource,
        device: torch.device,
        count: int = 16,
    ):
        self.model, self.device = model, device
        self.defaults = config.sampling
        shown = data.held_out if len(data.held_out) else data.train
        rows = (
            [i * len(shown) // count for i in range(count)] if len(shown) >= count else [i % len(shown) for i in range(count)]
        )
        self.shown = shown.part(rows)
        factor = latent_factor(config.first_stage.model)
        self.prepared = first_conditions(model.conditioner, self.shown, data.beside, source, device, factor)
        self.seeds = [config.seed + i for i in range(count)]

    @torch.inference_mode()
    def make(self) -> np.ndarray:
        """A sheet (H, W, 3) uint8; where conditions come from pictures, each row stands below its true ones."""
        x = self.model.sample(
            self.prepared, settings_for(self.model.prior, self.defaults), PictureNoise(self.seeds), self.defaults.guidance
        )
        made = list(to_bytes(x).cpu())
        if isinstance(self.model.conditioner, TextEncoder | FrozenText | ClassLabel | Unconditional):
            return sheet(made, COLUMNS)
        true = [self.shown.pixels(i) for i in range(len(self.shown))]
        rows = range(0, len(made), COLUMNS)
        return sheet([p for i in rows for p in (*true[i : i + COLUMNS], *made[i : i + COLUMNS])], COLUMNS)
