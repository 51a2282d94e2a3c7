"""What a file or folder of weights is, in facts: told from names, shapes and what stands beside them, no tensor read.

Only `values=True` reads the numbers, to find those that are not finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sfumato.conditioners.checkpoint import PREFIXES
from sfumato.errors import InputError
from sfumato.interop import compvis, diffusers_config
from sfumato.interop.cards import CARDS, Card
from sfumato.interop.checkpoint import Checkpoint, open_checkpoint
from sfumato.interop.choose import candidates, stated
from sfumato.interop.folder_schedules import scheduler_of
from sfumato.interop.folders import Part
from sfumato.interop.hashes import verify_files
from sfumato.interop.index import TensorIndex
from sfumato.interop.inspect_lora import LoraFacts, lora_facts
from sfumato.interop.load import conditioner_in, conditioner_places, recognise_checkpoint, scale_buffer
from sfumato.interop.lora import is_lora, lora_file, read_lora
from sfumato.interop.markers import FOREIGN, foreign, found_in
from sfumato.interop.rebuild import shown
from sfumato.interop.recognise import Kind, Recognised
from sfumato.interop.shapes import without_heads

SHOWN = 3


@dataclass(frozen=True)
class Portion:
    """A part of the weights. `what`: the class or the architecture."""

    name: str
    what: str
    tensors: int
    parameters: int


@dataclass(frozen=True)
class Inspection:
    """What is known of a checkpoint; None or empty where nothing says it.

    kind: the format. family, task, cards: of the published models that it may be. types: numbers of each type. prediction,
    schedule, scale_factor, image_size (height, width): what those models agree on. averages: whether EMA weights stand beside
    the raw ones. step, epoch: of its training. sha256: of its files by path, when they were verified. lora: of a LoRA file.
    markers: tensors that say the prediction or the schedule. oddities: sentences about what is missing or strange.
    """

    path: str
    kind: str
    bytes: int
    family: str | None = None
    task: str | None = None
    cards: tuple[str, ...] = ()
    pipeline: str | None = None
    portions: tuple[Portion, ...] = ()
    types: Mapping[str, int] | None = None
    prediction: str | None = None
    schedule: str | None = None
    scale_factor: float | None = None
    image_size: tuple[int, int] | None = None
    averages: bool = False
    step: int | None = None
    epoch: int | None = None
    yaml: str | None = None
    sha256: Mapping[str, str] | None = None
    lora: LoraFacts | None = None
    markers: tuple[str, ...] = ()
    oddities: tuple[str, ...] = ()


def inspect(path: str | Path, *, values: bool = False, verify: bool = False) -> Inspection:
    """Look at a .ckpt, a .safetensors or a diffusers folder. `values` reads every number and looks for NaN and infinity,
    `verify` hashes every file, also one whose hash is remembered.

    Raises `InputError` for what is none of these, is damaged, or has other bytes than the hash that is remembered of it. A file
    of another architecture is described as far as it goes.
    """
    checkpoint = open_checkpoint(lora_file(Path(path)) or path)
    facts = Inspection(
        path=str(checkpoint.path),
        kind=checkpoint.kind.value,
        bytes=checkpoint.index.nbytes,
        pipeline=checkpoint.pipeline,
        types={str(kind).removeprefix("torch."): count for kind, count in checkpoint.index.dtypes.items()},
        step=checkpoint.metadata.step,
        epoch=checkpoint.metadata.epoch,
        yaml=None if checkpoint.yaml is None else str(checkpoint.yaml.path),
        sha256=verify_files(checkpoint.files) if verify else None,
    )
    if is_lora(checkpoint.index):
        facts = _of_lora(facts, checkpoint)
    else:
        facts = _of_folder(facts, checkpoint) if checkpoint.components else _of_file(facts, checkpoint)
    if values:
        facts = replace(facts, oddities=(*facts.oddities, *_not_finite(checkpoint.index)))
    return facts


def _of_lora(facts: Inspection, checkpoint: Checkpoint) -> Inspection:
    index = checkpoint.index
    try:
        found, oddities = lora_facts(read_lora(checkpoint.path))
    except InputError as error:
        whole = Portion("tensors", "a LoRA or a relative of it", len(index), index.numel)
        return replace(facts, portions=(whole,), oddities=(str(error),))
    whole = Portion("LoRA", "low-rank changes of weights", len(index), index.numel)
    family = " or ".join(found.families) or None
    return replace(facts, family=family, cards=found.cards, portions=(whole,), lora=found, oddities=tuple(oddities))


def _of_file(facts: Inspection, checkpoint: Checkpoint) -> Inspection:
    index = checkpoint.index
    try:
        found = recognise_checkpoint(checkpoint)
    except InputError as error:
        whole = Portion("tensors", "not recognised", len(index), index.numel)
        return replace(facts, portions=(whole,), oddities=(str(error),))
    cards = candidates(found, checkpoint)
    names = _published(found, cards)
    oddities = [*_missing(found, cards, checkpoint), *_strange(found, cards, checkpoint)]
    facts = replace(_of_cards(facts, cards), cards=names, averages=found.has_ema)
    factor = scale_buffer(checkpoint)
    if factor is not None and not 0 < factor < float("inf"):
        oddities.append(f"its scale_factor is {factor}.")
    elif factor is not None:
        if facts.scale_factor is not None and abs(factor / facts.scale_factor - 1) > 1e-4:
            oddities.append(f"its scale_factor is {factor:.6g}, that of the published model {facts.scale_factor:.6g}.")
        facts = replace(facts, scale_factor=factor)
    if (said := foreign(index)) is not None:
        oddities.append(f"{said}, which has no form here.")
    return replace(facts, portions=_portions(found, index), oddities=tuple(oddities), markers=found_in(index))


def _published(found: Recognised, cards: list[Card]) -> tuple[str, ...]:
    """Names of the cards, with those that are the same but for their names; of first stages, where there is no U-Net."""
    if found.kind is Kind.first_stage:
        return tuple(card.name for card in found.first_stage_cards)
    twins = [one for one in found.cards if any(replace(one, name=c.name, source=c.source) == c for c in cards)]
    return tuple(dict.fromkeys(one.name for one in (*cards, *twins)))


def _of_cards(facts: Inspection, cards: list[Card]) -> Inspection:
    """What all the cards say alike."""
    if not cards:
        return facts
    sizes = {card.image_size for card in cards}
    factors = {card.scale_factor for card in cards}
    return replace(
        facts,
        family=_one(card.family.value for card in cards),
        task=_one(card.task.value for card in cards),
        cards=tuple(card.name for card in cards),
        prediction=_one(card.prior.prediction.value for card in cards),
        schedule=_one(_schedule(card) for card in cards),
        scale_factor=factors.pop() if len(factors) == 1 else None,
        image_size=sizes.pop() if len(sizes) == 1 else None,
    )


def _schedule(card: Card) -> str:
    s = card.prior.schedule
    zero = ", zero terminal SNR" if s.zero_terminal_snr else ""
    return f"{s.name.value}, beta {s.beta_start:g} to {s.beta_end:g}, {s.num_steps} steps{zero}"


def _one(values: Iterable[str]) -> str:
    """The value, or all of them with "or" between."""
    return " or ".join(dict.fromkeys(values))


def _portions(found: Recognised, index: TensorIndex) -> tuple[Portion, ...]:
    parts: list[Portion] = []
    keys = found.keys().pairs
    for ours, name, what in (
        (compvis.OUR_UNET, "U-Net", "" if found.unet is None else f"{found.unet.channels} channels"),
        (compvis.OUR_FIRST_STAGE, "first stage", "" if found.first_stage is None else _stage(found)),
    ):
        inside = [theirs for our, theirs in keys.items() if our.startswith(ours)]
        if inside:
            parts.append(_portion(name, what, inside, index))
    conditioner = [name for name in found.rest if name.startswith(PREFIXES)]
    if conditioner:
        parts.append(_portion("conditioner", ", ".join(_tops(conditioner)), conditioner, index))
    averages = [name for name in index if name.startswith(compvis.EMA) and name not in compvis.EMA_COUNTERS]
    if averages:
        parts.append(_portion("averages (EMA)", "of the U-Net", averages, index))
    return tuple(parts)


def _stage(found: Recognised) -> str:
    stage = found.first_stage
    assert stage is not None
    codes = f", {stage.codebook_size} codes" if hasattr(stage, "codebook_size") else ""
    return f"{stage.kind} of factor {stage.network.factor}, {stage.network.latent_channels} channels{codes}"


def _portion(name: str, what: str, names: list[str], index: TensorIndex) -> Portion:
    return Portion(name, what, len(names), sum(index[one].numel for one in names))


def _tops(names: Iterable[str]) -> list[str]:
    return sorted({shown(name.split(".")[0]) for name in names})


def _missing(found: Recognised, cards: list[Card], checkpoint: Checkpoint) -> list[str]:
    if found.kind is Kind.first_stage:
        return []
    faults = ["no first stage: it cannot draw by itself."] if found.first_stage is None else []
    for card in cards[:1]:
        config = conditioner_in(card, checkpoint.index)
        places = conditioner_places(config, list(found.rest))
        absent = [place for place in places if not any(name.startswith(place) for name in found.rest)]
        if absent:
            faults.append(f"no {_encoder(card)}: nothing is named {' or '.join(f'{place}*' for place in absent)}.")
    if not cards:
        near = f"; the nearest is {found.relative.name}, with other input channels" if found.relative else ""
        faults.append(f"the architecture of no published model{near}.")
    return faults


def _encoder(card: Card) -> str:
    text = any("text" in condition.source.value or "BERT" in condition.source.value for condition in card.conditions)
    return "text encoder" if text else "conditioner"


def _strange(found: Recognised, cards: list[Card], checkpoint: Checkpoint) -> list[str]:
    faults = []
    unknown = [name for name in found.rest if not name.startswith(PREFIXES) and name not in FOREIGN]
    if unknown:
        more = ", ..." if unknown[SHOWN:] else ""
        faults.append(f"{len(unknown)} names of no known part: {', '.join(map(shown, unknown[:SHOWN]))}{more}.")
    facts = stated(checkpoint)
    if found.cards and checkpoint.yaml is not None and not any(facts.fit(card) for card in found.cards):
        known = ", ".join(card.name for card in found.cards)
        faults.append(f"the yaml beside it contradicts the published models of this architecture ({known}).")
    if len(cards) > 1:
        faults.append(f"may be {' or '.join(card.name for card in cards)}, which have the same shapes.")
    return faults


_ENCODERS = (Part.text_encoder, Part.image_encoder)


def _of_folder(facts: Inspection, checkpoint: Checkpoint) -> Inspection:
    """A diffusers folder: its own config files say what its parts are."""
    portions, oddities = [], []
    for name, part in checkpoint.components.items():
        if part.index is not None:
            portions.append(Portion(name, part.class_name, len(part.index), part.index.numel))
    cards, fault = _folder_cards(checkpoint)
    if fault:
        oddities.append(fault)
    kinds = {part.part for part in checkpoint.components.values()}
    if Part.denoiser in kinds and Part.first_stage not in kinds:
        oddities.append("no first stage: it cannot draw by itself.")
    wants = [card for card in cards if any(condition.slot == "context" for condition in card.conditions)]
    if wants and checkpoint.pipeline is not None and not kinds.intersection(_ENCODERS):
        oddities.append("no text encoder.")
    facts = _of_cards(replace(facts, portions=tuple(portions)), cards)
    if Part.depth_estimator in kinds:
        oddities.append("its depth estimator is not read: depth maps are given with the prompt.")
    scheduler = scheduler_of(checkpoint)
    if isinstance(scheduler.get("prediction_type"), str):
        facts = replace(facts, prediction={"epsilon": "eps", "v_prediction": "v"}.get(scheduler["prediction_type"], "other"))
    return replace(facts, oddities=tuple(oddities))


def _folder_cards(checkpoint: Checkpoint) -> tuple[list[Card], str | None]:
    """(published models with the folder's U-Net and first stage, what keeps a part from being one of ours)."""
    unet = next((c for c in checkpoint.components.values() if c.part is Part.denoiser), None)
    stage = next((c for c in checkpoint.components.values() if c.part is Part.first_stage), None)
    if unet is None:
        return [], None
    try:
        config = without_heads(diffusers_config.unet_config(unet.config))
        first = None if stage is None else diffusers_config.first_stage_config(stage.config)
    except (InputError, ValueError, TypeError, KeyError) as error:
        return [], f"a part has no form here: {' '.join(str(error).split())}"
    scheduler = scheduler_of(checkpoint)
    said = {"epsilon": "eps", "v_prediction": "v"}.get(str(scheduler.get("prediction_type")))
    alike = [c for c in CARDS if without_heads(c.unet) == config and first in (None, c.first_stage)]
    fitting = [card for card in alike if said in (None, card.prior.prediction.value)] or alike
    return fitting, None if alike else "the architecture of no published model."


def _not_finite(index: TensorIndex) -> list[str]:
    wrong = [
        name for name, entry in index.items() if entry.dtype.is_floating_point and not bool(_finite(entry.read(torch.float32)))
    ]
    more = ", ..." if wrong[SHOWN:] else ""
    return [f"{len(wrong)} tensors hold NaN or infinity: {', '.join(map(shown, wrong[:SHOWN]))}{more}."] if wrong else []


def _finite(value: torch.Tensor) -> torch.Tensor:
    return torch.isfinite(value.sum(dtype=torch.float64))  # of finite fp32 numbers a sum in float64 never overflows
