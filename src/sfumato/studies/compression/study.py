"""Train each factor in pieces, look at the prior after each, and keep what is found: call again to go on."""

from __future__ import annotations

import dataclasses
import gc
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from sfumato.errors import InputError, MachineError
from sfumato.evaluation.provenance import provenance
from sfumato.generation.pipeline import load
from sfumato.io.files import read_table
from sfumato.model import LatentModel
from sfumato.recipes.compression import check, compression
from sfumato.studies.compression.measure import Reference, make_reference, reconstructions, sample, warm_up
from sfumato.studies.compression.results import (
    FEWEST,
    FirstStageResult,
    Moment,
    Result,
    Settings,
    Speed,
    begin,
    save_result,
)
from sfumato.training.config import RunConfig
from sfumato.training.prepare import Prepared, prepare_data
from sfumato.training.report import save_sheet, sheet
from sfumato.training.run import train
from sfumato.training.signals import Stopped

Recipe = Callable[..., RunConfig]
"""(factor, size, seconds=) -> the run: `compression`, or its tiny variant."""
Say = Callable[[str], None]
SHOWN = 16


@dataclass(frozen=True)
class Study:
    """`data` DIR, `out` OUT; `say` is told of every result. `minutes`: after which everything is saved and `Stopped` raised."""

    data: Path
    out: Path
    settings: Settings
    device: torch.device
    say: Say
    recipe: Recipe = compression
    quiet: bool = True
    minutes: float | None = None

    def run(self, factors: Sequence[int]) -> list[Result]:
        """Every factor in turn. One that diverges or does not fit the memory is reported, and the others go on.

        Raises `InputError` for factors, data or settings that do not fit, before anything is trained; `Stopped` at a signal or
        when the time is up.
        """
        if self.out.resolve().is_relative_to(self.data.resolve()):
            raise InputError(f"--out {self.out} lies inside --data {self.data}, whose pictures it would join; give another.")
        for factor in factors:
            check(factor, self.settings.size)
        for factor in factors:
            self._begin(factor)
        deadline = None if self.minutes is None else time.monotonic() + 60 * self.minutes
        results: list[Result] = []
        reference: Reference | None = None
        for index, factor in enumerate(factors):
            result = self._begin(factor)
            if result.is_done:
                self.say(f"[{index + 1}/{len(factors)}] f = {factor}: done before")
                results.append(result)
                continue
            self.say(f"[{index + 1}/{len(factors)}] f = {factor}")
            config = self.recipe(factor, self.settings.size, seconds=self.settings.seconds)
            reference = reference or make_reference(self.prepared, self.settings, self.out / "reference", self.device)
            one = _Factor(self, reference, config, result, deadline)
            try:
                results.append(one.execute())
            except (InputError, MachineError) as error:
                self.say(f"f = {factor} failed: {error}")
                results.append(save_result(self.out, replace(one.result, failed=str(error))))
            finally:
                _free()
        return results

    def _begin(self, factor: int) -> Result:
        train = self.prepared.train
        return begin(self.out, factor, self.settings, train.fingerprint()[:16], len(train))

    @cached_property
    def prepared(self) -> Prepared:
        """The data, looked through and read once for all factors, which share its config."""
        self.out.mkdir(parents=True, exist_ok=True)
        return prepare_data(self.data, self.recipe(1, self.settings.size).data, self.out)


class _Factor:
    """One factor at work. `result` grows, and is on the disk after each part."""

    def __init__(self, study: Study, reference: Reference, config: RunConfig, result: Result, deadline: float | None):
        self.study, self.reference, self.config, self.result = study, reference, config, result
        self.deadline = deadline
        self.settings, self.device = result.settings, study.device
        self.folder = study.out / f"f{result.factor}"

    def execute(self) -> Result:
        self._share_audit()
        model: LatentModel | None = None
        for seconds in self.settings.budgets(self.result.factor):
            if self.result.at(seconds) is None:
                model = self._trained(seconds)
                if self.result.first_stage is None:
                    self._describe(model)
                self._look(model, seconds)
        if not self.result.is_done:
            self._time(model or self._trained(self.settings.budgets(self.result.factor)[-1]))
        return self.result

    def _share_audit(self) -> None:
        """The pictures were looked through for the reference; a run that finds that audit does not look again."""
        run = self.folder / "run"
        if not run.exists():
            run.mkdir(parents=True)
            (run / "run.lock").touch()  # what makes a folder a run's
            shutil.copytree(self.study.out / "audit", run / "audit")

    def _trained(self, seconds: float) -> LatentModel:
        """The model whose prior was trained for so long, on from where it stopped."""
        prior = self.config.prior
        part = dataclasses.replace(prior, train=dataclasses.replace(prior.train, seconds=seconds))
        config = dataclasses.replace(self.config, prior=part)
        _free()
        minutes = None if self.deadline is None else max(0.0, self.deadline - time.monotonic()) / 60
        study, out = self.study, self.folder / "run"
        path = train(config, study.data, out, self.device, minutes=minutes, quiet=study.quiet, prepared=study.prepared)
        _free()
        return load(path, self.device).model

    def _describe(self, model: LatentModel) -> None:
        """What stands beside the curve: sizes, the first stage's own quality, the floor."""
        first, floor, found = self.folder / "run" / "first_stage", self.reference.floor, None
        made_by = provenance(self.device)
        if (first / "reconstruction.json").is_file():
            numbers, clock = read_table(first / "reconstruction.json"), read_table(first / "clock.json")
            distance = None
            if len(self.reference.held) >= FEWEST:
                distance = self.reference.distance(reconstructions(model, self.reference.held, self.device), self.device)
            found = FirstStageResult(clock["seconds"], clock["steps"], numbers["psnr"], numbers["ssim"], distance)
        self._keep(
            device=str(made_by["device"]),
            made_by=", ".join(f"{name} {made_by[name]}" for name in ("sfumato", "commit", "torch") if made_by.get(name)),
            latent=model.latent_shape(*model.image_size),
            first_stage_parameters=_count(model.first_stage),
            prior_parameters=_count(model.prior),
            first_stage=found,
            floor=floor,
        )

    def _look(self, model: LatentModel, seconds: float) -> None:
        """The distance after `seconds`, and the first samples as a picture."""
        self._check_time()
        pixels, _ = sample(model, self.settings.samples, self.settings.curve_steps, self.settings.seed, self.device)
        save_sheet(self.folder / "samples.png", sheet(_first(pixels), 8))
        distance = self.reference.distance(pixels, self.device)
        steps = int(read_table(self.folder / "run" / "prior" / "clock.json")["steps"])
        self._keep(curve=(*self.result.curve, Moment(seconds, steps, distance)))
        self.study.say(f"f = {self.result.factor}: prior of {seconds:g} s, {steps} steps: FD {distance.value:.4g}")

    def _time(self, model: LatentModel) -> None:
        """The finished model at every number of steps."""
        warm_up(model, self.settings.samples, self.device)
        for num_steps in self.settings.num_steps:
            if any(speed.num_steps == num_steps for speed in self.result.speeds):
                continue
            self._check_time()
            pixels, seconds = sample(model, self.settings.samples, num_steps, self.settings.seed, self.device)
            speed = Speed(num_steps, len(pixels) / seconds, self.reference.distance(pixels, self.device))
            self._keep(speeds=tuple(sorted((*self.result.speeds, speed), key=lambda one: one.num_steps)))
            self.study.say(
                f"f = {self.result.factor}: {num_steps} steps: {speed.pictures_per_second:.4g} pictures/s, "
                f"FD {speed.distance.value:.4g}"
            )

    def _check_time(self) -> None:
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise Stopped(f"stopped at f = {self.result.factor} by the time given by --stop-after; the same command goes on.")

    def _keep(self, **found: object) -> None:
        self.result = save_result(self.study.out, replace(self.result, **found))  # type: ignore[arg-type]


def _first(pixels: Tensor) -> list[Tensor]:
    return list(pixels[:SHOWN])


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _free() -> None:
    """Give back what recorded graphs and finished models hold."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
