"""Train a classifier of latents, for guidance: cross-entropy on noised latents.

    L = E[-log softmax(f(z + s eps))_y],   s uniform in [0, noise]

Estimates of x_0 are no data: early ones are blurred, late ones have errors. Noise of every size keeps the classifier from being
sure of itself on what it has never seen, where its gradient would mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.errors import InputError
from sfumato.networks.classifier import ClassifierConfig, LatentClassifier


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


def train_classifier(
    config: ClassifierConfig,
    z: Tensor,
    labels: Tensor,
    how: ClassifierTraining | None = None,
    device: torch.device | str = "cpu",
) -> LatentClassifier:
    """A classifier of latents z (N, C, h, w) in unit scale with labels (N,) whole numbers, trained and frozen.

    z comes from `model.encode(pixels)`. Deterministic by the seed on one machine. Raises `InputError` when labels do not fit.
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
        _descend(network, z.to(device).float(), labels.to(device).long(), how)
    return network.requires_grad_(False).eval()


def _descend(network: LatentClassifier, z: Tensor, labels: Tensor, how: ClassifierTraining) -> None:
    rng = torch.Generator(z.device).manual_seed(how.seed)
    optimizer = torch.optim.AdamW(network.parameters(), how.learning_rate, weight_decay=how.weight_decay)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.steps)
    for _ in range(how.steps):
        rows = torch.randint(len(z), (min(how.batch_size, len(z)),), generator=rng, device=z.device)
        spread = how.noise * torch.rand(len(rows), 1, 1, 1, generator=rng, device=z.device)
        noised = z[rows] + spread * torch.randn(z[rows].shape, generator=rng, device=z.device)
        loss = F.cross_entropy(network(noised), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        falling.step()
