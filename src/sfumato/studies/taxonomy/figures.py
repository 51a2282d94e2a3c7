"""The page's drawings: the tree, bars of nats, and the film of a GAN. Inline SVG whose colours are the page's classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

# (text, x, y, chapter or "") of each node, and which node hangs on which
NODES: tuple[tuple[str, int, int, str], ...] = (
    ("what is p(x)?", 310, 26, ""),
    ("explicit", 225, 92, ""),
    ("implicit", 560, 92, ""),
    ("exact", 160, 158, ""),
    ("bounded", 430, 158, ""),
    ("Autoregressive", 70, 224, "autoregressive"),
    ("Flow", 70, 262, "flow"),
    ("VQ-VAE, by counting", 250, 224, "vqvae"),
    ("Rectified, by integration", 250, 262, "rectified"),
    ("VAE", 430, 224, "vae"),
    ("DDPM", 430, 262, "ddpm"),
    ("LDM", 430, 300, "ldm"),
    ("GAN", 560, 158, "gan"),
)
EDGES: tuple[tuple[int, int], ...] = ((0, 1), (0, 2), (1, 3), (1, 4), (3, 5), (3, 7), (4, 9), (2, 12))
HALF = 15  # half the height of a node


def tree(titles: Mapping[str, str]) -> str:
    """Explicit and implicit density; the nodes of `titles` lead to their chapters."""
    parts = []
    for upper, lower in EDGES:
        (_, x, y, _), (_, u, v, _) = NODES[upper], NODES[lower]
        middle = (y + v) / 2
        parts.append(f'<path class="edge" d="M{x} {y + HALF}C{x} {middle} {u} {middle} {u} {v - HALF}"/>')
    for text, x, y, chapter in NODES:
        width = 7.1 * len(text) + 22
        box = f'<rect class="node" x="{x - width / 2:g}" y="{y - HALF}" width="{width:g}" height="{2 * HALF}" rx="7"/>'
        words = f'<text x="{x}" y="{y + 4.5}" text-anchor="middle">{escape(text)}</text>'
        inside = chapter in titles
        parts.append(f'<a class="leaf" href="#{chapter}">{box}{words}</a>' if inside else f"<g>{box}{words}</g>")
    label = "A tree: densities are explicit or implicit; explicit ones are exact or bounded"
    return f'<svg class="tree" viewBox="0 0 620 322" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def bars(rows: Sequence[tuple[str, float]], label: str, marked: Sequence[str] = ()) -> str:
    """Horizontal bars from 0, to the left where negative, with their numbers; those of `marked` stand out."""
    low, high = min(0.0, *(v for _, v in rows)), max(0.0, *(v for _, v in rows))
    left, right, step = 128, 390, 26
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(left + (right - left) * (value - low) / span, 1)

    zero, parts = place(0.0), []
    for index, (name, value) in enumerate(rows):
        y, end = 6 + step * index, place(value)
        kind = "bar marked" if name in marked else "bar"
        parts.append(f'<text x="{left - 10}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        width = max(abs(end - zero), 0.8)
        parts.append(f'<rect class="{kind}" x="{min(zero, end)}" y="{y + 2}" width="{width:g}" height="16"/>')
        parts.append(f'<text class="figure" x="{max(zero, end) + 6}" y="{y + 14}">{_minus(value)}</text>')
    height = 10 + step * len(rows)
    axis = f'<path class="edge" d="M{zero} 2V{height - 4}"/>'
    head = f'<svg class="bars" viewBox="0 0 460 {height}" role="img" aria-label="{escape(label, quote=True)}">'
    return f"{head}{''.join(parts)}{axis}</svg>"


def _minus(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")
