"""The seam at a mask's edge: the membrane against its equation, and what must never change."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sfumato.generation.membrane import DOUBT, close_seam, membrane


def solved(rim: Tensor, inside: Tensor, length: float) -> Tensor:
    """(H, W): the same equation as a dense linear system, pixel by pixel; neighbours beyond the edge repeat the pixel."""
    height, width = rim.shape
    system, right = torch.eye(height * width, dtype=torch.float64), rim.double().flatten()
    for y in range(height):
        for x in range(width):
            if not inside[y, x]:
                continue
            row = y * width + x
            right[row], system[row, row] = 0, 4 + 1 / length**2
            for up, left in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                system[row, min(max(up, 0), height - 1) * width + min(max(left, 0), width - 1)] -= 1
    return torch.linalg.solve(system, right).view(height, width)


@pytest.mark.parametrize("length", [1.0, 4.0, 8.0])
def test_solves_its_equation(length):
    """Within 2 % of the rim's largest value: the iteration stops early, and 2 % of a difference of tones is not seen."""
    rng = torch.Generator().manual_seed(0)
    rim = torch.randn(1, 2, 20, 24, generator=rng)
    inside = torch.zeros(1, 1, 20, 24, dtype=torch.bool)
    inside[..., 4:15, 6:24] = True  # to the picture's edge
    inside[..., 8:10, 10:13] = False
    found = membrane(rim, inside, length)
    assert torch.equal(found[(~inside).expand_as(found)], rim[(~inside).expand_as(rim)])
    for channel in range(2):
        expected = solved(rim[0, channel] * ~inside[0, 0], inside[0, 0], length)
        assert float((found[0, channel] - expected).abs().max()) < 0.02 * float(rim.abs().max())


def test_falls_as_its_length_says():
    """In one dimension f(x) = r^x with r + 1 / r = 2 + 1 / length^2, which tends to exp(-x / length)."""
    length = 8.0
    rim = torch.zeros(1, 1, 3, 100)
    rim[..., 0] = 1
    inside = torch.ones(1, 1, 3, 100, dtype=torch.bool)
    inside[..., 0] = False
    middle = 1 + 0.5 / length**2
    ratio = middle - math.sqrt(middle**2 - 1)
    expected = ratio ** torch.arange(100.0)
    assert float((membrane(rim, inside, length)[0, 0, 1] - expected).abs().max()) < 0.02
    assert math.log(1 / ratio) == pytest.approx(1 / length, rel=0.01)


def test_a_difference_of_tones_leaves_no_step():
    """Flat colours that differ by 6 levels: no step of more than one level is left, and the depth stays as it was drawn."""
    picture, drawn = torch.full((1, 4, 96, 96), 120, dtype=torch.uint8), torch.full((1, 4, 96, 96), 114, dtype=torch.uint8)
    mask = torch.zeros(1, 1, 96, 96)
    mask[..., 1:] = 1
    pasted = torch.where(mask > 0.5, close_seam(drawn, picture, mask, 8), picture).int()
    assert int(pasted.diff(dim=3).abs().max()) == 1
    assert bool((pasted[..., 60:] == 114).all())


def test_nothing_outside_of_the_mask_and_little_of_another_content():
    """Of a difference d, d / (1 + (d / DOUBT)^2) is spread: never more than DOUBT / 2 levels, whatever the two show."""
    rng = torch.Generator().manual_seed(0)
    drawn, picture = (torch.randint(0, 256, (2, 3, 40, 30), generator=rng, dtype=torch.uint8) for _ in range(2))
    mask = torch.zeros(2, 1, 40, 30)
    mask[0, :, 5:20, 4:30] = 1
    mask[1, :, 30:, :7] = 1
    given = drawn.clone(), picture.clone()
    closed = close_seam(drawn, picture, mask, 8)
    assert torch.equal(drawn, given[0])
    assert torch.equal(picture, given[1])
    kept = (mask < 0.5).expand_as(drawn)
    assert torch.equal(closed[kept], drawn[kept])
    assert 0 < int((closed.int() - drawn.int()).abs().max()) <= DOUBT / 2 + 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_without_an_edge_nothing_changes(value):
    drawn, picture = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.full((1, 3, 8, 8), 9, dtype=torch.uint8)
    assert torch.equal(close_seam(drawn, picture, torch.full((1, 1, 8, 8), value), 4), drawn)


def test_of_another_content_little_is_spread():
    """A picture of 0 beside a drawing of 255: k = 1 / (1 + (255 / 96)^2) leaves 31.7 of 255 levels on the rim."""
    drawn, picture = torch.full((1, 1, 16, 16), 255, dtype=torch.uint8), torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    closed = close_seam(drawn, picture, mask, 8)
    assert 255 - 31.7 <= float(closed[..., 8].min()) < 255
