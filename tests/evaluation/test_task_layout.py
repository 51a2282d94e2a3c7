"""Things in boxes: drawings whose classes and places are known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sfumato.conditioners.layout import Box
from sfumato.evaluation.tasks.layout import (
    box_overlap,
    content_box,
    crop,
    found_in_boxes,
    gallery_of_boxes,
    make_gallery,
    thing_overlap,
)

SIDE = 96
NAMES = ("disc", "stripes", "cross")


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def thing(label: int, side: int) -> Tensor:
    """(3, side, side) uint8: a red disc, blue stripes, a green cross, on light grey."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    ink = [x**2 + y**2 < 1, (4 * x).floor() % 2 == 0, (x.abs() < 0.3) | (y.abs() < 0.3)][label]
    colour = torch.tensor([[220, 30, 30], [30, 30, 220], [30, 160, 30]], dtype=torch.uint8)[label]
    return torch.where(ink, colour[:, None, None], torch.tensor(230, dtype=torch.uint8))


def picture(things: Sequence[tuple[int, int, int, int]]) -> tuple[Tensor, tuple[Box, ...]]:
    """Things (label, left, top, side in pixels) -> a picture and its layout."""
    canvas, boxes = torch.full((3, SIDE, SIDE), 230, dtype=torch.uint8), []
    for label, left, top, side in things:
        canvas[:, top : top + side, left : left + side] = thing(label, side)
        boxes.append(Box(label, left / SIDE, top / SIDE, side / SIDE, side / SIDE))
    return canvas, tuple(boxes)


def alone(label: int, side: int) -> Tensor:
    return picture([(label, 20, 10, side)])[0]


@pytest.fixture(scope="module")
def gallery():
    return make_gallery(torch.stack([alone(label, side) for label in range(3) for side in (40, 60)]), [0, 0, 1, 1, 2, 2])


def test_things_are_found_in_their_boxes_and_not_in_others(gallery) -> None:
    first, layout = picture([(0, 4, 4, 36), (1, 52, 8, 40)])
    second, other = picture([(2, 30, 40, 50)])
    both = torch.stack([first, second])
    found = found_in_boxes(both, [layout, other], NAMES, gallery, rng(), num_resamples=20)
    assert found.hits.tolist() == [True, True, True]
    assert (found.share.value, found.share.low, found.chance) == (1, 1, pytest.approx(1 / 3))
    swapped = tuple(Box(1 - box.label, box.left, box.top, box.width, box.height) for box in layout)
    found = found_in_boxes(both, [swapped, other], NAMES, gallery, rng(), num_resamples=20)
    assert found.hits.tolist() == [False, False, True]
    assert found.share.value == pytest.approx(1 / 3)
    assert found.by_class == {"disc": 0, "stripes": 0, "cross": 1}


def test_things_in_the_boxes_of_true_pictures_make_a_gallery() -> None:
    pages, layouts = zip(picture([(0, 4, 4, 40), (2, 50, 50, 40)]), picture([(1, 30, 20, 50)]), strict=True)
    found = gallery_of_boxes(torch.stack(pages), layouts)
    assert found.labels.tolist() == [0, 2, 1]
    made, asked = picture([(2, 8, 10, 44), (1, 54, 54, 40)])
    assert found_in_boxes(made[None], [asked], NAMES, found, rng(), num_resamples=5).hits.tolist() == [True, True]


def test_counts_must_agree(gallery) -> None:
    made, layout = picture([(0, 4, 4, 36)])
    with pytest.raises(ValueError, match="one each"):
        found_in_boxes(made[None], [layout, layout], NAMES, gallery, rng())
    with pytest.raises(ValueError, match="of 0 boxes"):
        found_in_boxes(made[None], [()], NAMES, gallery, rng())
    with pytest.raises(ValueError, match="one each"):
        make_gallery(made[None], [0, 1])


def test_the_box_of_a_gallery_picture_is_where_it_differs_from_its_corner() -> None:
    found = content_box(alone(1, 40))
    assert (found.top * SIDE, found.height * SIDE) == (pytest.approx(10), pytest.approx(40))
    assert content_box(torch.zeros(3, 8, 8, dtype=torch.uint8)) == Box(0, 0.0, 0.0, 1.0, 1.0)
    clear = torch.full((4, 20, 20), 255, dtype=torch.uint8)
    clear[3] = 0
    clear[3, 5:10, 2:12] = 255  # white on white, told by alpha alone
    found = content_box(clear)
    assert (found.left, found.top, found.width, found.height) == (0.1, 0.25, 0.5, 0.25)


def test_crops_are_squares_within_the_picture() -> None:
    canvas = torch.zeros(3, 40, 60, dtype=torch.uint8)
    canvas[:, 2:12, 40:60] = 255  # 20 x 10: the square of 20 around it would reach 3 rows beyond the upper side
    found = crop(canvas, Box(0, 40 / 60, 2 / 40, 20 / 60, 10 / 40), 20)
    assert found.shape == (1, 3, 20, 20)
    assert torch.equal(found[0], canvas[:, 0:20, 40:60])
    whole = crop(canvas, Box(0, 0.0, 0.0, 1.0, 1.0), 40)
    assert torch.equal(whole[0], canvas[:, :, 10:50])


def filled(left: int, top: int, width: int, height: int, number: int = 1) -> Tensor:
    map = torch.zeros(1, 40, 60, dtype=torch.long)
    map[0, top : top + height, left : left + width] = number
    return map


def share(left: int, top: int, width: int, height: int, label: int = 0) -> Box:
    return Box(label, left / 60, top / 40, width / 60, height / 40)


@pytest.mark.parametrize(
    ("there", "asked", "expected"),
    [
        ((10, 10, 20, 10), (10, 10, 20, 10), 1.0),
        ((10, 10, 10, 10), (10, 10, 20, 10), 0.5),  # half of it filled
        ((20, 10, 20, 10), (10, 10, 20, 10), 1 / 3),  # half a box aside: 10 of 30 columns
        ((10, 10, 20, 20), (10, 15, 20, 10), 0.5),  # twice as high
        ((0, 30, 4, 4), (40, 5, 10, 10), 0.0),  # elsewhere, beyond the window
    ],
)
def test_overlap_by_hand(there, asked, expected) -> None:
    found = box_overlap(filled(*there), [[share(*asked)]], rng(), num_resamples=5)
    assert found.iou.value == pytest.approx(expected, abs=1e-6)


def test_overlap_looks_at_the_class_asked_for_and_past_a_few_wrong_pixels() -> None:
    map = filled(10, 10, 20, 20, number=3)
    map[0, 5, 38] = 3  # within the window, one of 401
    boxes = [share(10, 10, 20, 20, label=2), share(10, 10, 20, 20, label=1)]
    found = box_overlap(map, [boxes], rng(), num_resamples=5)
    assert found.values.tolist() == [pytest.approx(1.0), 0.0]
    assert box_overlap(map, [boxes[:1]], rng(), first=0, num_resamples=5).iou.value == 0


def test_overlap_of_any_thing_leaves_out_what_stands_in_the_other_boxes() -> None:
    """The right box is half filled; what fills its window from the left box is not its own."""
    map = filled(10, 10, 10, 10)
    map[0, 10:20, 30:40] = 7  # in the left half of the second box, touching nothing
    boxes = [share(10, 10, 10, 10), share(30, 10, 20, 10)]
    found = thing_overlap(map > 0, [boxes], rng(), num_resamples=5)
    assert found.values.tolist() == [pytest.approx(1.0, abs=1e-6), pytest.approx(0.5, abs=1e-6)]
    alone = thing_overlap(map > 0, [boxes[:1]], rng(), num_resamples=5)
    assert alone.values.item() == pytest.approx(1.0, abs=1e-6)  # beyond the window
