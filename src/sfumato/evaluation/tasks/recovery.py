"""Maps read back from pictures: a small segmenter, trained on true pictures with their maps, then applied to any.

It is trained by cross-entropy with AdamW and a learning rate that rises and falls once (Smith & Topin 2017, arXiv 1708.07120),
on pictures mirrored at random and in random light, so that it reads a model's pictures, which differ from true ones, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.alpha import on_white
from sfumato.evaluation.data import batches
from sfumato.generation.pixels import to_unit
from sfumato.networks.segmenter import Segmenter, SegmenterConfig


@dataclass(frozen=True)
class RecoveryTraining:
    """2,000 steps of 32 pictures of 128 x 128 take about a minute on one accelerator. seed: of weights and order."""

    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    seed: int = 0


def train_segmenter(
    pictures: Tensor,
    maps: Tensor,
    num_classes: int,
    device: torch.device | str = "cpu",
    training: RecoveryTraining = RecoveryTraining(),
    channels: int = 32,
    on_step: Callable[[int, float], None] | None = None,
) -> Segmenter:
    """pictures: (N, C, H, W) uint8, with transparency seen on white; maps: (N, H, W) class numbers, others are ignored.

    on_step: called with the step's number and its loss every 50 steps.
    """
    if len(pictures) != len(maps) or pictures.shape[2:] != maps.shape[1:] or not len(maps):
        raise ValueError(f"pictures {tuple(pictures.shape)} with maps {tuple(maps.shape)}: (N, C, H, W) and (N, H, W).")
    device = torch.device(device)
    rng = torch.Generator().manual_seed(training.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = Segmenter(SegmenterConfig(num_classes, on_white(pictures).shape[1], channels)).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, total_steps=training.steps)
    for step in range(training.steps):
        index = torch.randint(len(pictures), (training.batch_size,), generator=rng)
        x, y = _varied(to_unit(on_white(pictures[index]).to(device)), maps[index].long().to(device), rng)
        y = torch.where((y >= 0) & (y < num_classes), y, -100)  # cross-entropy passes over -100
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(x)
        loss = F.cross_entropy(logits.float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_step is not None and (step + 1) % 50 == 0:
            on_step(step + 1, loss.item())
    return network.eval()


def _varied(x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half of the pictures mirrored, all in a light of their own: contrast by 10 % and brightness by 0.1 either way."""
    mirrored = (torch.rand(len(x), generator=rng) < 0.5).to(x.device)
    contrast, light = (0.2 * torch.rand(2, len(x), 1, 1, 1, generator=rng) - 0.1).to(x.device)
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x) * (1 + contrast) + light
    return x.clamp(-1, 1), torch.where(mirrored[:, None, None], y.flip(2), y)


@torch.inference_mode()
def recover(segmenter: Segmenter, pictures: Tensor, batch_size: int = 32) -> Tensor:
    """(N, C, H, W) uint8 -> (N, H, W) int64 class numbers on the CPU, by the segmenter on its own device."""
    device = next(segmenter.parameters()).device
    found = [
        segmenter(to_unit(on_white(pictures[part]).to(device))).argmax(1).cpu() for part in batches(len(pictures), batch_size)
    ]
    return torch.cat(found)
