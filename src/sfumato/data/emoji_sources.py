"""The drawings of the emoji data set: npm packages in, one SVG text a (style, emoji) out.

Every package is pinned to a version and to the SHA-256 of its tarball, fetched by `npm pack` (which runs no
install script) and read as a stream: nothing is unpacked to disk. Names are matched to emojibase's hexcodes:
by code points (twemoji, openmoji, svgmoji), by the package's own table (iconify) or by the slug of the label
(fluent). Variation selector 16 is ignored in matching, as the packages do not agree on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.errors import InputError, MachineError, unknown

STYLES = ("noto", "twemoji", "openmoji", "fluent-3d", "fluent-flat")
TONES = {1: "light", 2: "medium-light", 3: "medium", 4: "medium-dark", 5: "dark"}


@dataclass(frozen=True)
class Package:
    """An npm package at one version, known by the SHA-256 of its tarball."""

    name: str
    version: str
    sha256: str

    @property
    def tarball(self) -> str:
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


EMOJIBASE = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
TWEMOJI = Package("@twemoji/svg", "15.0.0", "1d2907557a422c7c4e3feca50ef915c39da1db3d76b4a4d7e73fb59bce4403c3")
OPENMOJI = Package("openmoji", "17.0.0", "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68")
FLUENT = Package("fluentui-emoji", "1.3.0", "ec892e607e854859b812c7d827801756adc19955b0ef56d4ae8afcddd19492c5")
NOTO = Package("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad")
NOTO_FLAGS = Package("@svgmoji/noto", "3.2.0", "4bd1ef9824efaa08f124541a4c3420899a273333169aada20761384f9c7a35d0")


@dataclass(frozen=True)
class Emoji:
    """One emoji as emojibase describes it; a skin tone variant points to its base.

    `tone` has the Fitzpatrick modifiers in order (1 light ... 5 dark), empty without a modifier.
    """

    hexcode: str
    label: str
    base_label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    tone: tuple[int, ...] = ()


def default_cache() -> Path:
    """Where tarballs are kept: `$XDG_CACHE_HOME/sfumato/npm` or `~/.cache/sfumato/npm`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfumato" / "npm"


def fetch(package: Package, cache: Path) -> Path:
    """Path of the package's tarball in `cache`, downloaded by `npm pack` when it is not there.

    Raises `MachineError` when npm is missing or fails, `InputError` when the tarball is not the pinned one.
    """
    target = cache / package.tarball
    if not target.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise MachineError(
                "npm was not found, and the emoji drawings come from npm packages: install Node.js (https://nodejs.org), "
                f"or put {package.tarball} into {cache} by hand (npm pack {package.name}@{package.version})."
            )
        try:
            cache.mkdir(parents=True, exist_ok=True)
            _npm_pack(npm, package, target)
        except OSError as error:
            raise MachineError(
                f"cannot write the npm cache {cache}: {error.strerror}; choose another with --cache DIR."
            ) from None
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise InputError(
            f"{target} is not {package.name}@{package.version} (sha256 {digest[:12]}...): delete it and run again."
        )
    return target


def _npm_pack(npm: str, package: Package, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [npm, "pack", "--silent", "--ignore-scripts", f"{package.name}@{package.version}"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
        except subprocess.TimeoutExpired:
            raise MachineError(f"npm pack {package.name} took more than 10 minutes: check the network and run again.") from None
        made = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(made) != 1:
            reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
            raise MachineError(
                f"npm pack {package.name}@{package.version} failed ({reason[0]}): check the network and run again."
            )
        os.replace(made[0], target)


def read_members(tarball: Path, prefix: str, suffix: str = "") -> Iterator[tuple[str, str]]:
    """(name below `prefix`, text) of the regular files of a tarball, in archive order."""
    with tarfile.open(tarball, "r:gz") as archive:
        for member in archive:
            if member.isfile() and member.name.startswith(prefix) and member.name.endswith(suffix):
                stream = archive.extractfile(member)
                if stream is not None:
                    yield member.name[len(prefix) :], stream.read().decode("utf-8-sig")


def read_emojis(cache: Path) -> list[Emoji]:
    """Every emoji of emojibase (English), skin tone variants after their base, in emojibase's order."""
    wanted = {"en/data.json": "", "meta/groups.json": ""}
    for name, text in read_members(fetch(EMOJIBASE, cache), "package/", ".json"):
        if name in wanted:
            wanted[name] = text
    return parse_emojis(json.loads(wanted["en/data.json"]), json.loads(wanted["meta/groups.json"]))


def parse_emojis(data: list[dict[str, Any]], names: Mapping[str, Mapping[str, str]]) -> list[Emoji]:
    """`Emoji`s of emojibase's `data.json` with the group names of its `groups.json`."""
    emojis = []
    for base in data:
        for item in (base, *base.get("skins", ())):
            tone = item.get("tone", ())
            emojis.append(
                Emoji(
                    hexcode=item["hexcode"],
                    label=item["label"],
                    base_label=base["label"],
                    tags=tuple(base.get("tags", ())),
                    group=names["groups"].get(str(base.get("group")), "component"),
                    subgroup=names["subgroups"].get(str(base.get("subgroup")), "regional-indicator"),
                    tone=(tone,) if isinstance(tone, int) else tuple(tone),
                )
            )
    return emojis


def drawings(style: str, emojis: list[Emoji], cache: Path) -> dict[str, str]:
    """{hexcode: SVG text} of the emojis that `style` has a drawing of."""
    match style:
        case "noto":
            found = {**_noto_flags(cache), **_noto(cache)}
        case "twemoji":
            found = _by_name(read_members(fetch(TWEMOJI, cache), "package/", ".svg"))
        case "openmoji":
            found = _by_name(read_members(fetch(OPENMOJI, cache), "package/color/svg/", ".svg"))
        case "fluent-3d" | "fluent-flat":
            folder = "modern" if style == "fluent-3d" else "flat"
            files = dict(read_members(fetch(FLUENT, cache), f"package/icons/{folder}/", ".svg"))
            return {e.hexcode: files[f"{name}.svg"] for e in emojis if (name := fluent_name(e, files)) is not None}
        case _:
            raise unknown("emoji style", style, STYLES)
    return {e.hexcode: found[key] for e in emojis if (key := code_key(e.hexcode)) in found}


def code_key(name: str) -> str:
    """Code points without variation selector 16, upper case, four digits at least: `23-fe0f-20e3` -> `0023-20E3`."""
    return "-".join(part.zfill(4) for part in name.upper().split("-") if part != "FE0F")


def _by_name(members: Iterator[tuple[str, str]]) -> dict[str, str]:
    return {code_key(name.removesuffix(".svg")): text for name, text in members}


def _noto(cache: Path) -> dict[str, str]:
    files = dict(read_members(fetch(NOTO, cache), "package/", ".json"))
    icons, chars = json.loads(files["icons.json"]), json.loads(files["chars.json"])
    width, height = icons["width"], icons["height"]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width} {height}">'
    return {code_key(code): f"{head}{icons['icons'][name]['body']}</svg>" for code, name in chars.items()}


def _noto_flags(cache: Path) -> dict[str, str]:
    """The sprite of svgmoji: only what iconify lacks is used of it, which is the country flags."""
    (sprite,) = (text for _, text in read_members(fetch(NOTO_FLAGS, cache), "package/sprites/", "all.svg"))
    return dict(split_sprite(sprite))


def split_sprite(sprite: str) -> Iterator[tuple[str, str]]:
    """(code key, SVG text) of the `<svg id=...>` elements right under the root of a sprite."""
    depth = start = 0
    head = ""
    for token in re.finditer(r"<svg\b[^>]*>|</svg>", sprite):
        if token[0] == "</svg>":
            depth -= 1
            name = re.search(r'\sid="([^"]*)"', head)
            if depth == 1 and name:
                text = sprite[start : token.end()]
                if "xlink:" in text and "xmlns:xlink" not in head:  # the root declared it for all
                    text = text.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)
                yield code_key(name[1]), text
        elif not token[0].endswith("/>"):
            if depth == 1:
                start, head = token.start(), token[0]
            depth += 1


# Where fluent's file name isn't the slug of today's label: older names, and "person-" before roles.
_FLUENT_NAMES = {
    "enraged-face": "pouting-face",
    "smiling-face-with-open-hands": "hugging-face",
    "face-with-crossed-out-eyes": "knocked-out-face",
    "merperson": "person-merpeople",
    "merman": "man-merpeople",
    "mermaid": "woman-merpeople",
    "black-bird": "blackbird",
    "phoenix": "phoenix-bird",
    "stuffed-flatbread": "stuffedbread",
    "red-triangle-pointed-up": "red-triangle",
    **{f"{who}-blond-hair": f"{who}-blonde-hair" for who in ("person", "woman", "man")},
    **{f"deaf-{who}": f"{who}-deaf" for who in ("person", "woman", "man")},
    **{role: f"person-{role}" for role in ("superhero", "supervillain", "mage", "fairy", "vampire", "elf", "genie", "zombie")},
    **{
        f"{many}-with-bunny-ears": f"{one}-with-bunny-ears"
        for many, one in (("people", "person"), ("men", "man"), ("women", "woman"))
    },
    **{f"{many}-wrestling": f"{one}-wrestling" for many, one in (("people", "person"), ("men", "man"), ("women", "woman"))},
}


def slug(label: str) -> str:
    """`Twelve o'clock` -> `twelve-oclock`, `pinata` with its tilde -> `pinata`, `keycap: #` -> `keycap-hashtag`."""
    plain = unicodedata.normalize("NFKD", label.lower()).replace("#", "hashtag").replace("*", "asterisk")
    plain = re.sub(r"[\u0300-\u036f'\u2019]", "", plain)
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def fluent_name(emoji: Emoji, files: Mapping[str, str]) -> str | None:
    """The fluent file (without suffix) that draws `emoji`, None when there is none; `files` has names with `.svg`."""
    stem = slug(emoji.base_label)
    stem = _FLUENT_NAMES.get(stem, stem)
    if not emoji.tone:
        names = [stem, f"{stem}-default"]
    elif len(emoji.tone) == 1:
        names = [f"{stem}-{TONES[emoji.tone[0]]}"]
    else:
        names = []
    return next((name for name in names if f"{name}.svg" in files), None)
