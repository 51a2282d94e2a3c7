"""How well the prior explains pictures that it was not trained on, while it trains, and the weights that did it best.

    loss = mean over held-out pictures of prior.loss(z, tau(y)),   z ~ q(z | x) drawn once, times and noise the same each time

Where it rises while the training loss falls, the prior learns its pictures by heart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.conditioners.base import Prepared
from sfumato.generation.pixels import to_unit
from sfumato.io.files import read_table, write_json
from sfumato.io.weights import load_strictly, read_weights, save_weights
from sfumato.model import LatentModel

MOST = 256
"""Held-out pictures that are looked at."""
PART = 64
"""Of them at once."""
SEED = 20_000
"""Of their latents, times and noise."""
RISE = 0.02
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
        write_json(self.folder / NUMBERS, self.found.__dict__)
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

    def restore(self) -> None:
        """The best weights into the model, where they were kept."""
        path = self.folder / WEIGHTS
        if not self.keep or not path.is_file():
            return
        weights = read_weights(path)
        for name in ("prior", "conditioner"):
            head = f"{name}."
            own = {key.removeprefix(head): value for key, value in weights.items() if key.startswith(head)}
            load_strictly(getattr(self.model, name), own, str(path))

    def advice(self) -> str:
        """What the user should know of it, in a sentence or two."""
        assert self.found is not None
        told = f"prior: {self.found.told()}"
        if not self.found.rises:
            return told
        if self.keep:
            return f"{told}. From there on it learned its pictures by heart; the weights of that step are kept."
        return (
            f"{told}. From there on it learned its pictures by heart: fewer steps, more pictures or more dropout help, and "
            "prior.train.keep=best keeps the weights of that step."
        )

    def _weights(self) -> dict[str, Tensor]:
        parts = {"prior": self.model.prior, "conditioner": self.model.conditioner}
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


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
