"""Which model a file holds, from the names, shapes and types of its tensors alone.

Whole checkpoints, U-Nets alone and first stages alone, in the authors' names. Shapes say the architecture
(`shapes.py`); heads, prediction, schedule and scale factor leave no trace in them and come from the card of the published
model with those shapes. Where several have them (three LDMs of faces and bedrooms; Stable Diffusion 2 for eps and for v), all
are named and the caller decides.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.interop import compvis
from sfumato.interop.cards import CARDS, FIRST_STAGES, Card, FirstStageCard
from sfumato.interop.keys import KeyMap, check_names
from sfumato.interop.shapes import Shapes, first_stage_of, unet_of, without_heads
from sfumato.networks.unet import UNetConfig

Index = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""name -> (shape, type)"""


class Kind(enum.Enum):
    """What a file is."""

    checkpoint = "checkpoint"
    unet = "U-Net alone"
    first_stage = "first stage alone"


@dataclass(frozen=True)
class Recognised:
    """What a file holds.

    cards: published models of this architecture, in the order of release; empty for a model of its own.
    relative: a published model that differs in its extra input channels only; where `cards` is empty.
    first_stage_cards: published first stages of this architecture. has_ema: averages of the U-Net stand beside it.
    unet_prefix, first_stage_prefix: of their names in the file. rest: names that belong to neither and are no tables that
    follow from the schedule: conditioners, mostly.
    """

    kind: Kind
    unet: UNetConfig | None
    first_stage: KLConfig | VQConfig | None
    cards: tuple[Card, ...]
    relative: Card | None
    first_stage_cards: tuple[FirstStageCard, ...]
    has_ema: bool
    unet_prefix: str
    first_stage_prefix: str
    rest: tuple[str, ...]

    def keys(self, ema: bool = False) -> KeyMap:
        """Our names in a `LatentModel` <-> the file's, of the parts that it holds; with `ema` its averages.

        Raises `InputError` when averages are asked for and the file has none.
        """
        pairs = KeyMap({})
        if self.unet is not None:
            pairs |= compvis.unet_keys(self.unet).prefixed(compvis.OUR_UNET, self.unet_prefix)
        if self.first_stage is not None:
            pairs |= compvis.first_stage_keys(self.first_stage).prefixed(compvis.OUR_FIRST_STAGE, self.first_stage_prefix)
        if ema and not self.has_ema:
            raise InputError("the file has no averaged (EMA) weights; ask for the raw ones.")
        return compvis.with_ema(pairs) if ema else pairs


def recognise(index: Index, what: str = "the file") -> Recognised:
    """What the tensors are. Raises `InputError` where they are no model of a known architecture, or not whole."""
    unet_prefix = _prefix(index, compvis.UNET, "input_blocks.0.0.weight")
    stage_prefix = _prefix(index, compvis.FIRST_STAGE, "encoder.conv_in.weight")
    if unet_prefix is None and stage_prefix is None:
        raise InputError(
            f"{what} holds neither a U-Net nor a first stage in the authors' names; its first are {_first(index)}."
        )
    unet = unet_of(_part(index, unet_prefix), f"{what}, the U-Net") if unet_prefix is not None else None
    cards: tuple[Card, ...] = ()
    relative: Card | None = None
    stage = first_stage_of(_part(index, stage_prefix), f"{what}, the first stage") if stage_prefix is not None else None
    if unet is not None:
        cards, relative = cards_of(unet, stage)
        known = cards[0] if cards else relative
        if known is not None:
            heads = {"head_channels": known.unet.head_channels, "num_heads": known.unet.num_heads}
            unet = replace(unet, **heads)  # type: ignore[arg-type]
    kind = Kind.checkpoint if unet and stage else Kind.unet if unet else Kind.first_stage
    found = Recognised(
        kind=kind,
        unet=unet,
        first_stage=stage,
        cards=cards,
        relative=relative,
        first_stage_cards=tuple(card for card in FIRST_STAGES if card.config == stage),
        has_ema=any(name.startswith(_UNET_EMA) for name in index),
        unet_prefix=unet_prefix or "",
        first_stage_prefix=stage_prefix or "",
        rest=(),
    )
    return replace(found, rest=_rest(index, found, what))


def _prefix(index: Index, usual: str, sign: str) -> str | None:
    """The usual prefix, or none, whichever has the telling name; None where neither has."""
    return next((prefix for prefix in (usual, "") if prefix + sign in index), None)


_UNET_EMA = compvis.ema_name(compvis.UNET)
_STAGE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.embedding.")
_UNET_PARTS = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.", "output_blocks.", "out.")


def _part(index: Index, prefix: str) -> Shapes:
    """Shapes of the names under a prefix; without one, of the names that a part alone has."""
    if prefix:
        found = {name.removeprefix(prefix): shape for name, (shape, _) in index.items() if name.startswith(prefix)}
        return {name: shape for name, shape in found.items() if not name.startswith("loss.")}
    parts = _STAGE_PARTS if "encoder.conv_in.weight" in index else _UNET_PARTS
    return {name: shape for name, (shape, _) in index.items() if name.startswith(parts)}


def cards_of(unet: UNetConfig, stage: KLConfig | VQConfig | None) -> tuple[tuple[Card, ...], Card | None]:
    """(published models of these shapes, else one that differs in its extra input channels)."""
    alike = [card for card in CARDS if stage is None or card.first_stage == stage]
    blind = without_heads(unet)
    exact = tuple(card for card in alike if without_heads(card.unet) == blind)
    if exact:
        return exact, None
    plain = replace(blind, concat_channels=0)
    near = [card for card in alike if replace(without_heads(card.unet), concat_channels=0) == plain]
    return (), near[0] if near else None


def _rest(index: Index, found: Recognised, what: str) -> tuple[str, ...]:
    """Names of neither part; checks types, and that averages are whole."""
    named = set(found.keys().pairs.values())
    wrong = sorted(name for name in named if not index[name][1].is_floating_point)
    if wrong:
        raise InputError(f"{what}: {wrong[0]} has type {index[wrong[0]][1]}, expected floating-point numbers.")
    averages = {name for name in index if name.startswith(_UNET_EMA)}
    if averages:
        wanted = {compvis.ema_name(name) for name in named if name.startswith(compvis.UNET)}
        check_names(averages, wanted, f"{what}, the averaged U-Net")
    extras = {name for name in index if compvis.KNOWN_EXTRAS.fullmatch(name)}
    return tuple(sorted(index.keys() - named - averages - extras))


def _first(index: Index) -> str:
    return ", ".join(sorted(index)[:3]) or "none at all"
