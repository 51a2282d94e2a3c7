"""What a picture is told in training, for every kind of conditioner: stored beforehand, or drawn anew at every step.

text, class, layout     prepared once, with variants of one meaning
map                     class maps as bytes, mirrored with their pictures
mask, small picture     drawn from the pixels at each step
neighbours              features of all pictures, and who is near whom
several                 each part in its own way
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from sfumato.conditioners.base import Parts, Prepared
from sfumato.data.dataset import ImageDataset
from sfumato.data.degrade import shrink
from sfumato.data.masks import draw_masks
from sfumato.features.neighbours import nearest
from sfumato.generation.pixels import to_unit

Resize = Callable[[Tensor], Tensor]


class ConditionSource(Protocol):
    """Prepared inputs of the pictures `index` (B,), those where `side` (B,) is 1 being mirrored; chance comes from `rng`."""

    def batch(self, index: Tensor, side: Tensor, rng: torch.Generator) -> Prepared: ...


class Stored:
    """Variants (N, V, ...) of each picture's condition, `num_variants` (N,) of which count; `mirrored` has those of the
    mirrored pictures, None where mirroring changes nothing."""

    def __init__(self, prepared: Tensor, num_variants: Tensor, device: torch.device, mirrored: Tensor | None = None):
        both = [prepared] if mirrored is None else [prepared, mirrored]
        self.prepared, self.num_variants = torch.stack(both).to(device), num_variants.to(device)  # (1 or 2, N, V, ...)

    def batch(self, index: Tensor, side: Tensor, rng: torch.Generator) -> Tensor:
        """One variant of each."""
        chance = torch.rand(len(index), generator=rng, device=index.device)
        variant = (chance * self.num_variants[index]).long()
        return self.prepared[side if len(self.prepared) == 2 else torch.zeros_like(side), index, variant]


class Pixels:
    """Training pictures by their numbers: from memory where they are there (N, C, H, W) uint8, else from their files."""

    def __init__(self, dataset: ImageDataset, resident: Tensor | None, device: torch.device):
        self.dataset, self.device = dataset, device
        self.resident = None if resident is None else resident.to(device)

    def __call__(self, index: Tensor, side: Tensor) -> Tensor:
        """(B,) numbers -> (B, C, H, W) fp32 in [-1, 1], mirrored where `side` is 1."""
        if self.resident is not None:
            pixels = self.resident[index]
        else:
            pixels = torch.stack([self.dataset.pixels(int(i)) for i in index.tolist()]).to(self.device)
        x = to_unit(pixels)
        return torch.where(side.view(-1, 1, 1, 1) == 1, x.flip(3), x)


class DrawnMasks:
    """Pictures with masks drawn at each step: what `MaskedLatents.prepare` gives, (B, C + 1, H, W)."""

    def __init__(self, pixels: Pixels):
        self.pixels = pixels

    def batch(self, index: Tensor, side: Tensor, rng: torch.Generator) -> Tensor:
        """Pictures beside masks."""
        x = self.pixels(index, side)
        return torch.cat([x, draw_masks(len(x), x.shape[2], x.shape[3], rng, x.device)], dim=1)


class Shrunken:
    """Small pictures made at each step: what `LowResolution.prepare` gives, (B, C, h fold, w fold)."""

    def __init__(self, pixels: Pixels, factor: int, degradation: str, resize: Resize):
        self.pixels, self.factor, self.degradation, self.resize = pixels, factor, degradation, resize

    def batch(self, index: Tensor, side: Tensor, rng: torch.Generator) -> Tensor:
        """Small pictures, of the size that stands beside the latent."""
        return self.resize(shrink(self.pixels(index, side), self.factor, self.degradation, rng))


class StoredMaps:
    """Class maps (N, H, W) uint8 or int16."""

    def __init__(self, maps: Tensor, device: torch.device):
        self.maps = maps.to(device)

    def batch(self, index: Tensor, side: Tensor, rng: torch.Generator) -> Tensor:
        """(B, H, W) whole numbers, mirrored with their pictures."""
        maps = self.maps[index].long()
        return torch.where(side.view(-1, 1, 1) == 1, maps.flip(2), maps)


class WholePictures:
    """The pictures themselves: what `PictureLatents.prepare` gives."""

    def __init__(self, pixels: Pixels):
        self.pixels = pixels

    def batch(self, index: Tensor, side: Tensor, rng: torch.Generator) -> Tensor:
        """(B, C, H, W)."""
        return self.pixels(index, side)


class NearestFeatures:
    """Features of all pictures, (N, tokens, dim) and pooled (N, dim), and the numbers (N, K) of each one's nearest others.

    A picture is given `num` of its K nearest, drawn anew each time, so that it cannot be told by its neighbours alone.
    """

    def __init__(self, features: Tensor, pooled: Tensor, others: Tensor, num: int, device: torch.device):
        self.features, self.pooled, self.others = features.to(device), pooled.to(device), others.to(device)
        self.num = num

    def batch(self, index: Tensor, side: Tensor, rng: torch.Generator) -> Tensor:
        """(B, num, tokens, dim) fp32."""
        order = torch.rand(len(index), self.others.shape[1], generator=rng, device=index.device).argsort(1)[:, : self.num]
        return self.features[self.others[index].gather(1, order)].float()

    def around(self, pooled: Tensor) -> Tensor:
        """The `num` training pictures nearest to each of (M, dim) -> (M, num, tokens, dim) fp32."""
        return self.features[nearest(pooled, self.pooled, self.num)].float()


class Several:
    """One source a part of a composite conditioner."""

    def __init__(self, parts: Mapping[str, ConditionSource]):
        self.parts = dict(parts)

    def batch(self, index: Tensor, side: Tensor, rng: torch.Generator) -> Parts:
        """Every part's prepared inputs."""
        return Parts({name: part.batch(index, side, rng) for name, part in self.parts.items()})


PREPARED = "prepared"


def flat(prepared: Prepared, name: str = PREPARED) -> dict[str, Tensor]:
    """Prepared inputs as tensors by dotted names, as a training batch has them; `unflat` is the inverse."""
    if isinstance(prepared, Tensor):
        return {name: prepared}
    return {key: tensor for part, value in prepared.values.items() for key, tensor in flat(value, f"{name}.{part}").items()}


def unflat(batch: Mapping[str, Tensor], name: str = PREPARED) -> Prepared:
    """The prepared inputs among a batch's tensors."""
    if name in batch:
        return batch[name]
    below = [key[len(name) + 1 :].partition(".")[0] for key in batch if key.startswith(f"{name}.")]
    return Parts({part: unflat(batch, f"{name}.{part}") for part in dict.fromkeys(below)})
