"""A published checkpoint -> a model ready to sample: opened, recognised, built without memory, and filled strictly.

    open_checkpoint -> recognise -> choose_card -> build on the meta device -> names -> assign

Weights are read in the file's own type and converted one by one, so that beside the model there is never more than a piece.
The authors sample from the averages, so they are read where there are any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sfumato.build import ConditionerConfig, ModelConfig, build_first_stage, build_model
from sfumato.conditioners.checkpoint import PREFIXES, SDXL, STAGE, VISION, Statistics, from_checkpoint
from sfumato.conditioners.clip_text import ClipTextsConfig, with_layers
from sfumato.conditioners.compose import TEXT, CompositeConfig
from sfumato.conditioners.keys import OPENCLIP_UNUSED
from sfumato.conditioners.wordpiece import bert_tokenizer, read_vocabulary
from sfumato.errors import InputError
from sfumato.first_stages.base import FirstStage
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.interop import compvis
from sfumato.interop.assign import MOST_SHOWN, assign
from sfumato.interop.cards import Card, Task
from sfumato.interop.checkpoint import Checkpoint, open_checkpoint
from sfumato.interop.choose import choose_card, name_of
from sfumato.interop.ema import Weights
from sfumato.interop.embeddings import statistics_for
from sfumato.interop.folder_model import read_folder_model
from sfumato.interop.folders import Part
from sfumato.interop.hashes import file_hash, verify_files
from sfumato.interop.hollow import hollow
from sfumato.interop.index import Held, Loadable, TensorIndex, loadables
from sfumato.interop.keys import KeyMap
from sfumato.interop.markers import check_markers
from sfumato.interop.recognise import Kind, Recognised, recognise
from sfumato.interop.scale import statistics
from sfumato.io.pretrained import LoadedModel, SamplingDefaults
from sfumato.networks.clip import number_positions

OUR_STATISTICS = tuple(compvis.OUR_FIRST_STAGE + name for name in compvis.STATISTICS)
UNUSED = ("low_scale_model.", "noise_augmentor.", "depth_model.", "embedder.")
"""Beginnings of names that hold nothing this library computes with: schedules, MiDaS, and the rest of unCLIP's CLIP."""


@dataclass(frozen=True)
class LoadedFirstStage:
    """A first stage alone, with its config. `scale_factor`: z_unit = scale_factor * z."""

    model: FirstStage
    config: KLConfig | VQConfig
    scale_factor: float
    path: Path


def load_published(
    path: str | Path,
    *,
    weights: Weights = Weights.ema,
    card: Card | str | None = None,
    vocabulary: Path | None = None,
    embeddings: Statistics | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    verify: bool = False,
) -> LoadedModel:
    """Load a .ckpt or .safetensors file in the authors' names, or a diffusers folder, onto `device`.

    Weights become `dtype`, statistics stay in fp32; with None every tensor stays of the file's own type.
    weights: averages where the file has them, or the raw ones. card: which published model it is, where the file leaves that
    open. vocabulary: BERT's vocab.txt, for the models that read words with it; else a folder's own, else the hub's cache's.
    embeddings: mean and deviation of Stable unCLIP-L's image embeddings, else those of the file beside it (`embeddings`).
    verify: hash every file first, also one whose hash is remembered, which then must be the same.
    Raises `InputError` in one line, listing the first ten names that do not fit.
    """
    is_folder = Path(path).is_dir()
    checkpoint = open_checkpoint(path, "non_ema" if is_folder and weights is Weights.raw else None)
    if verify:
        verify_files(checkpoint.files)
    chosen, tensors = (_of_folder if is_folder else _of_file)(checkpoint, weights, card, embeddings)
    config = ModelConfig(chosen.first_stage, chosen.prior, chosen.conditioner, chosen.image_size)
    tensors |= _held(compvis.OUR_FIRST_STAGE, statistics(chosen.first_stage, scale_factor_of(checkpoint, chosen)))
    words = folder_words(checkpoint) if vocabulary is None else read_vocabulary(vocabulary)
    tokenizer = bert_tokenizer(words).to_str() if words else None
    with hollow():
        model = build_model(config, tokenizer)
    number_positions(model)
    exact = (*OUR_STATISTICS, *(f"conditioner.{name}" for name, _ in model.conditioner.named_buffers()))
    _fill(model, tensors, checkpoint, device, dtype, exact)
    return LoadedModel(model, config, defaults_of(chosen), name_of(checkpoint.path), hash_of(checkpoint), checkpoint.path)


def _of_file(
    checkpoint: Checkpoint, weights: Weights, card: Card | str | None, embeddings: Statistics | None
) -> tuple[Card, dict[str, Loadable]]:
    """The card, with the conditioner that the file has, and the tensors under our names."""
    found = recognise_checkpoint(checkpoint)
    _check_whole(found, checkpoint)
    check_markers(checkpoint.index, str(checkpoint.path))
    chosen = choose_card(found, checkpoint, card)
    chosen = replace(chosen, conditioner=conditioner_in(chosen, checkpoint.index))
    embeddings = embeddings or statistics_for(chosen, checkpoint.path)
    tensors = _renamed(checkpoint.index, found.keys(ema=weights is Weights.ema and found.has_ema))
    return chosen, tensors | _conditioner(chosen.conditioner, checkpoint, found, embeddings)


def _of_folder(
    checkpoint: Checkpoint, weights: Weights, card: Card | str | None, embeddings: Statistics | None
) -> tuple[Card, dict[str, Loadable]]:
    """As `_of_file`; which averages a folder holds was chosen when it was opened."""
    if embeddings is not None:
        raise InputError(f"{checkpoint.path} is a folder, which holds the statistics of embeddings itself; leave them out.")
    return read_folder_model(checkpoint, card)


def folder_words(checkpoint: Checkpoint) -> list[str]:
    """The words of a folder's BERT tokenizer, if it has one."""
    return next((list(part.words) for part in checkpoint.components.values() if part.words), [])


def load_first_stage(
    path: str | Path,
    *,
    scale_factor: float | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LoadedFirstStage:
    """Load a first stage: a file of its own (the paper's, or taming's VQGAN), or the one inside a whole checkpoint.

    scale_factor: of the unit scale; by default the checkpoint's own buffer, else 1. Raises `InputError` as `load_published`.
    """
    checkpoint = open_checkpoint(path)
    found = recognise_checkpoint(checkpoint)
    if found.first_stage is None:
        raise InputError(f"{checkpoint.path} holds no first stage.")
    if found.kind is Kind.first_stage:
        _check_rest(found.rest, checkpoint)
    stored = scale_buffer(checkpoint)
    factor = scale_factor if scale_factor is not None else 1.0 if stored is None else stored
    with hollow():
        model = build_first_stage(found.first_stage)
    assert isinstance(model, FirstStage)
    keys = compvis.first_stage_keys(found.first_stage).prefixed("", found.first_stage_prefix)
    tensors: dict[str, Loadable] = _renamed(checkpoint.index, keys) | _held("", statistics(found.first_stage, factor))
    _fill(model, tensors, checkpoint, device, dtype, compvis.STATISTICS)
    return LoadedFirstStage(model, found.first_stage, factor, checkpoint.path)


def recognise_checkpoint(checkpoint: Checkpoint) -> Recognised:
    """`recognise`, of an opened file. Raises `InputError` for a folder, whose config files say what it is."""
    if checkpoint.components:
        raise InputError(f"{checkpoint.path} is a diffusers folder; expected a single file in the authors' names.")
    return recognise({name: (entry.shape, entry.dtype) for name, entry in checkpoint.index.items()}, str(checkpoint.path))


def conditioner_in(card: Card, names: Mapping[str, Any]) -> ConditionerConfig:
    """The card's conditioner; a retrieval model's without the text tower, which was published apart from it, and an OpenCLIP
    tower without a last layer and a projection that nothing uses, where the file has none (it was a diffusers folder)."""
    config = card.conditioner
    if not isinstance(config, CompositeConfig):
        return _shorter(config, names) if isinstance(config, ClipTextsConfig) else config
    if card.task is Task.retrieval and not any(n.startswith(STAGE) for n in names):
        rest = tuple(part for part in config.parts if part.name != TEXT)
        return rest[0].conditioner if len(rest) == 1 else replace(config, parts=rest)
    parts = (
        replace(part, conditioner=_shorter(part.conditioner, names)) if isinstance(part.conditioner, ClipTextsConfig) else part
        for part in config.parts
    )
    return replace(config, parts=tuple(parts))


def _shorter(config: ClipTextsConfig, names: Mapping[str, Any]) -> ClipTextsConfig:
    """Of towers behind `STAGE`, whose context is all that is used of them."""
    (tower, *others), prefix = config.towers, STAGE + "model."
    if others or tower.pad != "zero" or config.vector or config.context != "tokens":
        return config
    layers = {name.removeprefix(_LAYERS).split(".")[0] for name in names if name.startswith(_LAYERS)}
    if tower.final_norm and tower.layers - tower.skip <= len(layers) < tower.layers:
        tower = with_layers(tower, len(layers))
    if layers and prefix + "text_projection" not in names:
        tower = replace(tower, projection=None)
    return replace(config, towers=(tower,))


_LAYERS = STAGE + "model.transformer.resblocks."


def scale_factor_of(checkpoint: Checkpoint, card: Card) -> float:
    """The file's own where it was measured and stored, else the card's. Raises `InputError` where neither has one."""
    stored = scale_buffer(checkpoint)
    factor = card.scale_factor if stored is None else stored
    if factor is None:
        raise InputError(
            f"{checkpoint.path} has no {compvis.SCALE_FACTOR}; that of {card.name} was measured and is nowhere else: "
            "get the file again."
        )
    return factor


def defaults_of(card: Card) -> SamplingDefaults:
    """The authors' sampling."""
    how = card.sampling
    return SamplingDefaults(sampler=how.sampler, spacing=how.spacing, steps=how.steps, guidance=how.guidance)


def hash_of(checkpoint: Checkpoint) -> str:
    """First ten hex digits of the SHA-256 of the file (of a folder, its U-Net's first), remembered after the first time."""
    units = [c for c in checkpoint.components.values() if c.part is Part.denoiser and c.index]
    files = sorted({entry.file.path for c in units if c.index for entry in c.index.values()})
    return file_hash(files[0] if files else checkpoint.path)[:10]


def scale_buffer(checkpoint: Checkpoint) -> float | None:
    """The scale factor that was measured and stored in the file, if any."""
    entry = checkpoint.index.get(compvis.SCALE_FACTOR)
    if entry is None or entry.numel != 1:
        return None
    return float(entry.read())


def _check_whole(found: Recognised, checkpoint: Checkpoint) -> None:
    if found.kind is Kind.first_stage:
        raise InputError(f"{checkpoint.path} is a first stage alone, which draws nothing by itself; use load_first_stage.")
    if found.kind is Kind.unet:
        raise InputError(f"{checkpoint.path} holds a U-Net without a first stage; get the whole checkpoint.")


def _renamed(index: TensorIndex, keys: KeyMap) -> dict[str, Loadable]:
    assert not keys.matrices, "the authors' names change no shape"
    assert not keys.joints
    return dict(index.renamed(keys.pairs))


def _held(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, Loadable]:
    return {prefix + name: Held(value) for name, value in tensors.items()}


def _conditioner(
    config: ConditionerConfig, checkpoint: Checkpoint, found: Recognised, embeddings: Statistics | None
) -> dict[str, Loadable]:
    """The conditioner's tensors under its names in the model. Raises `InputError` for names that nobody knows."""
    own = [name for name in found.rest if name.startswith(PREFIXES)]
    _check_rest(tuple(name for name in found.rest if name not in set(own)), checkpoint)
    state = from_checkpoint(config, checkpoint.index.read(own), embeddings)
    used = conditioner_places(config, own)
    _check_rest(
        tuple(n for n in own if not n.startswith((*used, *UNUSED)) and n.split(".")[-1] not in OPENCLIP_UNUSED), checkpoint
    )
    return loadables(checkpoint.index, {f"conditioner.{name}": value for name, value in state.items()})


def conditioner_places(config: ConditionerConfig, names: list[str]) -> tuple[str, ...]:
    """Beginnings of the names that `from_checkpoint` looks at, all of which it takes or refuses."""
    parts = [part.conditioner for part in config.parts] if isinstance(config, CompositeConfig) else [config]
    found: list[str] = []
    for part in parts:
        towers = getattr(part, "towers", None)
        if towers is None:
            found += [VISION] if part.kind == "image_embedding" else [STAGE] if part.kind in _WITH_WEIGHTS else []
            continue
        for number, tower in enumerate(towers):
            several = any(name.startswith(f"{SDXL}{number}.") for name in names)
            found.append((f"{SDXL}{number}." if several else STAGE) + ("model." if tower.pad == "zero" else "transformer."))
    return tuple(found)


_WITH_WEIGHTS = ("class_embedder", "segmentation", "bert", "layout")


def _check_rest(names: tuple[str, ...], checkpoint: Checkpoint) -> None:
    if names:
        more = f" and {len(names) - MOST_SHOWN} more" if names[MOST_SHOWN:] else ""
        raise InputError(
            f"{checkpoint.path} has names that belong to no part of this model: {', '.join(names[:MOST_SHOWN])}{more}."
        )


def _fill(
    model: nn.Module,
    tensors: Mapping[str, Loadable],
    checkpoint: Checkpoint,
    device: torch.device | str,
    dtype: torch.dtype | None,
    exact: tuple[str, ...],
) -> None:
    assign(model, tensors, str(checkpoint.path), dtype=dtype, device=device, exact=exact, keep=dtype is None)
    model.requires_grad_(False).eval().to(device)
