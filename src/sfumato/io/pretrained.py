"""A model is a directory: config.json, model.safetensors, tokenizer.json, README.md and a manifest of hashes.

Models over one first stage need not each hold it: `"shares": {"model": NAME, "hash": ...}` in a config.json says that the first
stage's weights are those of a shipped model, whose hash is checked.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.build import ModelConfig, build_model
from sfumato.config import from_dict, to_dict
from sfumato.diffusion.grids import Spacing
from sfumato.errors import InputError, unknown
from sfumato.io.files import MANIFEST, check_manifest, new_directory, read_json, write_bytes, write_json
from sfumato.io.storage import Storage
from sfumato.io.stream import write_tensors
from sfumato.io.weights import load_strictly, pack, read_stored, read_weights, save_weights
from sfumato.model import LatentModel

ASSETS = Path(__file__).resolve().parent.parent / "assets"
CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"
SHARES, FIRST_STAGE = "shares", "first_stage."
FORMAT = 1


@dataclass(frozen=True)
class SamplingDefaults:
    """What `generate` uses where the user says nothing.

    `spacing`: the plan of times, none for the sampler's own. `guidance_interval`: (low, high) in t, or none. The last three are
    for priors that are no diffusion: `temperature` of codes or of noise, `top_k` and `top_p` of codes, none for all of them.
    """

    sampler: str = "dpmpp_2m"
    spacing: str | None = None
    steps: int = 20
    guidance: float = 4.0
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.spacing is not None and self.spacing not in [s.value for s in Spacing]:
            raise unknown("spacing", self.spacing, [s.value for s in Spacing])


@dataclass(frozen=True)
class LoadedModel:
    """A model with what its directory says of it. `hash`: first ten hex digits of the weights' SHA-256."""

    model: LatentModel
    config: ModelConfig
    defaults: SamplingDefaults
    name: str
    hash: str
    path: Path


def shipped_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(p.parent.name for p in ASSETS.glob(f"*/{CONFIG}"))


def find_model(name_or_path: str | Path) -> Path:
    """The directory of a shipped model's name or of a path. Raises `InputError` for anything else."""
    if str(name_or_path) in shipped_models():
        return ASSETS / str(name_or_path)
    try:
        found = _directory(Path(name_or_path))
    except InputError:
        raise
    except (OSError, ValueError):  # no path can have this name: too long, a NUL
        found = None
    if found is None:
        raise unknown("model", str(name_or_path)[:200], shipped_models(), "or the path of a model directory")
    return found


def _directory(path: Path) -> Path | None:
    if (path / "model" / CONFIG).is_file():  # a training run keeps its result in `model`, and a config.json of its own
        return path / "model"
    if (path / CONFIG).is_file():
        return path
    if path.is_dir():
        raise InputError(f"{path} holds no {CONFIG}; expected a model directory, as `sfumato train` writes under RUN/model.")
    if path.exists():
        raise InputError(f"{path} is a file; expected a model directory or one of: {', '.join(shipped_models())}.")
    return None


def save_pretrained(
    directory: Path,
    model: LatentModel,
    config: ModelConfig,
    *,
    defaults: SamplingDefaults | None = None,
    name: str = "model",
    card: str = "",
    storage: Storage | None = Storage.fp16,
) -> None:
    """Write a model directory, whole or not at all. Statistics stay in fp32 in every `storage`; None: all types stay."""
    tokenizer = getattr(model.conditioner, "tokenizer_json", None)
    with new_directory(directory) as folder:
        if storage is None:
            write_tensors(folder / WEIGHTS, model.state_dict())
        else:
            save_weights(folder / WEIGHTS, pack(model.state_dict(), storage, _exact(model)))
        settings = {
            "format": FORMAT,
            "name": name,
            "model": to_dict(config),
            "sampling": to_dict(defaults or SamplingDefaults()),
        }
        write_json(folder / CONFIG, settings)
        if tokenizer is not None and (text := tokenizer()) is not None:
            write_bytes(folder / TOKENIZER, text.encode())
        write_bytes(folder / CARD, card.encode())


def _exact(model: LatentModel) -> tuple[str, ...]:
    """Beginnings of the names of statistics: the first stage's, and every buffer of the conditioner."""
    own = (f"conditioner.{name}" for name, _ in model.conditioner.named_buffers())
    return ("first_stage.shift", "first_stage.scale", "first_stage.preview", *own)


def read_config(path: Path) -> tuple[ModelConfig, SamplingDefaults, str]:
    """The model's config, sampling defaults and name from its directory."""
    data: Any = read_json(path / CONFIG)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise InputError(f"{path / CONFIG} has format {found!r}; this release reads format {FORMAT}.")
    defaults = from_dict(SamplingDefaults, data.get("sampling", {}), "sampling")
    return from_dict(ModelConfig, data.get("model"), "model"), defaults, str(data.get("name", path.name))


def load_pretrained(name_or_path: str | Path, device: torch.device | str = "cpu", verify: bool = True) -> LoadedModel:
    """Read a model directory or a shipped model's name onto `device`, in fp32, ready to sample.

    Every file is compared with the manifest first unless `verify` is False. Raises `InputError`.
    """
    path = find_model(name_or_path)
    if verify:
        check_manifest(path)
    digest = read_hash(path)
    config, defaults, name = read_config(path)
    tokenizer = read_tokenizer(path)
    model = build_model(config, tokenizer)
    load_strictly(model, model_weights(path), str(path / WEIGHTS))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return LoadedModel(model.eval().to(device), config, defaults, name, digest, path)


def model_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a model directory, with those of a first stage that it shares. Raises `InputError`."""
    weights = read_weights(path / WEIGHTS)
    shares = read_json(path / CONFIG).get(SHARES)
    if shares is None:
        return weights
    owner = str(shares.get("model")) if isinstance(shares, dict) else ""
    if owner not in shipped_models():
        raise InputError(f"{path / CONFIG} shares the first stage of {owner!r}, which this release does not ship.")
    if (found := read_hash(ASSETS / owner)) != shares.get("hash"):
        raise InputError(
            f"{path / CONFIG} shares the first stage of {owner} {shares.get('hash')}, and this release has {owner} {found}; "
            "take the release that the model was made with."
        )
    return {**_first_stage(read_weights(ASSETS / owner / WEIGHTS)), **weights}


def share_first_stage(name_or_path: str | Path, owner: str, target: Path) -> LoadedModel:
    """Write a model again without its first stage, which is that of the shipped model `owner`; returns the one it was.

    Raises `InputError` when the two first stages differ by more than the rounding of an int8 tensor's scale.
    """
    if owner not in shipped_models():
        raise unknown("shipped model", owner[:100], shipped_models())
    loaded = load_pretrained(name_or_path)
    own, theirs = (_first_stage(model_weights(path)) for path in (loaded.path, ASSETS / owner))
    if own.keys() != theirs.keys() or not all(_alike(own[k], theirs[k]) for k in own):
        raise InputError(
            f"{loaded.path} has another first stage than {owner}; train it with --first-stage {owner}, and store both alike."
        )
    with new_directory(target) as folder:
        rest = {k: v for k, v in read_stored(loaded.path / WEIGHTS).items() if not k.startswith(FIRST_STAGE)}
        save_weights(folder / WEIGHTS, rest)
        settings: Any = read_json(loaded.path / CONFIG)
        write_json(folder / CONFIG, {**settings, SHARES: {"model": owner, "hash": read_hash(ASSETS / owner)}})
        for file in (TOKENIZER, CARD):
            if (loaded.path / file).is_file():
                write_bytes(folder / file, (loaded.path / file).read_bytes())
    return loaded


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=1e-6, atol=0)


def _first_stage(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name.startswith(FIRST_STAGE)}


def convert_pretrained(name_or_path: str | Path, target: Path, storage: Storage) -> LoadedModel:
    """Write a model again as `storage`, whole or not at all, its other files byte for byte; returns the one it was.

    What a smaller storage has rounded does not come back in a larger one. Raises `InputError` as `load_pretrained` does.
    """
    loaded = load_pretrained(name_or_path)
    with new_directory(target) as folder:
        save_weights(folder / WEIGHTS, pack(loaded.model.state_dict(), storage, _exact(loaded.model)))
        settings: Any = read_json(loaded.path / CONFIG)
        write_json(folder / CONFIG, {key: value for key, value in settings.items() if key != SHARES})
        for name in (TOKENIZER, CARD):
            if (loaded.path / name).is_file():
                write_bytes(folder / name, (loaded.path / name).read_bytes())
    return loaded


def read_hash(path: Path) -> str:
    """First ten hex digits of the weights' SHA-256, as a model directory's manifest has it. Raises `InputError`."""
    try:
        return str(read_json(path / MANIFEST)["files"][WEIGHTS]["sha256"])[:10]
    except (KeyError, TypeError):
        raise InputError(f"{path / MANIFEST} has no hash of {WEIGHTS}; the folder is damaged, restore it.") from None


def read_tokenizer(directory: Path) -> str | None:
    """The JSON of a model directory's tokenizer, if it has one. Raises `InputError` when it is damaged."""
    path = directory / TOKENIZER
    try:
        return path.read_text("utf-8") if path.is_file() else None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; the file is damaged, restore it.") from None


def with_defaults(loaded: LoadedModel, **changes: Any) -> LoadedModel:
    """A copy with other sampling defaults."""
    return dataclasses.replace(loaded, defaults=dataclasses.replace(loaded.defaults, **changes))
