"""How well the prior explains pictures that it was not trained on, while it trains, and the weights that did it best.

    loss = mean over held-out pictures of prior.loss(z, tau(y)),   z ~ q(z | x) drawn once, times and noise the same each time

Where it rises while the training loss falls, the prior learns its pictures by heart.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from sfumato.training.config import OptimConfig, RunConfig
from sfumato.training.fit import latent_factor
from sfumato.training.inputs import first_conditions
from sfumato.training.loop import autocast
from sfumato.training.prepare import Prepared as PreparedData

MOST = 256
"""Held-out pictures that are looked at."""
PART = 32
"""Of them at once, or fewer where training takes fewer at once."""
FEW = 20
"""Pictures of which a rising loss says nothing yet."""
SEED = 20_000
"""Of their latents, times and noise."""
RISE = 0.05
"""A last loss that is larger than the smallest by this share of it is worth a word."""
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
        return not self.last <= self.best + RISE * abs(self.best)  # nor where it is no number

    def told(self) -> str:
        """In words."""
        best = f"held-out loss {self.best:.4g} at step {self.best_step:,}"
        return best if self.last_step == self.best_step else f"{best}, {self.last:.4g} at step {self.last_step:,}"


class HeldOut:
    """Measures `model`, the averages of a run, on pictures (N, C, H, W) uint8 and prepared conditions (N, ...).

    folder: of the stage, where the numbers are kept and, with `train.keep` "best", the weights that had the smallest loss. Like
    training, it takes at most batch_size / accumulate pictures at once; between measurements they lie on the CPU.
    """

    def __init__(self, model: LatentModel, pixels: Tensor, prepared: Prepared, folder: Path, train: OptimConfig):
        self.model, self.folder, self.train = model, folder, train
        self.device = next(model.prior.parameters()).device
        self.part = min(PART, max(1, train.batch_size // train.accumulate))
        rng = torch.Generator(self.device).manual_seed(SEED)
        with torch.no_grad():
            parts = [model.encode(to_unit(part.to(self.device)), rng).cpu() for part in pixels.split(self.part)]
        self.latents = torch.cat(parts)
        self.prepared = prepared.to("cpu")
        path = folder / NUMBERS
        self.found: Found | None = Found(**read_table(path)) if path.is_file() else None

    def __call__(self, step: int) -> Mapping[str, float]:
        """The loss after `step` steps, to be logged. Written down, and the weights with it where they are the best.

        A loss that is no finite number is never the best.
        """
        loss = self.measure()
        before = self.found
        if not math.isfinite(loss):
            return {}
        if before is None or loss < before.best:
            if self.train.keep == "best":
                save_weights(self.folder / WEIGHTS, self._weights())
            self.found = Found(loss, step, loss, step)
        else:
            self.found = Found(before.best, before.best_step, loss, step)
        write_json(self.folder / NUMBERS, dataclasses.asdict(self.found))
        return {"held_out": loss}

    @torch.no_grad()
    def measure(self) -> float:
        """The loss of the present weights."""
        rng = torch.Generator(self.device).manual_seed(SEED + 1)
        total = 0.0
        with _evaluating(self.model.prior, self.model.conditioner), autocast(self.train, self.device):
            for start in range(0, len(self.latents), self.part):
                z = self.latents[start : start + self.part].to(self.device)
                prepared = self.prepared[start : start + self.part].to(self.device)
                total += float(self.model.loss(z, prepared, rng).total) * len(z)
        return total / len(self.latents)

    def finish(self, results: dict[str, Any]) -> str:
        """The best weights into the model, where they are kept, and the numbers into `results`; what the user should know."""
        path = self.folder / WEIGHTS
        keep = self.train.keep == "best"
        if keep and path.is_file():
            self._load(read_weights(path), str(path))
        if self.found is None:  # trained before there was this number
            self(int(results["steps"]))
        if self.found is None:
            return "prior: the loss of held-out pictures is no finite number."
        results["held_out"] = dataclasses.asdict(self.found)
        told = f"prior: {self.found.told()}, of {len(self.latents)} pictures"
        if not self.found.rises or len(self.latents) < FEW:
            return told
        told += ". From there on it got worse on new pictures, as a prior does that learns its own by heart"
        if keep:
            return f"{told}; the weights of that step are kept."
        return f"{told}: fewer steps, more pictures or more dropout help, and prior.train.keep=best keeps that step's weights."

    def _load(self, weights: Mapping[str, Tensor], source: str) -> None:
        for name in ("prior", "conditioner"):
            head = f"{name}."
            own = {key.removeprefix(head): value for key, value in weights.items() if key.startswith(head)}
            load_strictly(getattr(self.model, name), own, source)

    def _weights(self) -> dict[str, Tensor]:
        parts = {"prior": self.model.prior, "conditioner": self.model.conditioner}
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def chosen_and_rest(count: int) -> tuple[list[int], list[int]]:
    """Numbers of the held-out pictures by which weights are chosen, at most half of `count`, and of those that judge them.

    Both are spread over all by chance, the same each time. Of a single picture both have it.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SEED)).tolist()
    taken = min(MOST, max(1, count // 2))
    return order[:taken], order[taken:] or order


def held_out_loss(
    model: LatentModel, config: RunConfig, data: PreparedData, conditions: ConditionSource, device: torch.device, folder: Path
) -> HeldOut:
    """On held-out pictures of `data`. conditions: of the training pictures, among which neighbours are looked for."""
    shown = data.held_out.part(chosen_and_rest(len(data.held_out))[0])
    factor = latent_factor(config.first_stage.model)
    prepared = first_conditions(model.conditioner, shown, data.beside, conditions, device, factor)
    pixels = torch.stack([shown.pixels(i) for i in range(len(shown))])
    return HeldOut(model, pixels, prepared, folder, config.prior.train)


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
