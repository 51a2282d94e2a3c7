"""Which pictures look alike to the embedded network: cosine similarity of pooled features, by exact search.

phi(x): the map of the deepest layer, (h w) tokens;   near(x, y) = <mean phi(x), mean phi(y)> / |.||.|
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.errors import InputError
from sfumato.features.mobilenet import load_mobilenet

LAYER = "block10"
CHUNK = 256


@torch.inference_mode()
def features_of(pictures: Tensor, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """(N, C, H, W) uint8 -> maps (N, tokens, dim) fp16 and pooled, of length 1, (N, dim) fp32; both on the CPU."""
    network = load_mobilenet(device)
    maps, pooled = [], []
    for start in range(0, len(pictures), CHUNK):
        x = pictures[start : start + CHUNK].to(device).float() / 127.5 - 1
        found = network(x, [LAYER])[LAYER].flatten(2).transpose(1, 2)  # (B, h w, D)
        maps.append(found.half().cpu())
        pooled.append(F.normalize(found.mean(1), dim=1).cpu())
    return torch.cat(maps), torch.cat(pooled)


def nearest(queries: Tensor, gallery: Tensor, num: int, skip: Tensor | None = None) -> Tensor:
    """Numbers (M, num) of the rows of `gallery` (N, dim) nearest to each of `queries` (M, dim), the nearest first.

    skip: (M,) a row of the gallery that each query must not find, such as itself. Raises `InputError` for too few pictures.
    """
    if num < 1 or num > len(gallery) - (skip is not None):
        raise InputError(f"{num} neighbours among {len(gallery)} pictures; give more pictures, or ask for fewer neighbours.")
    rows = []
    for start in range(0, len(queries), CHUNK):
        near = queries[start : start + CHUNK] @ gallery.T  # (B, N)
        if skip is not None:
            near.scatter_(1, skip[start : start + CHUNK, None].to(near.device), -torch.inf)
        rows.append(near.topk(num, dim=1).indices)
    return torch.cat(rows)


def nearest_others(pooled: Tensor, num: int, families: Sequence[str] | None = None) -> Tensor:
    """Numbers (N, num) of each picture's nearest others: never itself. families: (N,), whose members do not find each other."""
    if families is None:
        return nearest(pooled, pooled, num, skip=torch.arange(len(pooled)))
    known = {name: i for i, name in enumerate(dict.fromkeys(families))}
    family = torch.tensor([known[name] for name in families])
    fewest = len(pooled) - int(torch.bincount(family).max())
    if num < 1 or num > fewest:
        raise InputError(f"{num} neighbours, and a picture has {fewest} others outside of its family; ask for fewer.")
    rows = []
    for start in range(0, len(pooled), CHUNK):
        near = pooled[start : start + CHUNK] @ pooled.T
        near.masked_fill_(family[start : start + CHUNK, None] == family, -torch.inf)
        rows.append(near.topk(num, dim=1).indices)
    return torch.cat(rows)


def groups_of(pictures: Tensor, families: Sequence[str | None] | None = None) -> list[str]:
    """For each of (N, C, H, W) uint8 the group that must not find each other: equal pictures, and those of one family.

    families: (N,), None for a picture of none. Groups are joined where they share a picture.
    """
    content = [hashlib.sha256(picture.contiguous().numpy().tobytes()).hexdigest() for picture in pictures.cpu()]
    own = [None] * len(content) if families is None else list(families)
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while root.setdefault(name, name) != name:
            name = root[name]
        return name

    for digest, family in zip(content, own, strict=True):
        if family is not None:
            root[find(f"family {family}")] = find(digest)
    return [find(digest) for digest in content]


def most_others(groups: Sequence[str]) -> int:
    """How many others every picture has outside of its own group."""
    return len(groups) - max(Counter(groups).values(), default=0)
