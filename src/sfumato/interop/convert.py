"""A model in another form: our directory, the authors' single file, or a diffusers folder. Tensors keep type and bits.

    open_source -> LoadedModel, its weights as they are stored -> write_native, write_single_file, write_folder

Beside the source, which is mapped, there is never more than a tensor; a target is whole or not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sfumato.build import build_model
from sfumato.errors import InputError
from sfumato.interop.assign import MOST_SHOWN, assign
from sfumato.interop.cards import Card
from sfumato.interop.checkpoint import open_checkpoint
from sfumato.interop.ema import Weights
from sfumato.interop.export import single_file
from sfumato.interop.export_folder import folder_notes, folder_parts, write_parts
from sfumato.interop.hashes import verify_files
from sfumato.interop.hollow import hollow
from sfumato.interop.index import Held
from sfumato.interop.load import load_published
from sfumato.interop.lora import read_lora
from sfumato.interop.merge import Scale, merge
from sfumato.io import pretrained
from sfumato.io.files import check_manifest, new_directory
from sfumato.io.pretrained import LoadedModel, save_pretrained
from sfumato.io.storage import Storage
from sfumato.io.stream import write_tensors
from sfumato.io.weights import pack, read_weights
from sfumato.networks.clip import number_positions

Loras = Sequence[tuple[Path, Scale]]


def open_source(
    path: Path,
    published: bool,
    *,
    card: Card | str | None = None,
    weights: Weights = Weights.ema,
    vocabulary: Path | None = None,
    loras: Loras = (),
    verify: bool = False,
) -> LoadedModel:
    """A published file or folder, or a model directory of ours, with every tensor in the type in which it is stored (int8 is
    read as fp32). `loras`, each with its scale, are added to the weights. `verify`: hash a published one again; a directory of
    ours always is. Raises `InputError`."""
    changes = [(read_lora(file), scale) for file, scale in loras]
    if published:
        if verify:
            verify_files(open_checkpoint(path).files)
        loaded = load_published(path, card=card, weights=weights, vocabulary=vocabulary, dtype=None)
    else:
        loaded = _open_native(path)
    merge(loaded.model, changes)
    return loaded


def _open_native(name_or_path: Path) -> LoadedModel:
    path = pretrained.find_model(name_or_path)
    check_manifest(path)
    config, defaults, name = pretrained.read_config(path)
    tokenizer = pretrained.read_tokenizer(path)
    with hollow():
        model = build_model(config, tokenizer)
    number_positions(model)
    file = path / pretrained.WEIGHTS
    assign(model, {key: Held(value) for key, value in read_weights(file).items()}, str(file), keep=True)
    return LoadedModel(model.requires_grad_(False).eval(), config, defaults, name, pretrained.read_hash(path), path)


def write_native(loaded: LoadedModel, target: Path, storage: Storage | None = None) -> None:
    """Write our model directory. `storage` None: every tensor as it is. Raises `InputError` for weights that are not finite."""
    bad = [name for name, value in loaded.model.state_dict().items() if not torch.isfinite(value.float()).all()]
    if bad:
        raise InputError(f"{loaded.path}: {len(bad)} tensors are not finite, the first {', '.join(bad[:MOST_SHOWN])}.")
    card = f"# {loaded.name}\n\nConverted by `sfumato convert` from {loaded.path.name}, hash {loaded.hash}.\n"
    save_pretrained(target, loaded.model, loaded.config, defaults=loaded.defaults, name=loaded.name, card=card, storage=storage)


def write_single_file(loaded: LoadedModel, target: Path, storage: Storage | None = None) -> None:
    """Write one .safetensors in the authors' names. Raises `InputError` for another ending, int8, or a model without form."""
    if target.suffix != ".safetensors":
        raise InputError(f"{target.name[:100]}: a single file is written as .safetensors; choose a name that ends so.")
    _no_int8(storage)
    tensors, notes = single_file(loaded.config, loaded.model.state_dict())
    if storage is not None:
        tensors = pack(tensors, storage, ("scale_factor",))
    write_tensors(target, tensors, notes)


def write_folder(loaded: LoadedModel, target: Path, storage: Storage | None = None) -> tuple[str, ...]:
    """Write a diffusers folder; returns what its user must know, if anything.

    Raises `InputError` for int8, or a model that no pipeline there can express.
    """
    _no_int8(storage)
    tokenizer = getattr(loaded.model.conditioner, "tokenizer_json", None)
    pipeline, parts, own = folder_parts(loaded.config, loaded.model.state_dict(), None if tokenizer is None else tokenizer())
    with new_directory(target) as folder:
        write_parts(folder, pipeline, parts, own, storage)
    return folder_notes(loaded.config)


def _no_int8(storage: Storage | None) -> None:
    if storage is Storage.int8:
        raise InputError(
            "storage int8 is of native model directories; other forms have fp16, fp32 or their tensors' own types."
        )
