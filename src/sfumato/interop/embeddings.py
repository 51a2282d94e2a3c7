"""Mean and deviation of the image embeddings that Stable unCLIP-L was trained on.

Its single file lacks them: the authors published `ViT-L-14_stats.th` beside it, a pair of vectors (D,). With mean 0 and
deviation 1 in their place the model would run, and be wrong. Stable unCLIP-H has 0 and 1.
"""

from __future__ import annotations

from pathlib import Path

import torch

from sfumato.conditioners.checkpoint import Statistics
from sfumato.conditioners.compose import CompositeConfig
from sfumato.conditioners.image_embedding import VIT_L, ImageEmbeddingConfig
from sfumato.errors import InputError
from sfumato.interop.cards import Card
from sfumato.interop.checkpoint import open_file

NAME = "ViT-L-14_stats.th"
PLACES = (NAME, f"karlo_models/{NAME}")
"""Beside a checkpoint, and where the authors' own code keeps it."""
_PAIR = ("0", "1")


def statistics_for(card: Card, path: Path) -> Statistics | None:
    """What belongs to the checkpoint at `path`; None for a model that needs none. Raises `InputError` where it is not there."""
    parts = card.conditioner.parts if isinstance(card.conditioner, CompositeConfig) else ()
    configs = [part.conditioner for part in parts if isinstance(part.conditioner, ImageEmbeddingConfig)]
    if all(config.tower != VIT_L for config in configs):
        return None
    for place in PLACES:
        if (path.parent / place).is_file():
            return read_statistics(path.parent / place, VIT_L.projection)
    raise InputError(
        f"{path} is {card.name}, whose statistics of image embeddings are in a file of their own: put {NAME} beside it, "
        "or load the diffusers folder, which has them."
    )


def read_statistics(path: Path, width: int) -> Statistics:
    """A file of two vectors (width,), mean and deviation, as data: no pickle is run. Raises `InputError` for another one."""
    index = open_file(path).index
    shapes = {name: entry.shape for name, entry in index.items()}
    if shapes != dict.fromkeys(_PAIR, (width,)):
        raise InputError(f"{path} holds no pair of vectors of {width}; expected mean and deviation of image embeddings.")
    mean, std = (index[name].read().to(torch.float32) for name in _PAIR)
    if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
        raise InputError(f"{path}: mean and deviation should be finite, and the deviation above 0; get the file again.")
    return Statistics(mean, std)
