"""Points of the plane as SVG, with a ring of 3 sigma around each mode; colours are classes, which a page or a file sets."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.modes import REACH

SIDE = 200
MARGIN = 1.4  # half the side of what is shown, in radii of the circle
STYLE = (
    "svg{background:#fff;color:#222}.ring{fill:none;stroke:#bbb;stroke-width:.6}"
    ".dots{fill:none;stroke:#1f5fa8;stroke-width:1.4;stroke-linecap:round;stroke-opacity:.55}"
    "text{font:11px sans-serif;fill:#222}"
)


def scatter(points: Sequence[Sequence[float]], mixture: Mixture, label: str) -> str:
    """An `<svg>` element for a page; points outside of what it shows are left out. `label` is for those who cannot see it."""
    reach = MARGIN * mixture.radius

    def place(value: float) -> float:
        return round(SIDE / 2 * (1 + value / reach), 1)

    radius = round(SIDE / 2 * REACH * mixture.sigma / reach, 1)
    rings = "".join(
        f'<circle class="ring" cx="{place(x)}" cy="{place(-y)}" r="{radius}"/>' for x, y in mixture.centres().tolist()
    )
    inside = [(x, y) for x, y in points if abs(x) < reach and abs(y) < reach]
    dots = "".join(f"M{place(x):g} {place(-y):g}h0" for x, y in inside)
    head = f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{escape(label, quote=True)}">'
    return f'{head}{rings}<path class="dots" d="{dots}"/></svg>'


def standalone(svg: str) -> str:
    """The element as a file of its own."""
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>{rest}\n'
