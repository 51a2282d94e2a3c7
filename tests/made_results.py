"""Results as they would be kept, with numbers that a test chooses."""

from __future__ import annotations

import dataclasses
from typing import Any

from sfumato.studies.families import FAMILIES
from sfumato.studies.results import DONE, Curve, Result, Score, Trained


def score(value: float, half: float = 0.01, real: float | None = None) -> Score:
    return Score(value, value - half, value + half, real)


def made(name: str, fd: float = 10.0, half: float = 0.5, recall: float = 0.5, **changes: Any) -> Result:
    """A family's result with this distance."""
    family = FAMILIES[name]
    scores = {
        "fd": score(fd, half, 3.0),
        "precision": score(0.7, real=0.9),
        "recall": score(recall, real=0.9),
        "coverage": score(0.6, real=0.97),
        "memorised": score(1.0, real=1.0),
        "copies": score(0.05, real=0.05),
    }
    result = Result(
        family=name,
        title=family.title,
        formula=family.formula,
        source=family.source,
        latent=family.latent,
        likelihood=family.likelihood,
        recipe=family.recipe,
        key="k",
        status=DONE,
        minutes=5.0,
        device="cuda (One)",
        data={"folder": "emoji", "fingerprint": "f", "num_train": 1000, "num_held_out": 50, "size": 32},
        stages={"prior": Trained(900, 300.0, 384.0)},
        parameters={"prior": 9_000_000},
        num_samples=2000,
        seconds_per_sample=0.01,
        batch_size=100,
        scores=scores,
        bits_kind="it is a test.",
        curves=(Curve("prior", "loss", ((10, 1.0), (20, 0.5), (30, 0.25))),),
        made_by={"commit": "abc", "torch": "2.13.0"},
    )
    return dataclasses.replace(result, **changes)
