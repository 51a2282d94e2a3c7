"""Close the seam between a picture and what was drawn into it, by a membrane stretched over the mask.

    f - length^2 laplace f = 0 inside of the mask,   f = k (picture - drawn) on the pixels kept beside it,   out = drawn + f

A decoder gives what is kept and what is drawn slightly different tones. Their difference on the mask's rim is spread inside
(Perez, Gangnet & Blake 2003, "Poisson Image Editing", eq. 7), here screened, so that it fades as exp(-distance / length) and
what lies deep in the mask is left as it was drawn. k = 1 / (1 + (d / DOUBT)^2) for a largest difference d of a channel: where
the two disagree in what they show, and not in its tone, nothing is spread.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

DOUBT = 96.0
"""8-bit levels of difference at which half of it is taken for another content."""


def close_seam(drawn: Tensor, picture: Tensor, mask: Tensor, length: float) -> Tensor:
    """`drawn` with its tones led over into those of `picture` at the mask's edge, unchanged where the mask is 0.

    drawn, picture: (B, C, H, W) uint8, alpha as a channel like others; mask: (B, 1, H, W) of 0 and 1, 1 = drawn; length:
    pixels over which the correction falls to 1/e, the side of a latent's cell. Returns uint8 on the device of `drawn`.
    """
    assert drawn.shape == picture.shape, "one shape"
    assert mask.shape == (len(drawn), 1, *drawn.shape[2:]), "a mask for each"
    inside = mask.to(drawn.device) > 0.5
    if bool(inside.all()):
        return drawn  # there is no seam
    rows, columns = (_span(inside.any(3).any(0)[0]), _span(inside.any(2).any(0)[0]))
    box = (..., rows, columns)
    difference = picture.to(drawn.device)[box].float() - drawn[box].float()
    kept = difference / (1 + (difference.abs().amax(1, keepdim=True) / DOUBT) ** 2)
    f = membrane(kept, inside[box], length)
    closed = drawn.clone()
    moved = (drawn[box].float() + f).round().clamp(0, 255).to(torch.uint8)
    closed[box] = torch.where(inside[box], moved, drawn[box])
    return closed


def membrane(rim: Tensor, inside: Tensor, length: float) -> Tensor:
    """(B, C, H, W), of it the values outside of the mask; (B, 1, H, W) bool -> f: `rim` outside, the membrane inside.

    Five-point Laplacian, free at the picture's edge (no flow across it). By Chebyshev's semi-iteration (Golub & Varga 1961),
    to a few percent of the rim's size.
    """
    weight = 4 + 1 / length**2
    radius = 4 / weight  # of Jacobi's iteration, at most
    f = torch.where(inside, 0.0, rim)
    before, omega = f, 1.0
    for step in range(math.ceil(5 * math.sqrt(2) * max(length, 1.0))):  # an error falls by e in sqrt(2) length steps
        wide = F.pad(f, (1, 1, 1, 1), mode="replicate")
        around = (wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:]).add_(wide[..., :-2, 1:-1]).add_(wide[..., 2:, 1:-1])
        omega = 1.0 if step == 0 else 1 / (1 - radius**2 * omega / (2 if step == 1 else 4))
        f, before = torch.where(inside, around.mul_(omega / weight).add_(before, alpha=1 - omega), rim), f
    return f


def _span(marked: Tensor) -> slice:
    """From the first to the last of what (N,) bool marks, and one on each side; all where it marks nothing."""
    found = marked.nonzero().flatten().tolist()
    return slice(max(found[0] - 1, 0), found[-1] + 2) if found else slice(None)
