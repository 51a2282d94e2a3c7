"""The yaml that is released beside a checkpoint, read as data: numbers, texts, lists, tables.

The authors' programs import what its `target:` names. Here a target is a word that is looked up in a table; one that is not
there is refused, and no name leads to an import. Sections beside `model` (data, training) are left out unread.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sfumato.errors import InputError
from sfumato.interop.rebuild import shown
from sfumato.interop.targets import TARGETS

MAX_BYTES, MAX_DEPTH, MAX_ALIASES, MAX_NODES = 200_000, 50, 100, 10_000  # the largest released one has 9 kB


@dataclass(frozen=True)
class ReleasedYaml:
    """The `model` section of a released yaml: plain tables, each `target` a word of `TARGETS`."""

    path: Path
    model: Mapping[str, Any]

    def targets(self) -> Iterator[tuple[str, str]]:
        """(place, target) of every class that is named, the place as in "model.params.unet_config"."""
        return _targets(self.model, "model")


def read_yaml(path: Path) -> ReleasedYaml:
    """Raises `InputError` for what is no yaml, no model's yaml, too large or deep, or names an unknown class."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
    if len(text) > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES} bytes; no released yaml is.")
    try:
        data = _load(text, path)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, OverflowError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not valid yaml ({shown(' '.join(str(error).split()))}).") from None
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("target"), str):
        raise InputError(f"{path} has no section `model` with a `target`; expected a model's yaml; move it away otherwise.")
    found = ReleasedYaml(path, model)
    for place, target in found.targets():
        if target not in TARGETS:
            named = f"{shown(target)!r} at {shown(place)}"
            raise InputError(f"{path} names {named}, which is in no released yaml. Move it away to read on.")
    return found


def beside(checkpoint: Path) -> ReleasedYaml | None:
    """The yaml that belongs to a checkpoint: of its name, or the folder's config.yaml when that is a model's; else None."""
    for path in (checkpoint.with_suffix(".yaml"), checkpoint.with_suffix(".yml")):
        if path.is_file():
            return read_yaml(path)
    config = checkpoint.parent / "config.yaml"
    if config.is_file() and config.stat().st_size <= MAX_BYTES and b"target:" in config.read_bytes():
        return read_yaml(config)
    return None


def _load(text: bytes, path: Path) -> Any:
    """Safe types only, and no more of them than a model's yaml has, before and after aliases are followed."""
    aliases = depth = nodes = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        aliases += isinstance(event, yaml.AliasEvent)
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if aliases > MAX_ALIASES or depth > MAX_DEPTH or nodes > MAX_NODES:
            raise InputError(f"{path} is deeper or has more parts than any released yaml.")
    loader = yaml.SafeLoader(text)
    root = loader.get_single_node()
    if root is None:
        return None
    if _size(root, {}, path) > MAX_NODES:
        raise InputError(f"{path} is deeper or has more parts than any released yaml.")
    return loader.construct_document(root)


def _size(node: Any, known: dict[int, float], path: Path) -> float:
    """Nodes below one, each alias counted in full. Refuses keys that stand twice or that merge, and loops."""
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is known: a node inside itself
        parts: list[Any] = []
        if isinstance(node, yaml.MappingNode):
            keys = [key.value if isinstance(key, yaml.ScalarNode) else None for key, _ in node.value]
            if None in keys or len(set(keys)) != len(keys) or "<<" in keys:
                raise InputError(f"{path} has a table with a key that stands twice, merges another table, or is no text.")
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        known[id(node)] = 1 + sum(_size(part, known, path) for part in parts)
    return known[id(node)]


def _targets(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        if "target" in value:
            yield place, str(value["target"])
        for key, part in value.items():
            yield from _targets(part, f"{place}.{key}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _targets(part, f"{place}[{number}]")
