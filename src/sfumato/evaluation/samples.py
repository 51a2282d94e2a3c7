"""A folder of pictures as samples: what another program drew, measured as a model's own pictures are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sfumato.data.decode import open_header
from sfumato.data.folder import scan
from sfumato.errors import InputError
from sfumato.evaluation.data import EvaluationData, choose
from sfumato.evaluation.source import Source, read_records, read_sets

CHANNELS = 3
"""Pictures are seen on white: how a folder's transparency came about is not known."""


def holds_pictures(path: Path) -> bool:
    """Whether this is a folder or a shard with pictures in it, by their names."""
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".tar"):
        return bool(scan(path).records)
    return False


def read_samples(path: Path) -> EvaluationData:
    """All pictures of a folder, (N, 3, H, W), in the order of their names.

    Raises `InputError` when there is none, when one cannot be read, or when they are not of one size.
    """
    records = scan(path).records
    if not records:
        raise InputError(f"{path} holds no pictures; give a folder of samples, or a model.")
    sizes = {open_header(record.read(), record.name).size: record.name for record in records}
    if len(sizes) > 1:
        shown = ", ".join(f"{name} {width}x{height}" for (width, height), name in list(sizes.items())[:2])
        raise InputError(f"samples are of several sizes ({shown}); give pictures of one size, as one model draws them.")
    ((width, height),) = sizes
    found, unreadable = read_records(records, (CHANNELS, height, width), lambda record: "")
    if unreadable:
        raise InputError(
            f"{unreadable} of {len(records)} samples cannot be read; a share of a model's pictures is another set."
        )
    return found


def sets_for(samples: EvaluationData, data: Path, name: str | None, num: int | None, seed: int) -> Source:
    """Real pictures in the samples' size: as many held-out and as many training ones as there are samples to compare."""
    wanted = len(samples) if num is None else num
    if wanted > len(samples):
        raise InputError(f"num: got {wanted}, and there are {len(samples)} samples; ask for at most as many.")
    _, channels, height, width = samples.pixels.shape
    return read_sets(data, (channels, height, width), name=name, num=wanted, say=lambda record: "", seed=seed, rest=wanted)


class Given:
    """Samples in the place of a model: hands out the next ones, whatever the prompt. `wanted` of them are taken by chance."""

    def __init__(self, samples: EvaluationData, wanted: int, seed: int) -> None:
        self.pixels = samples.pixels[torch.tensor(choose(len(samples), wanted, seed))]
        self.next = 0

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """See `settings.Generate`."""
        start, self.next = self.next, self.next + len(prompts)
        return self.pixels[start : self.next]
