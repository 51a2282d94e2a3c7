"""Masks: their shapes against plain geometry, their shares, their determinism."""

import math
import time

import pytest
import torch

from sfumato.data import masks
from sfumato.data.masks import MASK_KINDS, draw_masks
from sfumato.errors import InputError


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (16, 40), (4, 4)])
def test_masks_of_every_kind_are_zeros_and_ones_and_never_empty(kind, height, width):
    drawn = draw_masks(64, height, width, rng(), kinds=[kind])
    assert drawn.shape == (64, 1, height, width)
    assert drawn.dtype == torch.float32
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    assert (drawn.flatten(1).sum(1) >= 1).all()


def test_no_mask_hides_the_whole_picture():
    for kind in MASK_KINDS:
        assert draw_masks(256, 64, 64, rng(), kinds=[kind]).flatten(1).mean(1).max() < 1


def test_the_same_generator_state_gives_the_same_masks_and_another_others():
    first, again, other = draw_masks(8, 32, 32, rng(3)), draw_masks(8, 32, 32, rng(3)), draw_masks(8, 32, 32, rng(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_generator_moves_on():
    source = rng()
    assert not torch.equal(draw_masks(8, 32, 32, source), draw_masks(8, 32, 32, source))


def test_strokes_grow_from_thin_to_thick():
    thin, medium, thick = (draw_masks(256, 64, 64, rng(), kinds=[kind]).mean() for kind in ("thin", "medium", "thick"))
    assert 0.02 < thin < medium < thick < 0.6


def test_half_masks_one_half_exactly_and_all_four_of_them():
    drawn = draw_masks(64, 16, 24, rng(), kinds=["half"])[:, 0]
    left = torch.zeros(16, 24)
    left[:, :12] = 1
    top = torch.zeros(16, 24)
    top[:8] = 1
    known = [left, 1 - left, top, 1 - top]
    found = [[torch.equal(mask, half) for half in known].index(True) for mask in drawn]
    assert set(found) == {0, 1, 2, 3}


def test_outpainting_keeps_one_rectangle():
    for mask in draw_masks(64, 40, 40, rng(), kinds=["outpaint"])[:, 0]:
        kept = mask == 0
        rows, columns = kept.any(1), kept.any(0)
        assert torch.equal(kept, rows[:, None] & columns[None])
        assert 0 < kept.sum() < kept.numel()


def test_a_box_mask_is_a_union_of_at_most_three_rectangles():
    for mask in draw_masks(64, 40, 40, rng(), kinds=["box"])[:, 0].bool():
        corners = torch.nn.functional.pad(mask[None, None].float(), (1, 1, 1, 1))[0, 0]
        turns = (corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]).abs().sum()
        assert 4 <= turns <= 24  # a rectangle has four corners; where two cross, two more appear on every crossing


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_fixed_share_is_met_to_a_row_of_pixels(kind, share):
    covered = draw_masks(64, 48, 64, rng(), kinds=[kind], share=share).flatten(1).mean(1)
    assert (covered - share).abs().max() <= 1 / 48 + 1e-6


def test_distance_to_a_segment_is_that_of_plain_geometry():
    start, end = torch.tensor([[3.0, 2.0]]), torch.tensor([[11.0, 6.0]])
    found = masks._squared_distance(start, end, 9, 14)[0].sqrt()

    def distance(x, y):  # by cases: before the start, beyond the end, beside
        ax, ay, bx, by = 3, 2, 11, 6
        dx, dy = bx - ax, by - ay
        along = (x - ax) * dx + (y - ay) * dy
        if along <= 0:
            return math.hypot(x - ax, y - ay)
        if along >= dx * dx + dy * dy:
            return math.hypot(x - bx, y - by)
        return abs((x - ax) * dy - (y - ay) * dx) / math.hypot(dx, dy)

    expected = torch.tensor([[distance(x + 0.5, y + 0.5) for x in range(14)] for y in range(9)])
    assert torch.allclose(found, expected, atol=1e-5)


def test_kinds_are_drawn_evenly():
    drawn = draw_masks(900, 16, 16, rng(), kinds=["half", "thin", "thick"])
    halves = sum((mask.mean() == 0.5 and mask.unique(dim=1).shape[1] <= 2) for mask in drawn)
    assert 250 < halves < 380  # 300 expected, standard deviation 14; a few strokes may cover half by chance


def test_many_masks_do_not_take_a_loop_over_them():
    draw_masks(4, 32, 32, rng())
    begin = time.perf_counter()
    draw_masks(512, 32, 32, rng())
    assert time.perf_counter() - begin < 2  # about 0.1 s on one core


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kinds": ["thinn"]}, "did you mean 'thin'"),
        ({"kinds": []}, "kinds"),
        ({"share": 1.5}, "masked share 1.5"),
        ({"share": 0.0}, "masked share 0.0"),
    ],
)
def test_wrong_arguments_get_one_line(wrong, said):
    with pytest.raises(InputError, match=said):
        draw_masks(2, 16, 16, rng(), **wrong)
    with pytest.raises(InputError, match="sides of 4"):
        draw_masks(2, 16, 3, rng())
