"""Captions of the emoji data set: an emojibase label and tags in, what a person would type out.

`caption` is `"{label}, {style phrase}"`; `variants` are 6 to 14 sentences of the same meaning, the first of which
is the caption. Everything is a plain function of the emoji and the style: no randomness.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from sfumato.data.emoji_sources import TONES, Emoji

PHRASES = {
    "noto": "noto style",
    "twemoji": "twemoji style",
    "openmoji": "openmoji style",
    "fluent-3d": "3D style",
    "fluent-flat": "flat style",
}
FEW = 3  # a tag of more concepts than that ("pet", "food") says too little alone
_PLURAL = ("people", "men", "women", "hands", "clothes", "jeans", "shorts", "glasses", "goggles", "scissors", "trousers")
_NO_ARTICLE = re.compile(r"^(\d|flag of |the |keycap |regional |people |men |women |two )", re.IGNORECASE)
# Everyday words where the label is the formal one.
_SYNONYMS = {
    "dog face": "puppy", "cat face": "kitten", "rabbit face": "bunny", "mouse face": "mouse", "pig face": "pig",
    "cow face": "cow", "horse face": "horse", "monkey face": "monkey", "tiger face": "tiger", "dragon face": "dragon head",
    "lady beetle": "ladybug", "honeybee": "bee", "hatching chick": "chick in an egg", "T-Rex": "tyrannosaurus",
    "automobile": "car", "motorcycle": "motorbike", "airplane": "plane", "locomotive": "steam train", "bicycle": "bike",
    "delivery truck": "truck", "fire engine": "fire truck", "helicopter": "chopper", "racing car": "race car",
    "mobile phone": "smartphone", "laptop": "computer", "television": "tv", "video game": "game controller",
    "beer mug": "beer", "hot beverage": "cup of coffee", "shortcake": "piece of cake", "hamburger": "burger",
    "red apple": "apple", "tangerine": "orange", "soft ice cream": "ice cream cone", "deciduous tree": "tree",
    "evergreen tree": "fir tree", "pile of poo": "poop", "alien monster": "space invader", "gem stone": "diamond",
    "man in tuxedo": "groom", "woman with veil": "bride", "police officer": "cop", "health worker": "doctor",
    "jack-o-lantern": "halloween pumpkin", "Christmas tree": "xmas tree", "wrapped gift": "present",
    "eyeglasses": "spectacles", "running shoe": "sneaker", "musical keyboard": "piano", "couch and lamp": "sofa",
    "face with tears of joy": "laughing face", "red heart": "love heart", "soccer ball": "football",
}  # fmt: skip


def caption(emoji: Emoji, style: str) -> str:
    """`"dragon, 3D style"`."""
    return f"{_plain(emoji.label)}, {PHRASES[style]}"


def variants(emoji: Emoji, style: str, telling: Sequence[str] = ()) -> list[str]:
    """Captions of one meaning, without repeats; the first is `caption`.

    `telling`: those of the tags that say by themselves what it is, such as "kitty"; each makes a caption of its own.
    """
    phrase = PHRASES[style]
    word = phrase.removesuffix(" style")
    bare = subject(emoji)
    noun = with_article(bare)
    texts = [
        caption(emoji, style),
        f"{noun}, {phrase}",
        f"{bare}, {phrase}",
        f"{with_article(word)} emoji of {noun}",
        f"{bare} emoji, {phrase}",
        f"{word} {bare}",
        noun,
        bare,
    ]
    synonym = _SYNONYMS.get(emoji.base_label)
    if synonym is not None:
        texts.append(f"{with_article(synonym)}{_tone(emoji.tone)}, {phrase}")
    tags = _pick(emoji, style)
    if tags:
        texts.append(f"{_plain(emoji.label)}, {', '.join(tags)}, {phrase}")
    if len(tags) > 1:
        tone = [f"{TONES[t]} skin tone" for t in sorted(set(emoji.tone))]
        texts.append(f"{', '.join([*tags, *tone])}, {phrase}")
    texts += [f"{with_article(_plain(tag))}{_tone(emoji.tone, tag)}, {phrase}" for tag in telling]
    return list(dict.fromkeys(texts))


def telling_tags(emojis: Iterable[Emoji]) -> dict[str, list[str]]:
    """{base label: up to three tags that no more than `FEW` concepts share, the rarest first}.

    A word of any label or synonym is none: an astronaut's tag "rocket" means the rocket when it stands alone.
    """
    tags = {emoji.base_label: emoji.tags for emoji in emojis}
    shared = Counter(tag for own in tags.values() for tag in set(own))
    named = {word for text in (*tags, *_SYNONYMS.values()) for word in (text.lower(), *re.findall(r"\w+", text.lower()))}
    named |= {f"{word}s" for word in named} | {word.removesuffix("s") for word in named}
    found = {}
    for label, own in tags.items():
        rare = [tag for tag in own if shared[tag] <= FEW and tag.isascii() and tag.islower() and tag not in named]
        found[label] = sorted(rare, key=lambda tag: (shared[tag], tag))[:3]
    return found


def subject(emoji: Emoji) -> str:
    """The label as a phrase: `woman firefighter with medium skin tone`, `flag of Japan`, `man with curly hair`."""
    head, _, tail = _plain(emoji.base_label).partition(": ")
    if not tail:
        phrase = head
    elif head == "flag":
        phrase = f"flag of {tail}"
    elif head == "family":
        phrase = f"family of {_join([with_article(part) for part in tail.split(', ')])}"
    elif head in {"kiss", "couple with heart"}:
        phrase = f"{head} between {_join([with_article(part) for part in tail.split(', ')])}"
    elif tail.endswith("hair") or tail == "beard":
        phrase = f"{head} with {'a beard' if tail == 'beard' else tail}"
    elif tail == "bald":
        phrase = f"bald {head}"
    else:
        phrase = f"{head} {tail}"
    return phrase + _tone(emoji.tone, phrase)


def with_article(noun: str) -> str:
    """`a dragon`, `an owl`; plurals, counts and flags as they are (`the flag of Japan`)."""
    if noun.startswith("flag of "):
        return f"the {noun}"
    head = re.split(r" (?:with|of|in|on|and|at) ", noun)[0].split()[-1]
    plural = head in _PLURAL or (head.endswith("s") and not head.endswith(("ss", "us", "is", "'s")))
    if _NO_ARTICLE.match(noun) or plural:
        return noun if not noun.startswith("3D") else f"a {noun}"
    vowel = noun[0].lower() in "aeio" or (noun.startswith(("um", "un", "up")) and not noun.startswith("uni"))
    return f"{'an' if vowel else 'a'} {noun}"


def _tone(tone: tuple[int, ...], phrase: str = "") -> str:
    if not tone:
        return ""
    names = [f"{TONES[t]} skin tone" for t in dict.fromkeys(tone)]
    joint = " and " if " with " in phrase else " with "
    return joint + " and ".join(names)


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _pick(emoji: Emoji, style: str) -> list[str]:
    """Up to three tags that the label does not already say, another choice a style."""
    said = set(re.findall(r"\w+", emoji.label.lower()))
    new = [_plain(tag) for tag in emoji.tags if tag.lower() not in said]
    return sorted(new, key=lambda tag: hashlib.sha256(f"{emoji.base_label}/{style}/{tag}".encode()).hexdigest())[:3]


def _plain(text: str) -> str:
    """Apostrophes and quotation marks as people type them."""
    return text.translate({0x2019: "'", 0x2018: "'", 0x201C: '"', 0x201D: '"'})
