"""`sfumato evaluate DIR --data DIR`: a folder of pictures that some model drew, measured as samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS
from sfumato.generation.request import BATCH_SIZE

if TYPE_CHECKING:
    from sfumato.cli.evaluate import Extras
    from sfumato.evaluation.asked import Asked
    from sfumato.evaluation.protocol import Evaluation, Progress


def is_samples(path: Path) -> bool:
    """Whether MODEL|DIR is pictures: no model is there, by the names of its files, and pictures are."""
    from sfumato.evaluation.samples import holds_pictures
    from sfumato.io.pretrained import CONFIG, shipped_models

    if str(path) in shipped_models():
        return False
    signs = (CONFIG, f"model/{CONFIG}", "model_index.json")
    return not any((path / sign).is_file() for sign in signs) and holds_pictures(path)


def measure_samples(
    path: Path, data: Path, asked: Asked, cache: Path | None, progress: Progress | None, extras: Extras, device: str
) -> Evaluation:
    """The report of a folder. Raises `InputError` for what only a model can be asked."""
    from sfumato.evaluation.protocol import Settings, evaluate
    from sfumato.evaluation.samples import Given, read_samples, sets_for
    from sfumato.generation.device import find_device

    _check(path, asked, extras)
    seed = asked.seed or 0
    samples = read_samples(path)
    wanted = len(samples) if asked.num is None else asked.num
    LIMITS.seed(seed, wanted)
    source = sets_for(samples, data, asked.split, wanted, seed)
    settings = Settings(
        num=wanted, seed=seed, batch_size=asked.batch_size or BATCH_SIZE, **(extras.settings() | {"repeat": True})
    )
    about: dict[str, Any] = {
        "model": {"samples": path.name, "count": len(samples), "pixels_sha256": samples.fingerprint},
        "dataset": {"folder": data.name, "split": source.split, "unreadable": source.unreadable},
        "asked": dict(extras.asked or {}),
    }
    return evaluate(
        None,
        source.sets,
        settings,
        Given(samples, wanted, seed),
        device=find_device(device),
        cache=cache,
        about=about,
        progress=progress,
        fidelity=extras.fidelity,
    )


def _check(path: Path, asked: Asked, extras: Extras) -> None:
    asked_of_models = {
        "--steps": asked.steps,
        "--guidance": asked.guidance,
        "--eta": asked.eta,  # before the sampler, which it implies
        "--sampler": asked.sampler,
        "--bits": asked.bits,
        "--reconstruction-only": asked.reconstruction_only or None,
        "--lpips": extras.lpips,
    }
    given = [name for name, value in asked_of_models.items() if value is not None]
    if asked.protocol is not None and given:
        raise InputError(
            f"--protocol {asked.protocol} says how samples are drawn, which {path.name} does not tell: it is a folder of "
            "pictures; leave the protocol out."
        )
    if given:
        raise InputError(f"{given[0]} is for a model, and {path.name} is a folder of pictures; leave it out.")
