"""Two emoji in one picture: what prompts such as "a cat with a crown" ask for and no emoji set draws.

    headwear   X with a crown: the hat on the head of a face        eyewear   X with sunglasses: the glasses over its eyes
    with       X with a Y: the thing small, at the lower right      and       an X and a Y: side by side

Which pairs are made is a function of their names and the style alone. Both parts are training pictures of that style, and the
combinations of `KEPT_OUT` are never made in any (though their cousins are: a grinning cat with a crown).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from PIL import Image

from sfumato.data.emoji_sources import Emoji
from sfumato.data.emoji_text import PHRASES, subject, with_article

KINDS = ("headwear", "eyewear", "with", "and")
KEPT_OUT = frozenset({("cat face", "crown"), ("dog face", "sunglasses"), ("dog face", "crown"), ("cat face", "sunglasses")})
SHARES = {"headwear": 0.25, "eyewear": 0.15, "with": 0.3, "and": 0.3}
# Names of faces as people type them, and how far down the head their eyes are.
_FACES = {
    "dog face": ("dog", 0.42), "wolf": ("wolf", 0.46), "fox": ("fox", 0.50), "raccoon": ("raccoon", 0.50),
    "cat face": ("cat", 0.50), "lion": ("lion", 0.44), "tiger face": ("tiger", 0.44), "cow face": ("cow", 0.42),
    "pig face": ("pig", 0.45), "mouse face": ("mouse", 0.56), "hamster": ("hamster", 0.44), "rabbit face": ("rabbit", 0.64),
    "bear": ("bear", 0.44), "polar bear": ("polar bear", 0.44), "koala": ("koala", 0.46), "panda": ("panda", 0.46),
    "monkey face": ("monkey", 0.40), "frog": ("frog", 0.26), "robot": ("robot", 0.45), "alien": ("alien", 0.50),
    "skull": ("skull", 0.46), "ghost": ("ghost", 0.36), "grinning face": ("smiley", 0.38),
    "slightly smiling face": ("smiling face", 0.38), "neutral face": ("neutral face", 0.40),
    "crying face": ("crying face", 0.42), "angry face": ("angry face", 0.44), "sleeping face": ("sleeping face", 0.40),
    "smiling face with hearts": ("face in love", 0.44), "winking face": ("winking face", 0.38),
    "pile of poo": ("pile of poo", 0.55), "sun with face": ("sun with a face", 0.45), "grinning cat": ("grinning cat", 0.50),
}  # fmt: skip
_HATS = {
    "crown": ("crown", 0.58), "top hat": ("top hat", 0.70), "graduation cap": ("graduation cap", 0.85),
    "woman’s hat": ("sun hat", 0.90), "billed cap": ("cap", 0.75), "rescue worker’s helmet": ("helmet", 0.80),
    "ribbon": ("ribbon", 0.50),
}  # fmt: skip
_GLASSES = {"sunglasses": "sunglasses", "glasses": "glasses", "goggles": "goggles"}
_THINGS = {
    "animals-nature": (), "food-drink": (), "activities": ("event", "award-medal", "sport", "game"),
    "objects": ("clothing", "musical-instrument", "tool", "household", "light-video", "book-paper"),
    "travel-places": ("transport-ground", "transport-air"),
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Two emoji of one style. `names`: of the two, as captions say them."""

    kind: str
    first: Emoji
    second: Emoji
    style: str
    names: tuple[str, str]

    @property
    def code(self) -> str:
        """A name for files: both hexcodes and the kind."""
        return f"{self.kind}-{self.first.hexcode}-{self.second.hexcode}"


def pairs(emojis: Iterable[Emoji], style: str, trained: frozenset[str], count: int) -> Iterator[Pair]:
    """About `count` pairs of the emoji of `style` whose hexcodes are in `trained`, fewer where there are fewer."""
    plain = [e for e in emojis if e.hexcode in trained and not e.tone]
    named = {e.label: e for e in plain}
    faces = [named[label] for label in _FACES if label in named]
    things = [e for e in plain if e.group in _THINGS and (not _THINGS[e.group] or e.subgroup in _THINGS[e.group])]
    seconds = {
        "headwear": [named[label] for label in _HATS if label in named],
        "eyewear": [named[label] for label in _GLASSES if label in named],
        "with": things,
        "and": things,
    }
    for kind, share in SHARES.items():
        firsts = faces if kind in ("headwear", "eyewear") else things
        yield from _chosen(kind, firsts, seconds[kind], style, round(share * count))


def _chosen(kind: str, firsts: list[Emoji], seconds: list[Emoji], style: str, count: int) -> list[Pair]:
    """`count` pairs in the order of their hashes, every first one as often as the others."""
    found: list[tuple[int, int, Pair]] = []
    for first in firsts:
        allowed = [s for s in seconds if s is not first and (first.label, s.label) not in KEPT_OUT]
        order = sorted((_hash(kind, first, second, style), second) for second in allowed)
        for rank, (place, second) in enumerate(order[:count]):
            found.append((rank, place, Pair(kind, first, second, style, _names(kind, first, second))))
    return [pair for _, _, pair in sorted(found, key=lambda entry: entry[:2])[:count]]


def _hash(kind: str, first: Emoji, second: Emoji, style: str) -> int:
    text = f"{kind}/{first.hexcode}/{second.hexcode}/{style}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)


def _names(kind: str, first: Emoji, second: Emoji) -> tuple[str, str]:
    known = _FACES.get(first.label)
    name = known[0] if known is not None and kind in ("headwear", "eyewear") else subject(first)
    if kind == "headwear":
        return name, _HATS[second.label][0]
    return name, _GLASSES[second.label] if kind == "eyewear" else subject(second)


def texts(pair: Pair) -> list[str]:
    """Captions of one meaning; the first is the plainest."""
    first, second = (with_article(name) for name in pair.names)
    phrase = PHRASES[pair.style]
    if pair.kind == "and":
        both = [f"{first} and {second}", f"{pair.names[0]} and {pair.names[1]}", f"{first} beside {second}"]
    else:
        both = [f"{first} with {second}", f"{pair.names[0]} with {second}"]
        both += [f"{first} wearing {second}"] if pair.kind in ("headwear", "eyewear") else []
    return [*(f"{text}, {phrase}" for text in both), both[0]]


def draw(pair: Pair, first: Image.Image, second: Image.Image) -> Image.Image:
    """Both pictures (RGBA, one size, square) as one of that size."""
    size = first.width
    match pair.kind:
        case "headwear":
            below = _placed(first, size, 0.80, (0.5, 1.0))
            left, top, right, bottom = _box(below)
            width = _HATS[pair.second.label][1] * (right - left)
            return _over(below, _cut(second, width), ((left + right) / 2, top + 0.14 * (bottom - top)), (0.5, 1.0))
        case "eyewear":
            left, top, right, bottom = _box(first)
            place = ((left + right) / 2, top + _FACES[pair.first.label][1] * (bottom - top))
            return _over(first, _cut(second, 0.82 * (right - left)), place, (0.5, 0.5))
        case "with":
            return _over(_placed(first, size, 0.84, (0.0, 0.0)), _resized(second, 0.5), (size, size), (1, 1))
        case _:
            half = _placed(first, size, 0.56, (0.0, 0.5))
            return _over(half, _resized(second, 0.56), (size, size / 2), (1.0, 0.5))


_BEST = Image.Resampling.LANCZOS


def _box(image: Image.Image) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what is seen; the whole picture where nothing is."""
    return image.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox() or (0, 0, *image.size)


def _cut(image: Image.Image, width: float) -> Image.Image:
    """What is seen of a picture, `width` pixels wide."""
    seen = image.crop(_box(image))
    return _resized(seen, width / seen.width)


def _resized(image: Image.Image, factor: float) -> Image.Image:
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.convert("RGBa").resize(size, _BEST).convert("RGBA")  # premultiplied: colours of clear pixels stay out


def _placed(image: Image.Image, size: int, factor: float, anchor: tuple[float, float]) -> Image.Image:
    """The picture smaller, on a clear one of `size`; anchor (0, 0) is the upper left, (1, 1) the lower right."""
    clear = Image.new("RGBA", (size, size))
    return _over(clear, _resized(image, factor), (anchor[0] * size, anchor[1] * size), anchor)


def _over(below: Image.Image, above: Image.Image, place: tuple[float, float], anchor: tuple[float, float]) -> Image.Image:
    """`above` over `below`, the point `anchor` of it at `place`, moved as little as keeps it inside."""
    corner = [round(min(max(place[i] - anchor[i] * above.size[i], 0), max(0, below.size[i] - above.size[i]))) for i in (0, 1)]
    layer = Image.new("RGBA", below.size)
    layer.paste(above, (corner[0], corner[1]))
    return Image.alpha_composite(below, layer)
