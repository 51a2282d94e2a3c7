"""Layouts: is the thing asked for in its box, and does it fill the box?

Found: the crop of a box looks like a gallery picture of the class asked for. A crop is the square around the box's centre of
its longer side, moved into the picture; gallery pictures (one thing on a plain background) are cropped likewise around what
differs from their corner. Features are MobileNetV2's `LAYER`, averaged in 4 x 4 places and centred by the gallery's mean;
the class of the nearest by the cosine is the one found. Averaged in one place they would see more of the background than of
the thing.

Overlap: the thing's own box is the smallest that holds the central 99.5 %, in each direction, of the pixels of its class in
the map recovered from the picture, within a window that is half its sides larger all around; intersection over union with
the box asked for, 0 where no such pixel is. Where maps tell things from background and not their classes, the pixels are those
of any thing outside of the other boxes asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.alpha import on_white
from sfumato.conditioners.layout import Box
from sfumato.evaluation.data import batches
from sfumato.evaluation.tasks.intervals import ratio_interval
from sfumato.features.mobilenet import load_mobilenet
from sfumato.features.views import resize_square
from sfumato.generation.pixels import to_bytes, to_unit
from sfumato.metrics.bootstrap import Interval
from sfumato.metrics.retrieval import centred_cosine

LAYER = "block10"
PLACES = 4  # a side
SIDE = 128  # of the crops
WINDOW = 0.5
TRIMMED = 0.0025  # of the pixels, at each end
DIFFERENT = 12  # of 255: what differs from a gallery picture's corner


@dataclass(frozen=True)
class Gallery:
    """features (G, D) and labels (G,) of single things."""

    features: Tensor
    labels: Tensor

    @property
    def chance(self) -> float:
        """How often a blind guess among the classes is right."""
        return 1 / len(self.labels.unique())


@dataclass(frozen=True)
class Found:
    """share: of boxes whose thing is the one asked for. by_class: by name. hits: bool, boxes in order. chance: of a guess."""

    share: Interval
    by_class: dict[str, float]
    hits: Tensor
    chance: float


@dataclass(frozen=True)
class Overlap:
    """iou: mean over all boxes, in [0, 1]. values: boxes in order."""

    iou: Interval
    values: Tensor


def make_gallery(pictures: Tensor, labels: Sequence[int], device: torch.device | str = "cpu") -> Gallery:
    """pictures: (G, C, H, W) uint8, one thing each on a plain or clear background; labels: the class numbers of layouts."""
    if len(pictures) != len(labels) or not len(pictures):
        raise ValueError(f"{len(pictures)} gallery pictures with {len(labels)} labels: one each is needed.")
    crops = torch.cat([crop(picture, content_box(picture), SIDE) for picture in pictures])
    return Gallery(_features(crops, device), torch.tensor(labels))


def gallery_of_boxes(pictures: Tensor, layouts: Sequence[Sequence[Box]], device: torch.device | str = "cpu") -> Gallery:
    """The things in the boxes of true pictures (N, C, H, W) uint8, on whatever they stand: training pictures."""
    owner, boxes = _listed(pictures, layouts)
    crops = torch.cat([crop(pictures[i].cpu(), box, SIDE) for i, box in zip(owner.tolist(), boxes)])
    return Gallery(_features(crops, device), torch.tensor([box.label for box in boxes]))


@torch.inference_mode()
def _features(crops: Tensor, device: torch.device | str, batch_size: int = 64) -> Tensor:
    """(N, C, SIDE, SIDE) uint8 -> (N, 16 D) fp32 on the CPU."""
    network, found = load_mobilenet(device), []
    for part in batches(len(crops), batch_size):
        map = network(to_unit(crops[part].to(device)), (LAYER,))[LAYER]  # (B, D, h, w)
        found.append(F.adaptive_avg_pool2d(map, PLACES).flatten(1).cpu())
    return torch.cat(found)


def content_box(picture: Tensor) -> Box:
    """The box of what differs from the top left pixel, of a (C, H, W) uint8 picture; the whole where nothing does."""
    given = picture.int()
    rows, columns = ((given - given[:, :1, :1]).abs().amax(0) > DIFFERENT).nonzero(as_tuple=True)
    height, width = picture.shape[1:]
    if not len(rows):
        return Box(0, 0.0, 0.0, 1.0, 1.0)
    top, left, bottom, right = (int(v) for v in (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1))
    return Box(0, left / width, top / height, (right - left) / width, (bottom - top) / height)


def crop(picture: Tensor, box: Box, side: int) -> Tensor:
    """(C, H, W) uint8 -> (1, 3 or 1, side, side) uint8: the square around the box, seen on white."""
    height, width = picture.shape[1:]
    wanted = max(box.width * width, box.height * height)
    size = min(max(2, round(wanted)), height, width)
    left = min(max(0, round((box.left + box.width / 2) * width - size / 2)), width - size)
    top = min(max(0, round((box.top + box.height / 2) * height - size / 2)), height - size)
    return to_bytes(resize_square(to_unit(on_white(picture)[None, :, top : top + size, left : left + size]), side))


def found_in_boxes(
    pictures: Tensor,
    layouts: Sequence[Sequence[Box]],
    names: Sequence[str],
    gallery: Gallery,
    rng: torch.Generator,
    device: torch.device | str = "cpu",
    num_resamples: int = 1000,
) -> Found:
    """pictures: (N, C, H, W) uint8, made for `layouts`; names: of the labels. The same of the true pictures is the ceiling.

    Raises `ValueError` for other counts and for no box at all.
    """
    owner, boxes = _listed(pictures, layouts)
    crops = torch.cat([crop(pictures[i].cpu(), box, SIDE) for i, box in zip(owner.tolist(), boxes)])
    nearest = centred_cosine(_features(crops, device), gallery.features).argmax(1)
    asked = torch.tensor([box.label for box in boxes])
    hits = gallery.labels[nearest] == asked
    by_class = {names[int(label)]: hits[asked == label].double().mean().item() for label in asked.unique()}
    part, whole = _by_picture(hits.double(), owner, len(pictures))
    return Found(ratio_interval(part, whole, rng, num_resamples), by_class, hits, gallery.chance)


def box_overlap(
    maps: Tensor, layouts: Sequence[Sequence[Box]], rng: torch.Generator, first: int = 1, num_resamples: int = 1000
) -> Overlap:
    """maps: (N, H, W) class numbers recovered from N pictures; `first`: the number in maps of label 0 (0 is the background)."""
    owner, boxes = _listed(maps, layouts)
    values = [_overlap(maps[i].cpu() == box.label + first, box) for i, box in zip(owner.tolist(), boxes)]
    found = torch.tensor(values, dtype=torch.float64)
    part, whole = _by_picture(found, owner, len(maps))
    return Overlap(ratio_interval(part, whole, rng, num_resamples), found)


def thing_overlap(things: Tensor, layouts: Sequence[Sequence[Box]], rng: torch.Generator, num_resamples: int = 1000) -> Overlap:
    """As `box_overlap`, of whatever fills a box. things: (N, H, W) bool, recovered from N pictures: no background there."""
    owner, boxes = _listed(things, layouts)
    values = []
    for index, box in zip(owner.tolist(), boxes):
        own = things[index].cpu().clone()
        for other in layouts[index]:
            if other is not box:
                own[_rows(other, own.shape[0]), _columns(other, own.shape[1])] = False
        values.append(_overlap(own, box))
    found = torch.tensor(values, dtype=torch.float64)
    part, whole = _by_picture(found, owner, len(things))
    return Overlap(ratio_interval(part, whole, rng, num_resamples), found)


def _rows(box: Box, height: int) -> slice:
    return slice(round(box.top * height), round((box.top + box.height) * height))


def _columns(box: Box, width: int) -> slice:
    return slice(round(box.left * width), round((box.left + box.width) * width))


def _listed(pictures: Tensor, layouts: Sequence[Sequence[Box]]) -> tuple[Tensor, list[Box]]:
    """All boxes in order, and which picture each is of."""
    boxes = [box for layout in layouts for box in layout]
    if len(pictures) != len(layouts) or not boxes:
        raise ValueError(f"{len(pictures)} pictures for {len(layouts)} layouts of {len(boxes)} boxes: one each, with boxes.")
    return torch.tensor([index for index, layout in enumerate(layouts) for _ in layout]), boxes


def _by_picture(values: Tensor, owner: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sum of the values and number of boxes of each picture."""
    zeros = torch.zeros(count, dtype=torch.float64)
    return zeros.index_add(0, owner, values), zeros.index_add(0, owner, torch.ones_like(values))


def _overlap(inside: Tensor, box: Box) -> float:
    """IoU of a box with that of the pixels (H, W) near it."""
    height, width = inside.shape
    asked = (box.left * width, box.top * height, (box.left + box.width) * width, (box.top + box.height) * height)
    grow_x, grow_y = WINDOW * (asked[2] - asked[0]), WINDOW * (asked[3] - asked[1])
    left, top = max(0, int(asked[0] - grow_x)), max(0, int(asked[1] - grow_y))
    rows, columns = inside[top : int(asked[3] + grow_y) + 1, left : int(asked[2] + grow_x) + 1].nonzero(as_tuple=True)
    if not len(rows):
        return 0.0
    (x0, x1), (y0, y1) = _extent(columns), _extent(rows)
    return _iou(asked, (x0 + left, y0 + top, x1 + left, y1 + top))


def _extent(places: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(places.float(), torch.tensor([TRIMMED, 1 - TRIMMED]), interpolation="nearest").tolist()
    return low, high + 1


def _iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Of two boxes (left, top, right, bottom)."""
    over = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return over / max(sum(areas) - over, 1e-12)
