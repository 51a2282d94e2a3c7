"""LoRA files: a small change of a model's weights, as two thin matrices for each layer that it changes.

    W' = W + scale * (alpha / rank) * up @ down        up (out, r), down (r, in); convolutions: (out, r, 1, 1), (r, in, kh, kw)

Hu et al. 2021 (arXiv 2106.09685, Eq. 3). `rank` is seen in the shapes, `alpha` stands in the file or is the rank. Files of
kohya's scripts name a layer with underscores (`lora_unet_down_blocks_0_...`), those of PEFT and diffusers with dots
(`unet.down_blocks.0...`). Relatives of LoRA that are other formulas (DoRA, LoHa, LoKr and more) are refused by name. Which
weight of a model a name means is for `merge`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.interop.checkpoint import Checkpoint, open_file
from sfumato.interop.index import TensorEntry, TensorIndex
from sfumato.interop.keys import MOST_SHOWN

FOLDER_FILES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
)
ADAPTER_CONFIG, ADAPTER_NOTES = "adapter_config.json", "lora_adapter_metadata"
MAX_JSON = 10**6

_DOWN_UP = (
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora_down.weight", ".lora_up.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
)
"""Ends of the names of the two matrices."""
_RELATIVES = (
    ("DoRA", re.compile(r".*\.(dora_scale|lora_magnitude_vector(\..+)?)")),
    ("LoHa", re.compile(r".*\.hada_[\w.]+")),
    ("LoKr", re.compile(r".*\.lokr_[\w.]+")),
    ("LoCon in Tucker form", re.compile(r".*\.lora_mid\.weight")),
    ("OFT", re.compile(r".*\.b?oft_[\w.]+")),
    ("IA3", re.compile(r".*\.(on_input|ia3_[\w.]+)")),
    ("VeRA", re.compile(r".*\.vera_[\w.]+")),
    ("LoRA of a table of embeddings", re.compile(r".*\.lora_embedding_[AB](\..+)?")),
    ("LoRA with biases", re.compile(r".*\.lora_(B|up)\.(default\.)?bias")),
)
_BESIDE = (
    ("LoRA with whole differences of weights", re.compile(r".*\.(diff|diff_b|set_weight)")),
    ("LoRA with embeddings of new words", re.compile(r"(bundle_emb|emb_params)\..*")),
)
"""What other formulas call their tensors, and what else may stand in a file of LoRA."""
_EARLIER = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""Names of a text encoder's layers in files written before diffusers knew PEFT."""
_COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class LowRank:
    """The change of one weight. down (r, in, ...), up (out, r, ...); `factor` is alpha / rank."""

    down: TensorEntry
    up: TensorEntry
    factor: float = 1.0

    @property
    def rank(self) -> int:
        """r."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it changes: (out, in, ...)."""
        return (self.up.shape[0], *self.down.shape[1:])

    def delta(self, device: torch.device | str = "cpu") -> Tensor:
        """factor * up @ down, fp32, as a matrix: `shape` flattened after its first dimension.

        Raises `InputError` where it is not finite.
        """
        down, up = (part.read(torch.float32).to(device).flatten(1) for part in (self.down, self.up))
        change = (up @ down).mul_(self.factor)
        if not change.isfinite().all():
            raise InputError(f"{self.down.file.path} holds NaN or numbers without bound; get the LoRA again.")
        return change


@dataclass(frozen=True)
class Lora:
    """A LoRA file. `layers`: changes by the layer's name in the file; `notes`: what the file says beside its tensors."""

    path: Path
    layers: Mapping[str, LowRank]
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that occur, in order."""
        return tuple(sorted({layer.rank for layer in self.layers.values()}))

    @property
    def numel(self) -> int:
        """Numbers in all its matrices."""
        return sum(layer.down.numel + layer.up.numel for layer in self.layers.values())


def read_lora(path: str | Path) -> Lora:
    """A LoRA file (.safetensors, .pt, .bin), or a folder that holds one as diffusers or PEFT save it. Matrices stay unread.

    Raises `InputError`, one line, for a file that is no LoRA or another kind, and for a part that is missing or does not fit.
    """
    file = _file(Path(path))
    found = open_file(file)
    layers, alphas = _sorted(found.index, file)
    settings = _settings(found, file)
    changes: dict[str, LowRank] = {}
    for stem, (down, up) in layers.items():
        name = _today(stem)
        if name in changes:
            raise InputError(f"{file} changes {name} twice, under two of its names; it is damaged or two files in one.")
        _check_pair(file, stem, down, up)
        rank = down.shape[0]
        if stem in alphas:
            alpha = _number(file, f"{stem}.alpha", alphas.pop(stem))
        else:
            alpha = settings.alpha(name, rank)
        changes[name] = LowRank(down, up, alpha / rank)
    if alphas:
        raise InputError(f"{file} has alpha without matrices for {_shown(alphas)}; it is not whole, get it again.")
    notes = {key: value for key, value in found.metadata.facts.items() if isinstance(value, str)}
    return Lora(file, changes, notes)


def is_lora(index: Iterable[str]) -> bool:
    """Whether names of tensors are a LoRA's, or one of its relatives'."""
    names = list(index)
    ends = tuple(end for pair in _DOWN_UP for end in pair)
    return any(name.endswith(ends) or any(kind.fullmatch(name) for _, kind in _RELATIVES) for name in names)


@dataclass(frozen=True)
class _Settings:
    """PEFT's own settings: alpha by component ("" for all), and by the end of a layer's name."""

    tables: Mapping[str, Mapping[str, Any]]
    source: str

    def alpha(self, name: str, rank: int) -> float:
        """Of a layer without an alpha among the tensors: PEFT's, else the rank."""
        component, _, inner = name.partition(".")
        if component not in self.tables:
            component, inner = "", name
        table = self.tables.get(component)
        if not table:
            return float(rank)
        value = table.get("lora_alpha", rank)
        for end, other in (table.get("alpha_pattern") or {}).items():
            if f".{inner}".endswith(f".{end}"):
                value = other
                break
        if type(value) not in (int, float) or not math.isfinite(value):
            raise InputError(f"{self.source} has alpha {str(value)[:40]!r} for {name}; expected a finite number.")
        return value * math.sqrt(rank) if table.get("use_rslora") else float(value)


def lora_file(path: Path) -> Path | None:
    """The LoRA in a folder as diffusers or PEFT save it; None for a file, and for a folder without one."""
    try:
        return next((path / name for name in FOLDER_FILES if (path / name).is_file()), None)
    except (OSError, ValueError):  # no path can have this name
        return None


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = lora_file(path)
    if found is None:
        raise InputError(f"{path} holds no LoRA ({', '.join(FOLDER_FILES)}); give the file itself.")
    return found


def _sorted(index: TensorIndex, file: Path) -> tuple[dict[str, tuple[TensorEntry, TensorEntry]], dict[str, TensorEntry]]:
    """(name of a layer in the file -> down, up; -> alpha). Every tensor has a place in it, or the file is refused."""
    _check_kind(index, file)
    downs: dict[str, TensorEntry] = {}
    ups: dict[str, TensorEntry] = {}
    alphas: dict[str, TensorEntry] = {}
    strange = []
    for name, entry in index.items():
        for down, up in _DOWN_UP:
            if name.endswith((down, up)):
                side, end = (downs, down) if name.endswith(down) else (ups, up)
                side[name.removesuffix(end)] = entry
                break
        else:
            if name.endswith(".alpha"):
                alphas[name.removesuffix(".alpha").removesuffix("_lora")] = entry
            else:
                strange.append(name)
    if not downs and not ups:
        raise InputError(f"{file} is no LoRA: its first tensors are {', '.join(sorted(index)[:3])}.")
    if strange:
        raise InputError(f"{file} holds {len(strange)} tensors that no LoRA has ({_shown(strange)}).")
    for wanted, given, what in ((downs, ups, "up"), (ups, downs, "down")):
        alone = [stem for stem in wanted if stem not in given]
        if alone:
            raise InputError(f"{file} lacks the {what} matrix of {_shown(alone)}; it is not whole, get it again.")
    return {stem: (downs[stem], ups[stem]) for stem in downs}, alphas


def _check_kind(index: TensorIndex, file: Path) -> None:
    for name in index:
        for kind, pattern in _RELATIVES + _BESIDE:
            if pattern.fullmatch(name):
                raise InputError(f"{file} is {kind} ({name[:120]}), which is not merged here; expected plain LoRA (down, up).")


def _check_pair(file: Path, stem: str, down: TensorEntry, up: TensorEntry) -> None:
    told = f"{file}: {stem[:150]} has down {down.shape} and up {up.shape}"
    if not (down.dtype.is_floating_point and up.dtype.is_floating_point):
        raise InputError(f"{file}: {stem[:150]} has type {down.dtype} and {up.dtype}; expected floating-point numbers.")
    if (
        not 2 <= len(down.shape) <= 5
        or not 2 <= len(up.shape) <= 5
        or up.shape[1] != down.shape[0]
        or not down.numel * up.numel
    ):
        raise InputError(f"{told}; expected (rank, in) and (out, rank) of one rank from 1.")
    if any(size != 1 for size in up.shape[2:]):
        raise InputError(f"{told}; expected an up of 1 x 1.")


def _number(file: Path, name: str, entry: TensorEntry) -> float:
    if entry.numel != 1 or entry.dtype.is_complex or entry.dtype == torch.bool:
        raise InputError(f"{file}: {name[:150]} has shape {entry.shape} and type {entry.dtype}; expected one number.")
    value = float(entry.read().to(torch.float64).item())
    if not math.isfinite(value):
        raise InputError(f"{file}: {name[:150]} is {value}; expected a finite number.")
    return value


def _settings(found: Checkpoint, file: Path) -> _Settings:
    """What diffusers notes in the file, or PEFT in adapter_config.json beside it."""
    noted = found.metadata.facts.get(ADAPTER_NOTES)
    if isinstance(noted, str):
        flat = _table(noted, f"{file}, {ADAPTER_NOTES}")
        tables = {
            part: {key.removeprefix(f"{part}."): value for key, value in flat.items() if key.startswith(f"{part}.")}
            for part in _COMPONENTS
        }
        return _Settings(tables, str(file))
    beside = file.parent / ADAPTER_CONFIG
    if not file.name.startswith("adapter_model.") or not beside.is_file():
        return _Settings({}, str(file))
    if beside.stat().st_size > MAX_JSON:
        raise InputError(f"{beside} is larger than {MAX_JSON} bytes.")
    table = _table(beside.read_bytes(), str(beside))
    kind = table.get("peft_type", "LORA")
    if kind != "LORA" or table.get("use_dora"):
        raise InputError(f"{beside} says {'DoRA' if table.get('use_dora') else str(kind)[:40]}; expected plain LoRA.")
    return _Settings({"": table}, str(beside))


def _table(text: str | bytes, source: str) -> dict[str, Any]:
    try:
        data = json.loads(text) if len(text) <= MAX_JSON else None
    except (ValueError, RecursionError):
        data = None
    patterns = [v for k, v in data.items() if k.endswith("alpha_pattern")] if isinstance(data, dict) else [False]
    if not isinstance(data, dict) or not all(p is None or isinstance(p, dict) for p in patterns):
        raise InputError(f"{source} holds no table of PEFT's settings; get the LoRA again.")
    return data


def _today(stem: str) -> str:
    """A layer's name in a file of any age under today's."""
    stem = stem.removeprefix("base_model.model.")
    if ".processor." in stem:  # attn1.processor.to_q_lora
        head, _, last = stem.partition(".processor.")
        return f"{head}.{'to_out.0' if last == 'to_out' else last}"
    head, _, last = stem.rpartition(".")
    return f"{head}.{_EARLIER[last]}" if head.endswith("self_attn") and last in _EARLIER else stem


def _shown(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(name[:150] for name in listed[:MOST_SHOWN]) + (", ..." if listed[MOST_SHOWN:] else "")
