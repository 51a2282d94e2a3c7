"""The data set of the default model: five drawings of the same concepts, with captions, made from npm packages.

Held-out rule. With HEXCODE as emojibase writes it, h = int(sha256("HEXCODE/style")[:8], 16) mod 20: h = 0 is test,
h = 1 validation, the rest train. Pictures of one style that are equal on white are one group: when one of
them is held out, those of the group that would be training pictures are `excluded`. The concept may well be seen
in another style: the held-out pairs test composition.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from PIL import Image

from sfumato.data.emoji_pairs import Pair, draw, pairs, texts
from sfumato.data.emoji_render import Job, render
from sfumato.data.emoji_sources import STYLES, Emoji, default_cache, drawings, read_emojis
from sfumato.data.emoji_text import caption, telling_tags, variants
from sfumato.errors import InputError, MachineError, unknown

BACKGROUNDS = ("transparent", "white")
NUM_PAIRS = 500  # a style
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EmojiReport:
    """What `build_emoji` made: pictures by (style, split), where "pairs" counts as a split, drawings that could not be
    rendered, bytes on disk."""

    directory: Path
    counts: dict[tuple[str, str], int]
    failed: dict[str, str]
    num_bytes: int

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def hash_split(hexcode: str, style: str) -> str:
    """`test`, `validation` or `train` of one (emoji, style) pair by the rule above, groups not considered."""
    h = int(hashlib.sha256(f"{hexcode}/{style}".encode()).hexdigest()[:8], 16) % 20
    return {0: "test", 1: "validation"}.get(h, "train")


def splits(digests: dict[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """{(hexcode, style): split} from {(hexcode, style): digest of the pixels on white}; `excluded` as the rule says."""
    own = {pair: hash_split(*pair) for pair in digests}
    groups: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for (hexcode, style), digest in digests.items():
        groups[style, digest].append((hexcode, style))
    for group in groups.values():
        if any(own[pair] != "train" for pair in group):
            own.update({pair: "excluded" for pair in group if own[pair] == "train"})
    return own


def build_emoji(
    directory: str | os.PathLike[str],
    size: int = 128,
    styles: Sequence[str] = STYLES,
    background: str = "transparent",
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    num_pairs: int = NUM_PAIRS,
) -> EmojiReport:
    """Write `images/<style>/<HEXCODE>.png`, `metadata.jsonl` and `NOTICE` into `directory`.

    size: side in pixels, 16 to 1024. background: `transparent` gives straight RGBA, `white` RGB laid on white; captions
    and splits are the same. num_pairs: pictures a style of two training emoji together (`emoji_pairs`), all for training, in
    `images/<style>/pairs`; they need transparency, so `white` has none. cache: where npm tarballs are kept. workers:
    processes that render, by default one a core. progress is called with (stage, done, total). `metadata.jsonl` is written
    last, so a folder that has one is complete. Raises `InputError` for a bad argument or a folder that holds something else,
    `MachineError` without npm, network,
    resvg or a writable disk.
    """
    root = Path(directory)
    _check(root, size, styles, background)
    if num_pairs < 0:
        raise InputError(f"num_pairs {num_pairs}: expected 0 or more.")
    tell = progress or (lambda stage, done, total: None)
    folder = Path(cache) if cache is not None else default_cache()
    emojis = read_emojis(folder)
    jobs = []
    for index, style in enumerate(styles):
        tell("reading drawings", index, len(styles))
        found = drawings(style, emojis, folder)
        jobs += [Job(style, code, svg, size, background) for code, svg in found.items()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / "metadata.jsonl").unlink(missing_ok=True)  # the folder is not complete until it is written again
        digests, failed = _render_all(jobs, root, workers or os.cpu_count() or 1, tell)
        split = splits(digests)
        shown = list(_draw_pairs(root, emojis, split, num_pairs if background == "transparent" else 0, tell))
        counts = _write_metadata(root, emojis, split, shown)
        notice = resources.files("sfumato").joinpath("assets/NOTICE-emoji.md").read_text(encoding="utf-8")
        (root / "NOTICE").write_text(notice, encoding="utf-8")
    except OSError as error:
        raise MachineError(f"cannot write {root}: {error.strerror or error}; free space or choose another folder.") from None
    size_on_disk = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    return EmojiReport(root, counts, failed, size_on_disk)


def _check(root: Path, size: int, styles: Sequence[str], background: str) -> None:
    if not 16 <= size <= 1024:
        raise InputError(f"size {size}: expected 16 to 1024 pixels.")
    if not styles:
        raise InputError(f"no style given; choose some of {', '.join(STYLES)}.")
    for style in styles:
        if style not in STYLES:
            raise unknown("emoji style", style, STYLES)
    if background not in BACKGROUNDS:
        raise unknown("background", background, BACKGROUNDS)
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; give a folder for the data set.")
    if root.is_dir() and any(root.iterdir()) and not (root / "images").is_dir():
        raise InputError(f"{root} holds other files; give an empty or new folder for the data set.")


def _render_all(jobs: list[Job], root: Path, workers: int, tell: Progress) -> tuple[dict[tuple[str, str], str], dict[str, str]]:
    digests: dict[tuple[str, str], str] = {}
    failed: dict[str, str] = {}
    for style in sorted({job.style for job in jobs}):
        (root / "images" / style).mkdir(parents=True, exist_ok=True)
    for done, (job, digest, reason) in enumerate(_map(jobs, root, workers), start=1):
        if digest is None:
            failed[f"{job.style}/{job.hexcode}"] = reason
        else:
            digests[job.hexcode, job.style] = digest
        tell("rendering", done, len(jobs))
    return digests, failed


def _map(jobs: list[Job], root: Path, workers: int) -> Iterator[tuple[Job, str | None, str]]:
    tasks = [(job, root) for job in jobs]
    if workers <= 1 or len(jobs) < 8:
        results: Iterable[tuple[str | None, str]] = map(_render_to_file, tasks)
        yield from ((job, *result) for job, result in zip(jobs, results, strict=True))
        return
    # spawn: a fork of a process that runs torch threads may hang
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = pool.map(_render_to_file, tasks, chunksize=16)
        yield from ((job, *result) for job, result in zip(jobs, results, strict=True))


def _render_to_file(task: tuple[Job, Path]) -> tuple[str | None, str]:
    job, root = task
    try:
        picture = render(job)
    except InputError as error:
        return None, str(error)
    (root / "images" / job.style / f"{job.hexcode}.png").write_bytes(picture.png)
    return picture.digest, ""


def _draw_pairs(
    root: Path, emojis: list[Emoji], split: dict[tuple[str, str], str], count: int, tell: Progress
) -> Iterator[Pair]:
    """Draw the pairs of every style into its folder `pairs`, without what an earlier call left there."""
    for index, style in enumerate(STYLES):
        folder = root / "images" / style
        shutil.rmtree(folder / "pairs", ignore_errors=True)
        if not count:
            continue
        tell("drawing pairs", index, len(STYLES))
        trained = frozenset(code for (code, of), part in split.items() if of == style and part == "train")
        for pair in pairs(emojis, style, trained, count):
            parts = [Image.open(folder / f"{emoji.hexcode}.png").convert("RGBA") for emoji in (pair.first, pair.second)]
            (folder / "pairs").mkdir(exist_ok=True)
            draw(pair, *parts).save(folder / "pairs" / f"{pair.code}.png")
            yield pair


def _write_metadata(
    root: Path, emojis: list[Emoji], split: dict[tuple[str, str], str], shown: list[Pair]
) -> dict[tuple[str, str], int]:
    counts: Counter[tuple[str, str]] = Counter()
    telling = telling_tags(emojis)
    temporary = root / "metadata.jsonl.tmp"
    with temporary.open("w", encoding="utf-8", newline="\n") as stream:
        for emoji in emojis:
            for style in STYLES:
                if (emoji.hexcode, style) in split:
                    row = _row(emoji, style, split[emoji.hexcode, style], telling[emoji.base_label])
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                    counts[style, split[emoji.hexcode, style]] += 1
        for pair in shown:
            stream.write(json.dumps(_pair_row(pair), ensure_ascii=False) + "\n")
            counts[pair.style, "pairs"] += 1
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, root / "metadata.jsonl")
    return dict(counts)


def family(hexcode: str) -> str:
    """The code of the concept without skin tones and variation selectors: what all its tones and styles share."""
    return "-".join(code for code in hexcode.split("-") if code != "FE0F" and not 0x1F3FB <= int(code, 16) <= 0x1F3FF)


def _pair_row(pair: Pair) -> dict[str, object]:
    """As `_row`; its family is the first emoji's with a "+", so that pairs are drawn seldom (`PriorRun.balance`)."""
    captions = texts(pair)
    return {
        "file_name": f"images/{pair.style}/pairs/{pair.code}.png",
        "text": captions[0],
        "texts": captions,
        "hexcode": f"{pair.first.hexcode}+{pair.second.hexcode}",
        "style": pair.style,
        "label": captions[-1],
        "tags": [],
        "group": "pairs",
        "subgroup": pair.kind,
        "tone": [],
        "family": f"{family(pair.first.hexcode)}+",
        "split": "train",
    }


def _row(emoji: Emoji, style: str, split: str, telling: Sequence[str]) -> dict[str, object]:
    return {
        "file_name": f"images/{style}/{emoji.hexcode}.png",
        "text": caption(emoji, style),
        "texts": variants(emoji, style, telling),
        "hexcode": emoji.hexcode,
        "style": style,
        "label": emoji.label,
        "tags": list(emoji.tags),
        "group": emoji.group,
        "subgroup": emoji.subgroup,
        "tone": list(emoji.tone),
        "family": family(emoji.hexcode),
        "split": split,
    }
