"""The scheduler_config.json of a diffusers folder <-> our schedule and prediction.

    beta_schedule      scaled_linear, linear, squaredcos_cap_v2 (cosine)
    prediction_type    epsilon, v_prediction, sample (x0)

A folder may have several: `scheduler` is the model's; `low_res_scheduler` (x4 upscaler) and `image_noising_scheduler`
(unCLIP) put noise on what the model is told. Which sampler a scheduler is stays the card's affair.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Any

from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName
from sfumato.errors import InputError
from sfumato.interop.checkpoint import Checkpoint
from sfumato.interop.folders import Part
from sfumato.interop.rebuild import shown

MAIN, LOW_RESOLUTION, NOISING = "scheduler", "low_res_scheduler", "image_noising_scheduler"
PREDICTIONS = {Prediction.eps: "epsilon", Prediction.v: "v_prediction", Prediction.x0: "sample"}
SCHEDULES = {
    ScheduleName.scaled_linear: "scaled_linear",
    ScheduleName.linear: "linear",
    ScheduleName.cosine: "squaredcos_cap_v2",
}


def scheduler_of(checkpoint: Checkpoint, name: str = MAIN) -> Mapping[str, Any]:
    """The settings of a folder's scheduler, empty where there is none of this name."""
    found = checkpoint.components.get(name)
    return found.config if found is not None and found.part is Part.scheduler else {}


def noise_settings(schedule: ScheduleConfig) -> dict[str, Any]:
    """The settings that a table of betas has in every scheduler. Raises `InputError` for a schedule without such a table."""
    if schedule.name not in SCHEDULES:
        raise InputError(
            f"the schedule {schedule.name.value} has no diffusers form here, only {_words(SCHEDULES)} have; "
            "keep the native form."
        )
    return {
        "num_train_timesteps": schedule.num_steps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": SCHEDULES[schedule.name],
    }


def scheduler_settings(schedule: ScheduleConfig, prediction: Prediction) -> dict[str, Any]:
    """A DDIMScheduler's. Raises `InputError` for a schedule or a prediction that it cannot express."""
    table = noise_settings(schedule)
    if prediction not in PREDICTIONS:
        raise InputError(
            f"the prediction {prediction.value} has no diffusers form here, only {_words(PREDICTIONS)} have; "
            "keep the native form."
        )
    return table | {
        "prediction_type": PREDICTIONS[prediction],
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "timestep_spacing": "trailing" if schedule.zero_terminal_snr else "leading",
        "steps_offset": 1,
        "clip_sample": False,
        "set_alpha_to_one": False,
    }


def schedule_of(settings: Mapping[str, Any], start: ScheduleConfig, what: str) -> ScheduleConfig:
    """The schedule that settings state; `start` where they are silent. Raises `InputError` for one of another kind."""
    names = {there: here for here, there in SCHEDULES.items()}
    said = settings.get("beta_schedule", SCHEDULES.get(start.name))
    if settings.get("trained_betas") is not None:
        raise InputError(f"{what} has a table of betas of its own (trained_betas); expected {', '.join(names)}.")
    if said not in names:
        raise InputError(f"{what} has beta_schedule {shown(str(said))}; expected {', '.join(names)}.")
    try:
        return ScheduleConfig(
            names[said],
            float(settings.get("beta_start", start.beta_start)),
            float(settings.get("beta_end", start.beta_end)),
            int(settings.get("num_train_timesteps", start.num_steps)),
            bool(settings.get("rescale_betas_zero_snr", False)),
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} has betas or steps that are none: {shown(' '.join(str(error).split()))}") from None


def prediction_of(settings: Mapping[str, Any], what: str) -> Prediction:
    """The prediction that settings state, eps where they are silent. Raises `InputError` for another."""
    said = settings.get("prediction_type", PREDICTIONS[Prediction.eps])
    for ours, theirs in PREDICTIONS.items():
        if said == theirs:
            return ours
    raise InputError(f"{what} has prediction_type {shown(str(said))}; expected {', '.join(PREDICTIONS.values())}.")


def _words(names: Iterable[enum.Enum]) -> str:
    return ", ".join(str(name.value) for name in names)
