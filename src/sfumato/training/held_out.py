"""How well the prior explains pictures that it was not trained on, while it trains, and the weights that did it best.

    loss = mean over held-out pictures of prior.loss(z, tau(y)),   z ~ q(z | x) drawn once, times and noise the same each time

Where it rises while the training loss falls, the prior learns its pictures by heart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.conditioners.base import Prepared
from sfumato.generation.pixels import to_unit
from sfumato.io.files import read_table, write_json
from sfumato.io.weights import load_strictly, read_weights, save_weights
from sfumato.model import LatentModel
from sfumato.training.conditions import ConditionSource
from sfumato.training.config import RunConfig
from sfumato.training.fit import latent_factor
from sfumato.training.inputs import first_conditions
from sfumato.training.loop import autocast
from sfumato.training.prepare import Prepared as PreparedData

MOST = 256
"""Held-out pictures that are looked at."""
PART = 64
"""Of them at once."""
SEED = 20_000
"""Of their latents, times and noise."""
RISE = 0.02
"""A last loss that is larger than the smallest by this share of it is worth a word."""
NONE_HELD_OUT = "prior: no pictures are held out, so that nothing shows whether it learned its pictures by heart."
NUMBERS, WEIGHTS = "held_out.json", "best.safetensors"


@dataclass(frozen=True)
class Found:
    """The smallest held-out loss so far with its step, and the latest with its own."""

    best: float
    best_step: int
    last: float
    last_step: int

    @property
    def rises(self) -> bool:
        """Whether the latest is worse than the smallest by more than a trifle."""
        return self.last > self.best + RISE * abs(self.best)

    def told(self) -> str:
        """In words."""
        best = f"held-out loss {self.best:.4g} at step {self.best_step:,}"
        return best if self.last_step == self.best_step else f"{best}, {self.last:.4g} at step {self.last_step:,}"


class HeldOut:
    """Measures `model`, the averages of a run, on pictures (N, C, H, W) uint8 and prepared conditions (N, ...).

    folder: of the stage, where the numbers are kept and, with `keep`, the weights that had the smallest loss. precision: how
    the network computes, as in training.
    """

    def __init__(
        self,
        model: LatentModel,
        pixels: Tensor,
        prepared: Prepared,
        folder: Path,
        precision: AbstractContextManager[object],
        keep: bool,
    ):
        self.model, self.folder, self.precision, self.keep = model, folder, precision, keep
        self.device = next(model.prior.parameters()).device
        rng = torch.Generator(self.device).manual_seed(SEED)
        with torch.no_grad():
            parts = [model.encode(to_unit(part.to(self.device)), rng) for part in pixels[:MOST].split(PART)]
        self.latents = torch.cat(parts)
        self.prepared = prepared
        path = folder / NUMBERS
        self.found: Found | None = Found(**read_table(path)) if path.is_file() else None

    def __call__(self, step: int) -> Mapping[str, float]:
        """The loss after `step` steps, to be logged. Written down, and the weights with it where they are the best."""
        loss = self.measure()
        before = self.found
        better = before is None or loss < before.best
        best, best_step = (loss, step) if before is None or better else (before.best, before.best_step)
        if better and self.keep:
            save_weights(self.folder / WEIGHTS, self._weights())
        self.found = Found(best, best_step, loss, step)
        write_json(self.folder / NUMBERS, dataclasses.asdict(self.found))
        return {"held_out": loss}

    @torch.no_grad()
    def measure(self) -> float:
        """The loss of the present weights."""
        rng = torch.Generator(self.device).manual_seed(SEED + 1)
        total = 0.0
        with _evaluating(self.model.prior, self.model.conditioner), self.precision:
            for start in range(0, len(self.latents), PART):
                z = self.latents[start : start + PART]
                total += float(self.model.loss(z, self.prepared[start : start + PART], rng).total) * len(z)
        return total / len(self.latents)

    def finish(self, results: dict[str, Any]) -> str:
        """The best weights into the model, where they are kept, and the numbers into `results`; what the user should know."""
        path = self.folder / WEIGHTS
        if self.keep and path.is_file():
            self._load(read_weights(path), str(path))
        if self.found is None:  # trained before there was this number
            self(int(results["steps"]))
        assert self.found is not None
        results["held_out"] = dataclasses.asdict(self.found)
        told = f"prior: {self.found.told()}"
        if not self.found.rises:
            return told
        if self.keep:
            return f"{told}. From there on it learned its pictures by heart; the weights of that step are kept."
        return (
            f"{told}. From there on it learned its pictures by heart: fewer steps, more pictures or more dropout help, and "
            "prior.train.keep=best keeps the weights of that step."
        )

    def _load(self, weights: Mapping[str, Tensor], source: str) -> None:
        for name in ("prior", "conditioner"):
            head = f"{name}."
            own = {key.removeprefix(head): value for key, value in weights.items() if key.startswith(head)}
            load_strictly(getattr(self.model, name), own, source)

    def _weights(self) -> dict[str, Tensor]:
        parts = {"prior": self.model.prior, "conditioner": self.model.conditioner}
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def held_out_loss(
    model: LatentModel, config: RunConfig, data: PreparedData, conditions: ConditionSource, device: torch.device, folder: Path
) -> HeldOut | None:
    """On the last of the held-out pictures of `data`, since a comparison measures bits on the first; None without any.

    conditions: of the training pictures, among which neighbours are looked for.
    """
    count = len(data.held_out)
    if not count:
        return None
    shown = data.held_out.part(range(max(0, count - MOST), count))
    factor = latent_factor(config.first_stage.model)
    prepared = first_conditions(model.conditioner, shown, data.beside, conditions, device, factor)
    pixels = torch.stack([shown.pixels(i) for i in range(len(shown))])
    train = config.prior.train
    return HeldOut(model, pixels, prepared, folder, autocast(train, device), keep=train.keep == "best")


@contextmanager
def _evaluating(*modules: nn.Module) -> Iterator[None]:
    """Without dropout; as they were afterwards."""
    before = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.train(training)
