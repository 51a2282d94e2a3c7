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
from sfumato.conditioners.label import LabelConfig
from sfumato.conditioners.none import NoneConfig
from sfumato.conditioners.text import TextConfig
from sfumato.data.annotations import find_pictures_root
from sfumato.data.audit import audit
from sfumato.data.dataset import ImageDataset
from sfumato.data.folder import ImageFolder, Record, scan
from sfumato.data.split import split
from sfumato.errors import InputError, unknown
from sfumato.first_stages.identity import IdentityConfig
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.first_stages.vq2 import VQ2Config
from sfumato.generation.limits import shorten
from sfumato.io.files import read_table, write_json
from sfumato.networks.generator import GeneratorConfig
from sfumato.training.beside import Beside
from sfumato.training.config import DataConfig, RunConfig
from sfumato.training.fit import Facts, fit, latent_channels, latent_factor, slots
from sfumato.training.fit_prior import fit_prior
from sfumato.training.start import frozen_first_stage


@dataclass(frozen=True)
class Prepared:
    """Training and held-out pictures, a summary of what the audit found, and what stands beside the pictures."""

    train: ImageDataset
    held_out: ImageDataset
    summary: dict[str, Any]
    beside: Beside


def prepare_data(directory: Path, config: DataConfig, run: Path | None) -> Prepared:
    """Audit and split a folder; writes `audit/` into `run`, unless None. Raises `InputError`.

    A folder whose names, sizes and times have not changed since its last audit is not looked through again.
    """
    folder = scan(find_pictures_root(directory))
    listing = _listing(folder)
    known = None if run is None else _last_audit(run / AUDIT)
    if known is None or known.get("listing") != listing or known.get("max_bad_fraction") != config.max_bad_fraction:
        known = _look_through(folder, listing, config, run)
    bad = {entry[0] for entry in known["bad"]}
    records = _chosen([record for record in folder.records if record.name not in bad], config)
    parts = split(records)
    classes = sorted({r.label for r in records if r.label is not None})

    def dataset(part: tuple[Record, ...]) -> ImageDataset:
        return ImageDataset(part, config.size, config.channels, config.background, config.crop, classes)

    return Prepared(dataset(parts.train), dataset(parts.validation or parts.test), known, Beside(directory))


def _chosen(records: list[Record], config: DataConfig) -> list[Record]:
    """The records that `where` lets through, with the classes that `label` names. Raises `InputError` for none."""
    for item in config.where:
        name, _, value = item.partition("=")
        if not any(name in record.row for record in records):
            raise unknown("metadata field", f"{name} of data.where", sorted({key for r in records for key in r.row}))
        records = [record for record in records if str(record.row.get(name)) == value]
        if not records:
            raise InputError(f"data.where: no picture has {shorten(item)}.")
    if config.label == DataConfig.label:
        return records
    if not any(config.label in record.row for record in records):
        raise unknown("metadata field", f"{config.label} of data.label", sorted({key for r in records for key in r.row}))
    values = [record.row.get(config.label) for record in records]
    return [dataclasses.replace(r, label=None if v is None else str(v)) for r, v in zip(records, values, strict=True)]


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
    conditioner = choose_conditioner(config, prepared.train, by_folder=prepared.summary["convention"] == "classes")
    first_stage, model = _first_stage(config), config.prior.model
    channels = latent_channels(first_stage)
    facts = Facts(prepared.train, prepared.beside, config.data.channels, config.data.size, latent_factor(first_stage), channels)
    conditioner, tokenizer = fit(conditioner, facts)
    model = fit_prior(model, slots(conditioner, channels), first_stage, config.data.size)
    prior = dataclasses.replace(config.prior, conditioner=conditioner, model=model, condition=_name(conditioner))
    first = dataclasses.replace(config.first_stage, model=first_stage)
    if isinstance(first_stage, GeneratorConfig):
        classes = len(conditioner.names) + 1 if isinstance(conditioner, LabelConfig) else 0
        judge = dataclasses.replace(first.discriminator, image_channels=config.data.channels, num_classes=classes)
        first = dataclasses.replace(first, discriminator=judge)
    return dataclasses.replace(config, first_stage=first, prior=prior), tokenizer


def _first_stage(config: RunConfig) -> FirstStageConfig:
    """The first stage that is trained, or the frozen one as it is."""
    source, channels = config.first_stage.frozen, config.data.channels
    if not source:
        return with_channels(config.first_stage.model, channels)
    found = frozen_first_stage(source).config
    own = found.image_channels if isinstance(found, IdentityConfig | GeneratorConfig) else found.network.image_channels
    if own != channels:
        raise InputError(
            f"data.channels is {channels}, and the first stage of {shorten(source)} has {own}; set data.channels={own}."
        )
    return found


def with_channels(first_stage: FirstStageConfig, channels: int) -> FirstStageConfig:
    """The first stage for pictures of `channels`; raises `InputError` where it was told of others than its default, 3."""
    match first_stage:
        case KLConfig(network=network) | VQConfig(network=network) | VQ2Config(network=network):
            given, name = network.image_channels, "first_stage.model.network.image_channels"
            fitting: FirstStageConfig = dataclasses.replace(
                first_stage, network=dataclasses.replace(network, image_channels=channels)
            )
        case IdentityConfig(image_channels=given) | GeneratorConfig(image_channels=given):
            name = "first_stage.model.image_channels"
            fitting = dataclasses.replace(first_stage, image_channels=channels)
    if given not in (IdentityConfig().image_channels, channels):
        raise InputError(f"data.channels is {channels}, but {name} is {given}; set data.channels alone, the other follows.")
    return fitting


def _name(conditioner: TrainedConditionerConfig) -> Literal["text", "class", "none", "given"]:
    match conditioner:
        case TextConfig():
            return "text"
        case LabelConfig():
            return "class"
        case NoneConfig():
            return "none"
        case _:
            return "given"


def choose_conditioner(config: RunConfig, data: ImageDataset, by_folder: bool) -> TrainedConditionerConfig:
    """Text where there are captions, else classes, else nothing; or what `condition` asks for.

    A conditioner of another kind than these, or `condition` "given", stays as it is. With classes `by_folder` the captions
    are only the folders' names, and "auto" takes the classes.
    """
    wanted, given = config.prior.condition, config.prior.conditioner
    if wanted == "given" or not isinstance(given, TextConfig | LabelConfig | NoneConfig):
        return given
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
