"""Our own model directories, as `inspect` meets them among foreign files: described without reading a weight."""

from __future__ import annotations

from pathlib import Path

import torch

from sfumato.build import build_model
from sfumato.errors import InputError
from sfumato.interop.hollow import hollow
from sfumato.io import pretrained
from sfumato.io.files import MANIFEST, check_manifest
from sfumato.io.pretrained import LoadedModel
from sfumato.io.weights import read_weights


def native_directory(path: Path) -> Path | None:
    """The model directory that `path` is (a directory, a training run, the weights in one, a shipped name); None for others."""
    try:
        found = pretrained.find_model(path.parent if path.is_file() and path.name == pretrained.WEIGHTS else path)
    except InputError:
        return None
    return found if (found / MANIFEST).is_file() and not (found / "model_index.json").exists() else None


def describe_native(directory: Path, *, verify: bool = False) -> LoadedModel:
    """Its model on the meta device, with what the directory says of it. `verify`: compare every file with the manifest first.

    Raises `InputError` for a damaged directory.
    """
    if verify:
        check_manifest(directory)
    config, defaults, name = pretrained.read_config(directory)
    with hollow():
        model = build_model(config, pretrained.read_tokenizer(directory))
    return LoadedModel(model.eval(), config, defaults, name, pretrained.read_hash(directory), directory)


def not_finite(directory: Path) -> list[str]:
    """Names of its tensors that hold NaN or infinity."""
    weights = read_weights(directory / pretrained.WEIGHTS)
    return [name for name, value in weights.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
