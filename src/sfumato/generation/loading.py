"""From what a user names to a loaded model: one that ships, a model directory, or one that others published, with LoRAs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sfumato.errors import InputError, unknown
from sfumato.generation.limits import shorten
from sfumato.generation.precision import find_dtype, turn_parameters
from sfumato.io.pretrained import LoadedModel, load_pretrained, shipped_models

if TYPE_CHECKING:
    from sfumato.interop.cards import Card
    from sfumato.interop.lora import Lora
    from sfumato.interop.merge import Scale

AVERAGES = "ema"  # `sfumato.interop.ema.Weights.ema`

CHECKPOINTS = (".ckpt", ".safetensors")
"""How published files end: a name that ends so is a path, and none of ours or of the hub's."""


@dataclass(frozen=True)
class Place:
    """Where a model lies, and whether it is one that others published. `name`: of one from the hub, with its commit."""

    path: Path
    published: bool
    name: str | None = None

    @staticmethod
    def of(name_or_path: str | Path) -> Place:
        path = Path(name_or_path)
        if str(name_or_path) in shipped_models():
            return Place(path, False)
        try:
            if path.exists():
                return Place(path, path.is_file() or (path / "model_index.json").is_file())
        except (OSError, ValueError):  # no path can have this name: too long, a NUL
            return Place(path, False)
        if path.suffix.lower() in CHECKPOINTS and ":" not in str(path):  # not OWNER/NAME:FILE on the hub
            raise InputError(f"no such file: {str(path)[:200]}.")
        from sfumato.interop.hub import from_hub, is_repository, repository

        if not is_repository(str(name_or_path)) or path.parent.exists():  # runs/photo, where there is a runs: a slip
            return Place(path, False)
        snapshot = from_hub(repository(str(name_or_path)))
        return Place(snapshot.path, True, snapshot.pinned)


@dataclass(frozen=True)
class Published:
    """What only published models are read with: which one it is, its averages or raw weights, BERT's words, its hash anew."""

    card: str | Card | None = None
    weights: str = AVERAGES
    vocabulary: Path | None = None
    verify: bool = False


def load_place(
    place: Place,
    given: str | Path,
    device: torch.device,
    published: Published,
    loras: Sequence[tuple[str | Path, Scale]],
    dtype: str | torch.dtype,
) -> LoadedModel:
    """The model of `place`, which the user called `given`, on `device`, its networks in `dtype`. Raises as `pipeline.load`."""
    kind = find_dtype(dtype, device, place.published)
    if place.published:
        return _load_published(place, device, published, loras, kind)
    if published.card is not None or published.vocabulary is not None or published.weights != AVERAGES:
        raise InputError(
            f"card, weights and vocabulary are for published models (.ckpt, .safetensors, diffusers folders); "
            f"{shorten(str(given))} is none."
        )
    changes = _read_loras(loras)
    loaded = load_pretrained(given, device)
    if changes:
        loaded = _with_loras(loaded, loaded.name, changes)
    if kind is not torch.float32:
        turn_parameters(loaded.model, kind)
    return loaded


def _load_published(
    place: Place,
    device: torch.device,
    published: Published,
    loras: Sequence[tuple[str | Path, Scale]],
    dtype: torch.dtype,
) -> LoadedModel:
    from sfumato.interop.ema import Weights  # with its cards and key maps: only who has such a file waits for them
    from sfumato.interop.load import load_published

    if published.weights not in [known.value for known in Weights]:
        raise unknown("weights", str(published.weights)[:40], [known.value for known in Weights])
    changes = _read_loras(loras)
    loaded = load_published(
        place.path,
        weights=Weights(published.weights),
        card=published.card,
        vocabulary=published.vocabulary,
        device=device,
        dtype=dtype,
        verify=published.verify,
    )
    return _with_loras(loaded, place.name or loaded.name, changes)


def _read_loras(loras: Sequence[tuple[str | Path, Scale]]) -> list[tuple[Lora, Scale]]:
    """LoRA files with their scales, before the model is loaded: what is wrong with them is said at once."""
    if not loras:
        return []
    from sfumato.interop.lora import read_lora

    return [(read_lora(path), scale) for path, scale in loras]


def _with_loras(loaded: LoadedModel, name: str, changes: Sequence[tuple[Lora, Scale]]) -> LoadedModel:
    """The model `name` with LoRAs added to its weights, each by its scale, and named after them too."""
    from sfumato.interop.merge import merge, scale_text

    merge(loaded.model, changes)
    return replace(loaded, name=" + ".join([name, *(f"{lora.path.stem}:{scale_text(scale)}" for lora, scale in changes)]))
