"""Which published model a checkpoint is, where its tensors alone leave that open.

Shapes name one card or several (`recognise`); prediction, betas, size and scale leave no trace in them. In this order: the
caller says it; markers in the file (`markers`), the yaml beside it or the notes inside it say it; the cards are the same but
for their names; the file's or its folder's name says it. Otherwise the caller is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sfumato.diffusion.prediction import Prediction
from sfumato.errors import InputError
from sfumato.interop import diffusers_config
from sfumato.interop.cards import CARDS, Card, find_card
from sfumato.interop.checkpoint import Checkpoint
from sfumato.interop.folder_schedules import scheduler_of
from sfumato.interop.folders import Part
from sfumato.interop.markers import ZERO_SNR, found_in
from sfumato.interop.rebuild import shown
from sfumato.interop.recognise import Recognised
from sfumato.interop.shapes import without_heads
from sfumato.interop.yamls import ReleasedYaml

RELEASED: Mapping[str, tuple[str, ...]] = {
    "sd2-base": ("512-base-ema", "v2-1_512", "stable-diffusion-2-base", "stable-diffusion-2-1-base"),
    "sd2-v": ("768-v-ema", "v2-1_768", "stable-diffusion-2", "stable-diffusion-2-1"),
}
"""Beginnings of the names that a release's files and folders have, where they hold no card's name."""

GENERIC = ("model", "last", "unet", "pytorch_model", "diffusion_pytorch_model", "checkpoint")
"""Names of files that say nothing: then the folder's name counts."""

_PREDICTIONS = {"eps": Prediction.eps, "epsilon": Prediction.eps, "v": Prediction.v}


@dataclass(frozen=True)
class Facts:
    """What configs, a yaml or notes say that shapes do not. `side`: of the latent. None where silent."""

    prediction: Prediction | None = None
    betas: tuple[float, float] | None = None
    side: int | None = None
    scale_factor: float | None = None
    zero_snr: bool = False

    def says_of(self, card: Card) -> bool:
        """Whether prediction and schedule are the card's."""
        return self.prediction is card.prior.prediction and self.zero_snr == card.prior.schedule.zero_terminal_snr

    def fit(self, card: Card) -> bool:
        """Whether the card contradicts none of them."""
        schedule = card.prior.schedule
        latent = card.image_size[0] // card.first_stage.network.factor
        return (
            self.prediction in (None, card.prior.prediction)
            and self.betas in (None, (schedule.beta_start, schedule.beta_end))
            and self.side in (None, latent)
            and self.zero_snr == schedule.zero_terminal_snr
            and (self.scale_factor is None or card.scale_factor in (None, self.scale_factor))
        )


def choose_card(found: Recognised, checkpoint: Checkpoint, card: Card | str | None = None) -> Card:
    """The card of a checkpoint with these parts. Raises `InputError` where none fits or several do, naming the choices.

    Where the markers or the yaml contradict every card of the architecture, the first (of that prediction, if any) is returned
    with their prediction, schedule and scale factor: a fine-tuned model that was given others. Markers count for a card that
    the caller names, too; one that is given whole stays as it is.
    """
    path = checkpoint.path
    if isinstance(card, str):
        named = _given(found, path, find_card(card))
        marked = _marked(checkpoint)
        return named if marked == Facts() or marked.says_of(named) else _with(named, marked)
    if card is not None:
        return _given(found, path, card)
    fitting = candidates(found, checkpoint)
    if not fitting:
        near = f"; the nearest is {found.relative.name}, with other input channels" if found.relative else ""
        raise InputError(f"{path} has the architecture of no published model{near}; give its card.")
    if len(fitting) == 1:
        return fitting[0]
    names = " or ".join(one.name for one in fitting)
    raise InputError(f"{path} may be {names}, which have the same shapes; say which (card), or put its yaml beside it.")


def candidates(found: Recognised, checkpoint: Checkpoint) -> list[Card]:
    """The cards that a checkpoint may be, after all that it says itself; none for an architecture that was not published."""
    if not found.cards:
        return []
    facts = stated(checkpoint)
    fitting = _apart([one for one in found.cards if facts.fit(one)])
    if not fitting:
        near = sorted(_apart(found.cards), key=lambda one: facts.prediction not in (None, one.prior.prediction))
        return [_with(near[0], facts)]
    named = [one for one in fitting if _is_named(one, checkpoint.path)]
    return named if len(named) == 1 else fitting


def stated(checkpoint: Checkpoint) -> Facts:
    """What a folder's own configs say, the yaml beside a file, else its notes; before both the markers in the file."""
    if checkpoint.components:
        return _of_folder(checkpoint)
    said = checkpoint.metadata.facts.get("modelspec.prediction_type")
    facts = Facts(prediction=_PREDICTIONS.get(str(said))) if checkpoint.yaml is None else _of_yaml(checkpoint.yaml)
    marked = _marked(checkpoint)
    return facts if marked == Facts() else replace(facts, prediction=marked.prediction, zero_snr=marked.zero_snr)


def _marked(checkpoint: Checkpoint) -> Facts:
    """Zero terminal SNR means v as well: eps is undefined there."""
    markers = found_in(checkpoint.index)
    return Facts(prediction=Prediction.v, zero_snr=ZERO_SNR in markers) if markers else Facts()


def name_of(path: Path) -> str:
    """What a model is called: its file, or the folder of a file whose name says nothing."""
    stem = path.name if path.is_dir() else path.stem
    parent = path.resolve().parent.name
    if path.is_dir() and parent == "snapshots":  # of the hub's cache: models--OWNER--NAME/snapshots/REVISION
        return path.resolve().parent.parent.name.split("--")[-1]
    return parent if stem.lower() in GENERIC and parent else stem


def _given(found: Recognised, path: Path, card: Card) -> Card:
    faults = []
    if found.unet is not None and without_heads(found.unet) != without_heads(card.unet):
        faults.append("U-Net")
    if found.first_stage is not None and found.first_stage != card.first_stage:
        faults.append("first stage")
    if faults:
        known = ", ".join(one.name for one in found.cards) or "none"
        raise InputError(
            f"{path} has another {' and '.join(faults)} than {card.name}; published models of its shapes: {known}."
        )
    return card


def _apart(cards: Sequence[Card]) -> list[Card]:
    """Without those that are an earlier one but for the name and the yaml's place."""
    kept: list[Card] = []
    for card in cards:
        if not any(replace(card, name=one.name, source=one.source) == one for one in kept):
            kept.append(card)
    return kept


def _with(card: Card, facts: Facts) -> Card:
    start, end = facts.betas or (card.prior.schedule.beta_start, card.prior.schedule.beta_end)
    prior = replace(
        card.prior,
        prediction=facts.prediction or card.prior.prediction,
        schedule=replace(card.prior.schedule, beta_start=start, beta_end=end, zero_terminal_snr=facts.zero_snr),
    )
    factor = card.first_stage.network.factor
    size = (facts.side * factor, facts.side * factor) if facts.side else card.image_size
    sampling = replace(card.sampling, spacing="trailing") if facts.zero_snr else card.sampling  # begins at pure noise
    factor_of_scale = facts.scale_factor or card.scale_factor
    return replace(card, prior=prior, image_size=size, scale_factor=factor_of_scale, sampling=sampling)


def _is_named(card: Card, path: Path) -> bool:
    names = [part for part in (path.name, path.resolve().parent.name) if part]
    if any(_plain(card.name) in _plain(name) and not _longer(card, name) for name in names):
        return True
    others = [start for other, starts in RELEASED.items() if other != card.name for start in starts]
    for name in names:
        mine = max((len(s) for s in RELEASED.get(card.name, ()) if name.lower().startswith(s)), default=0)
        theirs = max((len(s) for s in others if name.lower().startswith(s)), default=0)
        if mine > theirs:
            return True
    return False


def _longer(card: Card, name: str) -> bool:
    """Whether another card's longer name stands there too."""
    mine = _plain(card.name)
    return any(mine in _plain(c.name) in _plain(name) and len(_plain(c.name)) > len(mine) for c in CARDS)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _of_yaml(yaml: ReleasedYaml) -> Facts:
    params = yaml.model.get("params")
    params = params if isinstance(params, dict) else {}
    said = params.get("parameterization", "eps")
    if said not in _PREDICTIONS:
        raise InputError(f"{yaml.path} has parameterization {str(said)[:40]!r}; expected eps or v.")
    start, end = (_number(params.get(name)) for name in ("linear_start", "linear_end"))
    side = params.get("image_size")
    return Facts(
        prediction=_PREDICTIONS[said] if _is_diffusion(yaml) else None,
        betas=None if start is None or end is None else (start, end),
        side=side if type(side) is int and side > 0 else None,
        scale_factor=None if params.get("scale_by_std") else _number(params.get("scale_factor")),
    )


def _of_folder(checkpoint: Checkpoint) -> Facts:
    """Of the U-Net, the scheduler and the autoencoder. Raises `InputError` for a schedule of no published kind."""
    by_part = {component.part: component.config for component in checkpoint.components.values()}
    scheduler, stage = scheduler_of(checkpoint), by_part.get(Part.first_stage, {})
    said = str(scheduler.get("prediction_type", "epsilon"))
    if said not in _DIFFUSERS or scheduler.get("beta_schedule", "scaled_linear") != "scaled_linear":
        kind = f"{scheduler.get('beta_schedule')}, {said}"
        raise InputError(
            f"{checkpoint.path} has a scheduler of {shown(kind)}; expected scaled_linear and epsilon or v_prediction."
        )
    if scheduler.get("trained_betas") is not None or scheduler.get("num_train_timesteps", 1000) != 1000:
        raise InputError(
            f"{checkpoint.path} has a scheduler with a table or a number of steps of its own; expected 1000 betas."
        )
    start, end = (_number(scheduler.get(name)) for name in ("beta_start", "beta_end"))
    side = by_part.get(Part.denoiser, {}).get("sample_size")
    return Facts(
        prediction=_DIFFUSERS[said] if scheduler else None,
        betas=None if start is None or end is None else (start, end),
        side=side if type(side) is int and side > 0 else None,
        scale_factor=_number(diffusers_config.scaling_factor(stage)),
        zero_snr=bool(scheduler.get("rescale_betas_zero_snr")),
    )


_DIFFUSERS = {"epsilon": Prediction.eps, "v_prediction": Prediction.v}


def _is_diffusion(yaml: ReleasedYaml) -> bool:
    """Of the kind whose `parameterization` is eps where it is silent; sgm's engines say it elsewhere."""
    return str(yaml.model.get("target", "")).startswith("ldm.")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6 else None
