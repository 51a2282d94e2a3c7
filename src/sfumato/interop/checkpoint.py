"""A published checkpoint, opened: what it is by its bytes, an index of its tensors, and what stands beside them.

Nothing is run, imported or read in full. What the tensors mean is for `recognise`; here they have names, types and places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.errors import InputError
from sfumato.interop.files import Kind, kind_of
from sfumato.interop.folders import Component, Folder, read_folder
from sfumato.interop.headers import read_header
from sfumato.interop.index import DTYPES, SourceFile, TensorEntry, TensorIndex, contiguous_stride
from sfumato.interop.torchfile import Fact, TorchFile, read_legacy, read_zip
from sfumato.interop.yamls import ReleasedYaml, beside


@dataclass(frozen=True)
class Metadata:
    """What a checkpoint says beside its tensors.

    `step` and `epoch` of its training, where it has them; `facts`: other plain values by name (safetensors: its notes);
    `others`: the first fifty names in the state dict that are no tensors.
    """

    step: int | None = None
    epoch: int | None = None
    facts: Mapping[str, Fact] = field(default_factory=dict)
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """A file or folder of weights.

    `index`: every tensor, in a folder as "component/name". `components`: a folder's parts by name, empty for a file.
    `pipeline`: the class a folder's model_index.json names. `yaml`: the released one beside a file.
    """

    path: Path
    kind: Kind
    index: TensorIndex
    metadata: Metadata = Metadata()
    components: Mapping[str, Component] = field(default_factory=dict)
    pipeline: str | None = None
    yaml: ReleasedYaml | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that its tensors lie in."""
        return tuple(sorted({entry.file.path for entry in self.index.values()}))


def open_checkpoint(path: str | Path, variant: str | None = None) -> Checkpoint:
    """Open a .safetensors or torch.save file or a diffusers folder; its bytes say which it is.

    `variant`: which files of a folder, as in `folders.read_folder`. Raises `InputError` in one line for everything else:
    what it is instead, what is damaged, or the name that a pickle asks for.
    """
    path = Path(path)
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError):  # no path can have this name; the file's reader says so
        is_folder = False
    if is_folder:
        return _folder(path, read_folder(path, lambda file: open_file(file).index, variant))
    if variant is not None:
        raise InputError(f"{path} is a file; a variant ({variant!r}) is a choice among the files of a folder.")
    found = open_file(path)
    return Checkpoint(path, found.kind, found.index, found.metadata, yaml=beside(path))


def open_file(path: Path) -> Checkpoint:
    """One file, without what lies beside it."""
    kind = kind_of(path)
    if kind is Kind.safetensors:
        header = read_header(path)
        file = SourceFile(path) if header.tensors else None
        entries = {
            name: TensorEntry(DTYPES[span.dtype], span.shape, contiguous_stride(span.shape), file, span.offset)
            for name, span in header.tensors.items()
            if file is not None
        }
        if not entries:
            raise InputError(f"{path} is a safetensors file without tensors; expected a checkpoint.")
        return Checkpoint(path, kind, TensorIndex(entries), _metadata(header.metadata, ()))
    found = read_zip(path) if kind is Kind.torch_zip else read_legacy(path)
    return Checkpoint(path, kind, found.index, _metadata(found.facts, found.others))


def _metadata(facts: Mapping[str, Fact], others: tuple[str, ...]) -> Metadata:
    rest = {name: value for name, value in facts.items() if name not in ("global_step", "epoch")}
    return Metadata(_whole(facts.get("global_step")), _whole(facts.get("epoch")), rest, others)


def _whole(value: Fact | None) -> int | None:
    """A count, also when it was written as text or as 3.0."""
    try:
        number = None if value is None or isinstance(value, bool) else int(value)
    except (ValueError, OverflowError):
        return None
    return number if number is not None and number >= 0 else None


def _folder(path: Path, folder: Folder) -> Checkpoint:
    entries: dict[str, TensorEntry] = {}
    for name, component in folder.components.items():
        if component.index is not None:
            entries |= component.index.prefixed(f"{name}/")
    facts = {k: v for k, v in folder.settings.items() if isinstance(v, Fact)}
    return Checkpoint(path, Kind.folder, TensorIndex(entries), Metadata(facts=facts), folder.components, folder.class_name)


__all__ = ["Checkpoint", "Metadata", "TorchFile", "open_checkpoint", "open_file"]
