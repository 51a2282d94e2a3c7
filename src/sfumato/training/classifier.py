"""Train a classifier of latents, for guidance: cross-entropy on noised latents.

    L = E[-log softmax(f(z + s eps))_y],   s uniform in [0, noise]

Estimates of x_0 are no data: early ones are blurred, late ones have errors. Noise of every size keeps the classifier from being
sure of itself on what it has never seen, where its gradient would mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.data.dataset import ImageDataset
from sfumato.errors import InputError
from sfumato.first_stages.base import FirstStage
from sfumato.generation.pixels import to_unit
from sfumato.latent import Grid
from sfumato.model import LatentModel
from sfumato.networks.classifier import ClassifierConfig, LatentClassifier

TOLD_EVERY = 100  # steps


@dataclass(frozen=True)
class ClassifierTraining:
    """steps of AdamW on batch_size latents; noise: the largest s. The learning rate falls to 0 along a cosine."""

    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    noise: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or not self.learning_rate > 0 or self.weight_decay < 0 or self.noise < 0:
            raise InputError(f"classifier training: got {self}; expected steps, batch size and learning rate above 0.")


@dataclass(frozen=True, eq=False)
class LabelledLatents:
    """z: (N, C, h, w) in unit scale, labels: (N,) whole numbers into the names of the classes; on one device."""

    z: Tensor
    labels: Tensor


def labelled_latents(
    model: LatentModel,
    data: ImageDataset,
    names: Sequence[str],
    device: torch.device | str = "cpu",
    batch_size: int = 16,
) -> LabelledLatents:
    """The most likely latents of the pictures whose class is one of `names`; others are passed over.

    The model is on `device`, `data` in its shape. Raises `InputError` where latents are no grid, and for unreadable pictures.
    """
    stage, index = model.first_stage, {name: i for i, name in enumerate(names)}
    if not isinstance(stage, FirstStage) or not isinstance(stage.latent, Grid):
        raise InputError("model: it has no encoder whose latents are a grid; a classifier reads no others.")
    rows = [(i, index[record.label]) for i, record in enumerate(data.records) if record.label in index]
    latents = [torch.empty(0, stage.latent.channels, *(side // stage.latent.factor for side in data.target.height_width))]
    for start in range(0, len(rows), batch_size):
        pixels = torch.stack([data.pixels(i) for i, _ in rows[start : start + batch_size]])
        with torch.no_grad():
            latents.append(stage.posterior(to_unit(pixels).to(device)).mode().float())
    return LabelledLatents(torch.cat([z.to(device) for z in latents]), torch.tensor([c for _, c in rows]).long().to(device))


@torch.no_grad()
def accuracy(network: LatentClassifier, data: LabelledLatents, batch_size: int = 256) -> float:
    """The share of latents whose most likely class is theirs. data: one latent or more."""
    parts = zip(data.z.split(batch_size), data.labels.split(batch_size), strict=True)
    return sum(int((network(z).argmax(1) == labels).sum()) for z, labels in parts) / len(data.z)


def train_classifier(
    config: ClassifierConfig,
    z: Tensor,
    labels: Tensor,
    how: ClassifierTraining | None = None,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, float], None] | None = None,
) -> LatentClassifier:
    """A classifier of latents z (N, C, h, w) in unit scale with labels (N,) whole numbers, trained and frozen.

    z comes from `labelled_latents` or `model.encode(pixels)`. on_step is told every hundredth step and the last, and the loss
    there. Deterministic by the seed on one machine. Raises `InputError` when labels do not fit.
    """
    how = how or ClassifierTraining()
    wrong = labels.shape != z.shape[:1] or labels.is_floating_point() or len(z) == 0
    if wrong or int(labels.min()) < 0 or int(labels.max()) >= len(config.names):
        raise InputError(
            f"classifier: labels {tuple(labels.shape)} for {len(z)} latents; expected one each, 0 to {len(config.names) - 1}."
        )
    with torch.random.fork_rng():
        torch.manual_seed(how.seed)
        network = LatentClassifier(config).to(device).train()
        _descend(network, z.to(device).float(), labels.to(device).long(), how, on_step)
    return network.requires_grad_(False).eval()


def _descend(
    network: LatentClassifier,
    z: Tensor,
    labels: Tensor,
    how: ClassifierTraining,
    on_step: Callable[[int, float], None] | None,
) -> None:
    rng = torch.Generator(z.device).manual_seed(how.seed)
    optimizer = torch.optim.AdamW(network.parameters(), how.learning_rate, weight_decay=how.weight_decay)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.steps)
    for step in range(1, how.steps + 1):
        rows = torch.randint(len(z), (min(how.batch_size, len(z)),), generator=rng, device=z.device)
        spread = how.noise * torch.rand(len(rows), 1, 1, 1, generator=rng, device=z.device)
        noised = z[rows] + spread * torch.randn(z[rows].shape, generator=rng, device=z.device)
        loss = F.cross_entropy(network(noised), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        falling.step()
        if on_step is not None and (step % TOLD_EVERY == 0 or step == how.steps):
            on_step(step, float(loss.detach()))
