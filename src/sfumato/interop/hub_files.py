"""Which files of a repository on the hub are fetched: what the readers here read, each weight once, and nothing that is code.

    a folder of diffusers    model_index.json or config.json; settings and weights by component, as `folders` reads them
    a single file            the one file of weights at the root, or the one asked for, and what belongs beside it

Of the same weights safetensors are taken and no pickle; a pickle only where a component has nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from sfumato.errors import InputError
from sfumato.interop.folders import CONFIG, MODEL_INDEX, VARIANTS
from sfumato.interop.keys import MOST_SHOWN
from sfumato.interop.lora import ADAPTER_CONFIG, FOLDER_FILES

UNREAD = ("safety_checker", "depth_estimator")
"""Components that no reader opens."""
_NAME = re.compile(r"[A-Za-z0-9_][\w.\-+ ()]{0,200}", re.ASCII)
_STEMS = {"safetensors": ("diffusion_pytorch_model", "model"), "bin": ("diffusion_pytorch_model", "pytorch_model")}
_SETTINGS = (CONFIG, "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json", "vocab.txt")
_SINGLE = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Choice:
    """files: in the repository. main: the single file among them that is the model, None where the folder is."""

    files: tuple[str, ...]
    main: str | None


def choose(names: Iterable[str], what: str, *, variant: str | None = None, file: str | None = None) -> Choice:
    """The files to fetch out of all `names` of a repository. `what` names it in messages.

    `variant`: as in `folders.read_folder`. `file`: a single one. Raises `InputError` where nothing can be read, or where
    several single files could be meant.
    """
    if variant is not None and variant not in VARIANTS:
        raise InputError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}.")
    safe = sorted(name for name in names if all(map(_NAME.fullmatch, name.split("/"))) and ".." not in name)
    if file is not None:
        if file not in safe or not file.endswith(_SINGLE):
            raise InputError(f"{what} has no file of weights {file[:150]!r}; it has {_shown(_weights(safe))}.")
        return Choice((file, *_beside(safe, file)), file)
    if MODEL_INDEX in safe:
        components = sorted({name.split("/")[0] for name in safe if name.count("/") == 1} - set(UNREAD))
        found = [MODEL_INDEX, *(name for component in components for name in _component(safe, f"{component}/", variant))]
        return Choice(tuple(found), None)
    if CONFIG in safe:
        own = tuple(_component(safe, "", variant))
        if any(name.endswith(_SINGLE) for name in own):
            return Choice(own, None)
    return _single(safe, what)


def _single(names: list[str], what: str) -> Choice:
    root = [name for name in names if "/" not in name]
    for wanted in (*FOLDER_FILES, None):
        if wanted in root:
            return Choice((wanted, *_beside(names, wanted)), wanted)
    for ends in ((".safetensors",), _SINGLE):
        found = [name for name in root if name.endswith(ends)]
        if len(found) == 1:
            return Choice((found[0], *_beside(names, found[0])), found[0])
        if found:
            raise InputError(f"{what} holds several files of weights ({_shown(found)}); say which: {what}:FILE.")
    raise InputError(f"{what} holds no weights that are read here; its files are {_shown(names)}.")


def _beside(names: list[str], file: str) -> list[str]:
    """What belongs to a single file: the yaml of its name or its folder's config.yaml, and PEFT's settings of a LoRA."""
    path = PurePosixPath(file)
    wanted = [str(path.with_suffix(end)) for end in (".yaml", ".yml")] + [str(path.with_name("config.yaml"))]
    if path.name.startswith("adapter_model."):
        wanted.append(str(path.with_name(ADAPTER_CONFIG)))
    return [name for name in wanted if name in names]


def _component(names: list[str], prefix: str, variant: str | None) -> list[str]:
    """A component's settings, and its weights: of the variant or plain or in 16 bits, whole before shards."""
    own = [name.removeprefix(prefix) for name in names if name.startswith(prefix) and "/" not in name.removeprefix(prefix)]
    found = [name for name in own if name in _SETTINGS]
    for suffix, stems in _STEMS.items():
        for wanted in (variant, "") if variant else ("", "fp16", "bf16"):
            dot = f".{wanted}" if wanted else ""
            for stem in stems:
                weights = _group(own, stem, dot, suffix)
                if weights:
                    return [prefix + name for name in (*found, *weights)]
    return [prefix + name for name in found]


def _group(own: list[str], stem: str, dot: str, suffix: str) -> list[str]:
    """The one file, or the table of shards and its shards."""
    whole = f"{stem}{dot}.{suffix}"
    if whole in own:
        return [whole]
    tables = [table for table in (f"{stem}.{suffix}.index{dot}.json", f"{stem}{dot}.{suffix}.index.json") if table in own]
    shard = re.compile(rf"{stem}(-\d+-of-\d+{re.escape(dot)}|{re.escape(dot)}-\d+-of-\d+)\.{suffix}", re.ASCII)
    return [*tables[:1], *filter(shard.fullmatch, own)] if tables else []


def _weights(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(_SINGLE)]


def _shown(names: list[str]) -> str:
    listed = ", ".join(name[:100] for name in names[:MOST_SHOWN])
    return (listed or "none") + (f" and {len(names) - MOST_SHOWN} more" if names[MOST_SHOWN:] else "")
