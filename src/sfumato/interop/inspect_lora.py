"""What a LoRA file is: its ranks, what it changes, the models that it fits, and what is odd about its alphas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.build import ModelConfig, build_model
from sfumato.errors import InputError
from sfumato.interop.cards import Card, find_card
from sfumato.interop.hollow import hollow
from sfumato.interop.lora import Lora
from sfumato.interop.merge import UNDERSCORED_TEXT, matched

TARGETS = ("sd1", "sd2-base", "sdxl-base", "sdxl-refiner")
"""Cards that stand for a family: LoRAs are made for these, and fit all models of the same U-Net."""
_TEXT = re.compile(rf"text_encoder(_2)?\.|{'|'.join(start for starts in UNDERSCORED_TEXT for start in starts)}")
_CONTEXT = re.compile(r".*attn2[._]to_[kv]")


@dataclass(frozen=True)
class LoraFacts:
    """`ranks`: that occur. `modules`, `text_modules`: layers that it changes, in all and in text encoders. `factors`: alpha /
    rank, that occur, at most ten. `families`: that it fits in every layer's name and shape. `parameters`: of its matrices."""

    ranks: tuple[int, ...]
    modules: int
    text_modules: int
    factors: tuple[float, ...]
    families: tuple[str, ...]
    cards: tuple[str, ...]
    parameters: int


def lora_facts(lora: Lora) -> tuple[LoraFacts, list[str]]:
    """(facts, sentences about what is odd). No matrix is read."""
    faults: list[str] = []
    fitting: list[Card] = []
    try:
        fitting = [card for card in _candidates(lora) if _fits(lora, card)]
        faults += [] if fitting else [f"it fits none of {', '.join(TARGETS)} as a whole."]
    except InputError as error:  # a text tower that cannot be built without transformers
        faults.append(f"which models it fits is not known: {error}")
    factors = sorted({layer.factor for layer in lora.layers.values()})
    facts = LoraFacts(
        ranks=lora.ranks,
        modules=len(lora.layers),
        text_modules=sum(_TEXT.match(name) is not None for name in lora.layers),
        factors=tuple(factors[:10]),
        families=tuple(dict.fromkeys(card.family.value for card in fitting)),
        cards=tuple(card.name for card in fitting),
        parameters=lora.numel,
    )
    return facts, _odd(lora, factors) + faults


def _candidates(lora: Lora) -> list[Card]:
    """Cards whose text context is as wide as the file's keys and values of it, or all where it changes none."""
    widths = {layer.shape[1] for name, layer in lora.layers.items() if _CONTEXT.match(name) and not _TEXT.match(name)}
    cards = [find_card(name) for name in TARGETS]
    return [card for card in cards if not widths or widths == {card.unet.context_dim}]


def _fits(lora: Lora, card: Card) -> bool:
    with hollow():
        model = build_model(ModelConfig(card.first_stage, card.prior, card.conditioner, card.image_size))
    try:
        matched(lora, model)
    except InputError:
        return False
    return True


def _odd(lora: Lora, factors: Sequence[float]) -> list[str]:
    layers = lora.layers.values()
    faults = []
    for count, said in (
        (sum(layer.factor == 0 for layer in layers), "have alpha 0 and add nothing"),
        (sum(layer.factor < 0 for layer in layers), "have a negative alpha"),
        (sum(layer.factor > 1 for layer in layers), f"have an alpha above their rank, up to {factors[-1]:.4g} times"),
    ):
        if count:
            faults.append(f"{count} of {len(layers)} layers {said}.")
    return faults
