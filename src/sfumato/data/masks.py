"""Masks drawn at random for training and measuring inpainting: 1 where the picture is made anew, 0 where it stays.

    thin, medium, thick   polylines with round ends, in the manner of Suvorov et al. 2021 (arXiv 2109.07161, Sec. 2.3): widths
                          up to 4, 20 and 39 % of the shorter side, steps up to 25, 39 and 78 % of it
    box                   one to three rectangles
    outpaint              everything outside of a rectangle, or beyond one side
    half                  the left, right, upper or lower half

Each mask is {p : f(p) <= tau} of a field f in pixels that grows away from the drawn shape: for a polyline the distance to
its segments less half its width, for a box max(|x - x_c| - w/2, |y - y_c| - h/2), for what lies outside its negative. As
drawn, tau = 0; for a fixed share of the picture tau is that quantile of f, so that shapes grow or shrink to reach it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import InputError, unknown

MASK_KINDS = ("thin", "medium", "thick", "box", "outpaint", "half")
SEGMENTS = 4  # of one polyline
MAX_STROKES = 6
MAX_BOXES = 3
LEAST_RADIUS = 0.75  # pixels: no point of a stroke is farther than 0.71 from the centre of a pixel, so none is lost
TURN = 2.0  # radians either way, at most, from one segment to the next


@dataclass(frozen=True)
class _Pen:
    """Ranges that are drawn from evenly: number of polylines; width and length of a segment as shares of the shorter side."""

    strokes: tuple[int, int]
    width: tuple[float, float]
    length: tuple[float, float]


_NONE = _Pen((0, 0), (0.0, 0.0), (0.0, 0.0))
_PENS = {
    "thin": _Pen((3, MAX_STROKES), (0.01, 0.04), (0.08, 0.25)),
    "medium": _Pen((1, 4), (0.04, 0.20), (0.08, 0.39)),
    "thick": _Pen((1, 2), (0.12, 0.39), (0.10, 0.78)),
}


def draw_masks(
    count: int,
    height: int,
    width: int,
    rng: torch.Generator,
    device: torch.device | str = "cpu",
    kinds: Sequence[str] = MASK_KINDS,
    share: float | None = None,
) -> Tensor:
    """(count, 1, height, width) fp32 of 0 and 1 on `device`, none of them empty; each of a kind that is drawn from `kinds`.

    rng: a generator on `device`, or on the CPU: then every device gets the same masks, up to rounding at their rims.
    share: of the pixels that every mask covers, in (0, 1), exact to the larger of 1 / height and 1 / width; strokes are
    then widened or narrowed from the full number of their kind. None: as drawn. Nothing waits for the device.
    Raises `InputError` for unknown kinds, sides under 4 and shares out of range.
    """
    _check(count, height, width, kinds, share)
    draws = _Draws(count, rng, torch.device(device))
    names = tuple(dict.fromkeys(kinds))
    kind = draws.integer(0, len(names) - 1)[:, 0]  # (B,)
    field = torch.full((count, height, width), torch.inf, device=device)
    if any(name in _PENS for name in names):
        field = _stroke_field(draws, kind, [_PENS.get(name, _NONE) for name in names], field, most=share is not None)
    for index, name in enumerate(names):
        if name not in _PENS:
            field = torch.where((kind == index)[:, None, None], _BOXES[name](draws, height, width), field)
    level = field.new_zeros(count) if share is None else field.flatten(1).kthvalue(max(1, round(share * height * width))).values
    return (field <= level[:, None, None]).float()[:, None]  # (B, 1, H, W)


def _check(count: int, height: int, width: int, kinds: Sequence[str], share: float | None) -> None:
    for name in kinds:
        if name not in MASK_KINDS:
            raise unknown("kind of mask", name, MASK_KINDS)
    if not kinds or count < 1 or min(height, width) < 4:
        raise InputError(f"{count} masks of {height}x{width}, kinds {tuple(kinds)}; expected 1 or more of each, sides of 4.")
    if share is not None and not 0 < share < 1:
        raise InputError(f"masked share {share}; expected above 0 and below 1, like 0.25.")


class _Draws:
    """Even random numbers, one row a mask, on the device of the masks."""

    def __init__(self, count: int, rng: torch.Generator, device: torch.device):
        self.count, self.rng, self.device = count, rng, device

    def unit(self, num: int = 1) -> Tensor:
        """(B, num) in [0, 1)."""
        return torch.rand(self.count, num, generator=self.rng, device=self.rng.device).to(self.device)

    def between(self, low: float, high: float, num: int = 1) -> Tensor:
        return low + (high - low) * self.unit(num)

    def integer(self, low: int, high: int, num: int = 1) -> Tensor:
        """(B, num) whole numbers from low to high, both possible; int64."""
        return (low + (high - low + 1) * self.unit(num)).long().clamp(max=high)


def _places(size: int, device: torch.device) -> Tensor:
    """Centres of the pixels."""
    return torch.arange(size, device=device) + 0.5


def _stroke_field(draws: _Draws, kind: Tensor, pens: Sequence[_Pen], field: Tensor, most: bool) -> Tensor:
    """(B, H, W): distance to the strokes less half their width; infinite where the kind has none."""
    height, width = field.shape[1:]
    side = min(height, width)
    ranges = torch.tensor([(*pen.strokes, *pen.width, *pen.length) for pen in pens], device=draws.device)[kind]  # (B, 6)
    fewest, largest, *limits = (column[:, None] for column in ranges.unbind(1))
    number = largest if most else (fewest + (largest - fewest + 1) * draws.unit()).floor()
    radius = (side / 2 * (limits[0] + (limits[1] - limits[0]) * draws.unit(MAX_STROKES))).clamp(min=LEAST_RADIUS)
    radius = torch.where(torch.arange(MAX_STROKES, device=draws.device) < number, radius, -torch.inf)  # (B, N)
    length = side * (limits[2] + (limits[3] - limits[2]) * draws.unit(MAX_STROKES * SEGMENTS))
    points = _polylines(draws, length.unflatten(1, (MAX_STROKES, SEGMENTS)), height, width)  # (B, N, SEGMENTS + 1, 2)
    for stroke in range(MAX_STROKES):
        square = torch.full_like(field, torch.inf)
        for start, end in _pairs(points[:, stroke]):
            square = torch.minimum(square, _squared_distance(start, end, height, width))
        field = torch.minimum(field, square.sqrt_() - radius[:, stroke, None, None])
    return field


def _polylines(draws: _Draws, length: Tensor, height: int, width: int) -> Tensor:
    """(B, N, K) lengths -> (B, N, K + 1, 2) corners (x, y) in pixels; at the rim of the picture a line turns back."""
    num = length.shape[1]
    start = draws.unit(2 * num).unflatten(1, (num, 1, 2)) * length.new_tensor([width, height])
    turns = draws.between(-TURN, TURN, length[0].numel()).unflatten(1, length.shape[1:])
    heading = (torch.cat([draws.between(0, 2 * torch.pi, num)[..., None], turns[..., 1:]], 2)).cumsum(2)
    steps = length[..., None] * torch.stack([heading.cos(), heading.sin()], -1)  # (B, N, K, 2)
    points = torch.cat([start, start + steps.cumsum(2)], 2)
    sides = points.new_tensor([width, height])
    return sides - (sides - points.remainder(2 * sides)).abs()  # a triangle wave: reflected at 0 and at the side


def _pairs(points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(B, K + 1, 2) corners -> the K segments' ends (B, 2)."""
    for index in range(points.shape[1] - 1):
        yield points[:, index], points[:, index + 1]


def _squared_distance(start: Tensor, end: Tensor, height: int, width: int) -> Tensor:
    """|p - a - h d|^2 with d = b - a and h = clamp((p - a).d / |d|^2, 0, 1): (B, 2), (B, 2) -> (B, H, W)."""
    x = _places(width, start.device) - start[:, :1]  # (B, W)
    y = _places(height, start.device) - start[:, 1:]  # (B, H)
    step = end - start
    scaled = step / step.square().sum(1, keepdim=True).clamp(min=1e-12)
    along = ((y * scaled[:, 1:])[:, :, None] + (x * scaled[:, :1])[:, None, :]).clamp_(0, 1)  # (B, H, W)
    dx = torch.addcmul(x[:, None, :], along, step[:, :1, None], value=-1)
    dy = torch.addcmul(y[:, :, None], along, step[:, 1:, None], value=-1)
    return dx.square_().addcmul_(dy, dy)


def _box_distance(low: Tensor, high: Tensor, height: int, width: int) -> Tensor:
    """The field of boxes with corners (B, 2) = (x, y) in pixels -> (B, H, W), at most 0 inside."""
    x, y = _places(width, low.device), _places(height, low.device)
    over_x = torch.maximum(low[:, :1] - x, x - high[:, :1])  # (B, W)
    over_y = torch.maximum(low[:, 1:] - y, y - high[:, 1:])  # (B, H)
    return torch.maximum(over_x[:, None, :], over_y[:, :, None])


def _inside(draws: _Draws, shares: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Corners of boxes of (B, 2) shares of the sides, at least a pixel large, somewhere within the picture."""
    sides = shares.new_tensor([width, height])
    size = (shares * sides).clamp(min=1.0)
    low = draws.unit(2) * (sides - size)
    return low, low + size


def _box(draws: _Draws, height: int, width: int) -> Tensor:
    number, fields = draws.integer(1, MAX_BOXES), []
    for index in range(MAX_BOXES):
        low, high = _inside(draws, draws.between(0.12, 0.6, 2), height, width)
        fields.append(torch.where((index < number)[..., None], _box_distance(low, high, height, width), torch.inf))
    return torch.stack(fields).amin(0)


def _outpaint(draws: _Draws, height: int, width: int) -> Tensor:
    low, high = _inside(draws, draws.between(0.4, 0.85, 2), height, width)
    around = -_box_distance(low, high, height, width)
    beyond = _side(draws, draws.between(0.12, 0.6), height, width)
    return torch.where((draws.unit() < 0.5)[..., None], around, beyond)


def _half(draws: _Draws, height: int, width: int) -> Tensor:
    return _side(draws, torch.full((draws.count, 1), 0.5, device=draws.device), height, width)


def _side(draws: _Draws, depth: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W): distance to the strip along one of the four sides that is `depth` (B, 1) of the picture wide."""
    which = draws.integer(0, 3)  # (B, 1)
    x, y = _places(width, depth.device), _places(height, depth.device)
    across = torch.where(which == 0, x, width - x) - (depth * width).clamp(min=1.0)  # (B, W)
    down = torch.where(which == 2, y, height - y) - (depth * height).clamp(min=1.0)  # (B, H)
    return torch.where((which < 2)[..., None], across[:, None, :], down[:, :, None])


_BOXES = {"box": _box, "outpaint": _outpaint, "half": _half}
