"""A folder's pictures as a gallery in which neighbours are looked for: retrieval from one's own pictures.

Features of the embedded network (`features.neighbours`), by exact search. They are kept on disk under the hash of what they
were made of: the bytes of every file, the network and the side of the pictures.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sfumato.conditioners.retrieved import Retrieved, RetrievedConfig, extractor
from sfumato.data.dataset import ImageDataset
from sfumato.data.folder import Record, scan
from sfumato.errors import InputError, MachineError
from sfumato.features.mobilenet import asset_sha256
from sfumato.features.neighbours import groups_of
from sfumato.generation.engine import Each
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.request import Picture
from sfumato.generation.tasks.parts import needed_part
from sfumato.io.files import write_bytes
from sfumato.networks.frozen_vision import vision_facts

STRIDE = 16  # pixels a side of what one token sees
FAMILY = "family"  # of a picture's metadata: drawings of one thing


@dataclass(frozen=True, eq=False)
class Gallery:
    """maps: (N, tokens, dim) fp16. pooled: (N, dim) fp32 of length 1. groups: (N,), whose members never find each other."""

    maps: Tensor
    pooled: Tensor
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pooled)

    def others(self, index: int, num: int) -> Tensor:
        """Numbers (num,) of the pictures nearest to picture `index`, the nearest first, none of its own group.

        Raises `InputError` where there are fewer.
        """
        near = self.pooled @ self.pooled[index]  # (N,)
        near[torch.tensor([group == self.groups[index] for group in self.groups])] = -torch.inf
        there = int(torch.isfinite(near).sum())
        if num > there:
            raise InputError(f"{num} neighbours, and a picture has {there} others here; give a folder of more pictures.")
        return near.topk(num).indices

    def drawn(self, seed: int, num: int) -> Tensor:
        """(num, tokens, dim) fp32: the neighbours of a picture that the seed draws."""
        index = int(torch.randint(len(self), (), generator=torch.Generator().manual_seed(seed)))
        return self.maps[self.others(index, num)].float()


def read_gallery(
    directory: Path,
    side: int,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    *,
    families: bool = True,
    config: RetrievedConfig | None = None,
) -> Gallery:
    """The pictures below `directory`, cut to squares of `side` pixels, with their features.

    cache: a folder where features are kept; one that cannot be written is no reason to fail. families: pictures of one
    `family` in the metadata are one group, as equal pictures are in any case. config: whose features, None for the embedded
    network's. Raises `InputError` for a folder without pictures, and for a file that cannot be read.
    """
    records = scan(directory).records
    if not records:
        raise InputError(f"{directory}: no pictures there; give a folder of pictures.")
    pictures = ImageDataset(records, side).load_all()
    digest = config.digest if config is not None else ""
    path = None if cache is None else cache / f"{_key(records, side, digest)[:32]}.safetensors"
    found = _read(path, len(records))
    if found is None:
        found = extractor(config or RetrievedConfig())(pictures, torch.device(device))
        _write(path, *found)
    rows = [record.row.get(FAMILY) for record in records]
    named = [None if row is None else str(row) for row in rows] if families else None
    return Gallery(*found, tuple(groups_of(pictures, named)))


def neighbours_by_seed(
    pipeline: Pipeline, directory: Path, cache: Path | None = None, beside: Callable[[Picture], object] | None = None
) -> Each:
    """Inputs of `generate` for a model that reads neighbours: those of a picture of `directory` that each seed draws.

    beside: what other parts of the model are told, a mapping by their names. Raises `InputError` for another model.
    """
    part = needed_part(pipeline, Retrieved, "neighbours", "take one that was trained with them")
    config: RetrievedConfig = part.conditioner.config
    side = vision_facts(config.encoder).size if config.encoder else side_of(config.tokens)
    gallery = read_gallery(directory, side, cache, pipeline.device, config=config)
    gallery.others(0, config.num)  # too few pictures: said before any is made

    def inputs(picture: Picture) -> object:
        own = part.inputs(gallery.drawn(picture.seed, config.num))
        more = None if beside is None else beside(picture)
        return {**own, **more} if isinstance(own, dict) and isinstance(more, dict) else own

    return Each(inputs)


def side_of(tokens: int) -> int:
    """Pixels of a square picture that has so many tokens."""
    across = math.isqrt(tokens)
    if across**2 != tokens:
        raise InputError(f"this model reads neighbours of {tokens} tokens, which no square picture has.")
    return STRIDE * across


def _key(records: tuple[Record, ...], side: int, encoder: str = "") -> str:
    whole = hashlib.sha256(f"{encoder or asset_sha256()} {side}".encode())
    for record in records:
        whole.update(hashlib.sha256(record.read()).digest())
    return whole.hexdigest()


def _read(path: Path | None, count: int) -> tuple[Tensor, Tensor] | None:
    """What is kept; None where nothing is, or what is there is damaged."""
    if path is None or not path.is_file():
        return None
    try:
        kept = load(path.read_bytes())
        maps, pooled = kept["maps"], kept["pooled"]
    except (SafetensorError, KeyError, OSError):
        return None
    whole = maps.ndim == 3 and pooled.ndim == 2 and len(maps) == len(pooled) == count and bool(pooled.isfinite().all())
    return (maps, pooled) if whole else None


def _write(path: Path | None, maps: Tensor, pooled: Tensor) -> None:
    if path is None:
        return
    try:
        write_bytes(path, save({"maps": maps.contiguous(), "pooled": pooled.contiguous()}))
    except (MachineError, OSError):
        return
