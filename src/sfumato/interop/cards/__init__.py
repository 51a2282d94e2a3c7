"""Cards: what each published model is, as plain facts.

Rombach et al. 2021 (arXiv 2112.10752, Tab. 8, 12, 15) and its repository, Blattmann et al. 2022 (arXiv 2204.11824), Stable
Diffusion 1 and 2, InstructPix2Pix (Brooks et al. 2022, arXiv 2211.09800) and SDXL (Podell et al. 2023, arXiv 2307.01952).
`source` names the released yaml; what a yaml does not say (size of the picture, steps, guidance) is from the authors' sampling
scripts. Attention is listed by downsampling factor, as there.
"""

from __future__ import annotations

from sfumato.errors import unknown
from sfumato.interop.cards.base import Card, Condition, Family, FirstStageCard, Sampling, Source, Task
from sfumato.interop.cards.first_stages import FIRST_STAGES
from sfumato.interop.cards.latent_diffusion import LATENT_DIFFUSION
from sfumato.interop.cards.stable_diffusion import SDXL, STABLE_DIFFUSION_1, STABLE_DIFFUSION_2

CARDS: tuple[Card, ...] = (*LATENT_DIFFUSION, *STABLE_DIFFUSION_1, *STABLE_DIFFUSION_2, *SDXL)
"""Every published model, in the order of release."""


def find_card(name: str) -> Card:
    """The card of a published model. Raises `InputError` for an unknown name."""
    for card in CARDS:
        if card.name == name:
            return card
    raise unknown("published model", name, [card.name for card in CARDS])


__all__ = [
    "CARDS",
    "FIRST_STAGES",
    "Card",
    "Condition",
    "Family",
    "FirstStageCard",
    "Sampling",
    "Source",
    "Task",
    "find_card",
]
