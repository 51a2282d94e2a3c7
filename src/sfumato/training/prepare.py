"""From a folder and a recipe to what is trained: audit, split, and a config that fits the data."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sfumato.build import FirstStageConfig, TrainedConditionerConfig
from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.label import LabelConfig
from sfumato.conditioners.none import NoneConfig
from sfumato.conditioners.text import TextConfig, TextEncoder
from sfumato.data.audit import audit
from sfumato.data.dataset import ImageDataset
from sfumato.data.folder import ImageFolder, Record, scan
from sfumato.data.split import split
from sfumato.errors import InputError, unknown
from sfumato.first_stages.identity import IdentityConfig
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.io.files import read_table, write_json
from sfumato.training.config import DataConfig, RunConfig


@dataclass(frozen=True)
class Prepared:
    """Training and held-out pictures and a summary of what the audit found."""

    train: ImageDataset
    held_out: ImageDataset
    summary: dict[str, Any]


def prepare_data(directory: Path, config: DataConfig, run: Path | None) -> Prepared:
    """Audit and split a folder; writes `audit/` into `run`, unless None. Raises `InputError`.

    A folder whose names, sizes and times have not changed since its last audit is not looked through again.
    """
    folder = scan(directory)
    listing = _listing(folder)
    known = None if run is None else _last_audit(run / AUDIT)
    if known is None or known.get("listing") != listing or known.get("max_bad_fraction") != config.max_bad_fraction:
        known = _look_through(folder, listing, config, run)
    bad = {entry[0] for entry in known["bad"]}
    records = [record for record in folder.records if record.name not in bad]
    parts = split(records)
    classes = sorted({r.label for r in records if r.label is not None})

    def dataset(part: tuple[Record, ...]) -> ImageDataset:
        return ImageDataset(part, config.size, config.channels, config.background, config.crop, classes)

    return Prepared(dataset(parts.train), dataset(parts.validation or parts.test), known)


AUDIT = "audit/audit.json"


def _last_audit(path: Path) -> dict[str, Any] | None:
    """What the last call found; None when there is nothing to be read: then it is looked through again."""
    try:
        return read_table(path)
    except InputError:
        return None


def _look_through(folder: ImageFolder, listing: str, config: DataConfig, run: Path | None) -> dict[str, Any]:
    if run is not None:
        (run / "audit").mkdir(parents=True, exist_ok=True)
    report = audit(folder, None if run is None else run / "audit" / "bad_files.jsonl", config.max_bad_fraction)
    summary = {
        "listing": listing,
        "max_bad_fraction": config.max_bad_fraction,
        "convention": report.convention,
        "lines": report.lines(),
        "bad": [[entry.name, entry.reason] for entry in report.bad],
        "num_duplicates": sum(len(group) - 1 for group in report.duplicates),
        "duplicates": [list(group) for group in report.duplicates[:1000]],
    }
    if run is not None:
        write_json(run / AUDIT, summary)
    return summary


def _listing(folder: ImageFolder) -> str:
    """A hash of the names, sizes and times of all files."""
    digest = hashlib.sha256()
    for record in folder.records:
        try:
            seen = record.path.stat()
            item = (record.name, record.offset, record.num_bytes or seen.st_size, seen.st_mtime_ns)
        except OSError:
            item = (record.name, None, 0, 0)
        digest.update(repr(item).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def adapt(config: RunConfig, prepared: Prepared) -> tuple[RunConfig, str | None]:
    """Choose the conditioner that the data allows, learn its tokenizer, give first stage and denoiser their channels.

    Returns the fitting config and the tokenizer's JSON, None without captions. Raises `InputError`.
    """
    data, tokenizer = prepared.train, None
    conditioner = choose_conditioner(config, data, by_folder=prepared.summary["convention"] == "classes")
    if isinstance(conditioner, TextConfig):
        captions = (caption for i in range(len(data)) for caption in data.captions(i))
        learned = TextEncoder.learn_tokenizer(captions, conditioner.vocabulary)
        conditioner = dataclasses.replace(conditioner, vocabulary=learned.get_vocab_size())
        tokenizer = learned.to_str()
    first_stage, model = with_channels(config.first_stage.model, config.data.channels), config.prior.model
    channels = _latent_channels(first_stage)
    context = conditioner.dim if isinstance(conditioner, TextConfig | LabelConfig) else None
    vector = conditioner.vector_dim if isinstance(conditioner, TextConfig) else None
    network = dataclasses.replace(
        model.network, in_channels=channels, out_channels=channels, context_dim=context, vector_dim=vector
    )
    prior = dataclasses.replace(
        config.prior, conditioner=conditioner, model=dataclasses.replace(model, network=network), condition=_name(conditioner)
    )
    first = dataclasses.replace(config.first_stage, model=first_stage)
    return dataclasses.replace(config, first_stage=first, prior=prior), tokenizer


def with_channels(first_stage: FirstStageConfig, channels: int) -> FirstStageConfig:
    """The first stage for pictures of `channels`; raises `InputError` where it was told of others than its default, 3."""
    match first_stage:
        case KLConfig(network=network):
            given, name = network.image_channels, "first_stage.model.network.image_channels"
            fitting: FirstStageConfig = dataclasses.replace(
                first_stage, network=dataclasses.replace(network, image_channels=channels)
            )
        case IdentityConfig(image_channels=given):
            name, fitting = "first_stage.model.image_channels", IdentityConfig(channels)
        case VQConfig():
            raise InputError(
                "first_stage.model.kind is vq, which this release runs but does not train; expected kl or identity."
            )
    if given not in (IdentityConfig().image_channels, channels):
        raise InputError(f"data.channels is {channels}, but {name} is {given}; set data.channels alone, the other follows.")
    return fitting


def _latent_channels(first_stage: FirstStageConfig) -> int:
    if isinstance(first_stage, IdentityConfig):
        return first_stage.image_channels
    return first_stage.embed_channels or first_stage.network.latent_channels


def _name(conditioner: TrainedConditionerConfig) -> Literal["text", "class", "none"]:
    match conditioner:
        case TextConfig():
            return "text"
        case LabelConfig():
            return "class"
        case NoneConfig():
            return "none"


def choose_conditioner(config: RunConfig, data: ImageDataset, by_folder: bool) -> TrainedConditionerConfig:
    """Text where there are captions, else classes, else nothing; or what `condition` asks for.

    With classes `by_folder` the captions are only the folders' names, and "auto" takes the classes.
    """
    wanted, given = config.prior.condition, config.prior.conditioner
    captions = sum(bool(data.captions(i)[0]) for i in range(len(data)))
    names = data.classes
    if wanted == "text" and not captions:
        raise InputError(
            "prior.condition=text, but no picture has a caption; put NAME.txt beside NAME.jpg or a metadata.jsonl."
        )
    if wanted == "class" and len(names) < 2:
        raise InputError(
            f"prior.condition=class, but the data has {len(names)} class folders; put pictures into one folder a class."
        )
    dim = given.dim if isinstance(given, TextConfig | LabelConfig) else 256
    if wanted == "text" or (wanted == "auto" and captions > 0.5 * len(data) and not (by_folder and len(names) > 1)):
        return given if isinstance(given, TextConfig) else TextConfig(dim=dim)
    if wanted == "class" or (wanted == "auto" and len(names) > 1):
        return LabelConfig(names=names, dim=dim)
    return NoneConfig()


def prepared_conditions(conditioner: Conditioner[str, Tensor], data: ImageDataset) -> tuple[Tensor, Tensor]:
    """Every picture's conditions (N, V, ...) and how many of its V variants count (N,)."""
    inputs = [conditions_of(conditioner, data, i) for i in range(len(data))]
    counts = torch.tensor([len(v) for v in inputs])
    most = int(counts.max())
    flat = [variants[min(k, len(variants) - 1)] for variants in inputs for k in range(most)]
    prepared = conditioner.prepare(flat)
    return prepared.unflatten(0, (len(data), most)), counts


def sampling_weights(data: ImageDataset, field: str, balance: float) -> Tensor | None:
    """How often each picture (N,) is drawn, summing to 1, for `balance_by` and `balance`; None for all alike.

    Raises `InputError` when no picture has that field.
    """
    if not field:
        return None
    values = [record.row.get(field) for record in data.records]
    if all(value is None for value in values):
        known = sorted({name for record in data.records for name in record.row})
        raise unknown("metadata field", f"{field} of prior.balance_by", known)
    names = [f"={value}" if value is not None else str(index) for index, value in enumerate(values)]
    counts = Counter(names)
    weights = torch.tensor([counts[name] ** -balance for name in names], dtype=torch.float64)
    return (weights / weights.sum()).float()


def conditions_of(conditioner: Conditioner[str, Tensor], data: ImageDataset, index: int) -> list[str]:
    """The variants of one picture's input, at least one."""
    if isinstance(conditioner, TextEncoder):
        return list(data.captions(index))
    label = data.label(index)
    return ["" if label is None else data.classes[label]]
