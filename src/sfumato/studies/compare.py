"""Every family on the same data for the same time or operations, judged by one protocol: a run of runs.

    for each family: train within its budget -> samples of the same seeds -> scores -> OUT/FAMILY/result.json
    all results there are -> OUT/compare.html, OUT/compare.png

A family whose result is there, asked for in the same way, is kept; one that diverges is written down with its curve, and the
others go on. Several processes, or machines whose folders are brought together afterwards, can share the families.
"""

from __future__ import annotations

import gc
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from sfumato.errors import InputError, SfumatoError
from sfumato.evaluation.decoder import DecoderLoss
from sfumato.evaluation.likelihood import UndefinedBits
from sfumato.evaluation.provenance import provenance
from sfumato.generation.engine import NotFiniteError
from sfumato.generation.pipeline import Pipeline, load
from sfumato.io.files import machine_errors
from sfumato.io.weights import read_weights, save_weights
from sfumato.metrics.bootstrap import mean_interval
from sfumato.studies import records
from sfumato.studies.bits import held_out_bits
from sfumato.studies.families import Family, budgeted
from sfumato.studies.judge import Protocol, Reference, Verdict, check_count, judge
from sfumato.studies.results import DIVERGED, DONE, FAILED, NEIGHBOURS, SAMPLES, Result, Score, read_result
from sfumato.studies.sampling import Drawn, draw
from sfumato.training.check import check
from sfumato.training.config import DataConfig, RunConfig
from sfumato.training.held_out import chosen_and_rest
from sfumato.training.operations import as_typed
from sfumato.training.prepare import AUDIT, Prepared, adapt, prepare_data
from sfumato.training.report import save_sheet, sheet
from sfumato.training.run import train
from sfumato.training.stages import Stage, key

REFERENCE = "reference"
SHOWN, COLUMNS, PAIRS = 64, 8, 8

Progress = Callable[[str, int, int], None]
Bars = Callable[[], AbstractContextManager[Progress | None]]


@dataclass(frozen=True)
class Settings:
    """minutes: of training, for each family; flops: floating-point operations of it in their place, minutes then being 0.

    size: side of all pictures in pixels. batch_size: samples made at once. sample_minutes: after which a slow family makes no
    more samples. bound_steps: of a diffusion's chain for its bound, None for every step of its schedule.
    """

    minutes: float
    size: int = 32
    batch_size: int = 100
    sample_minutes: float = 5.0
    bound_steps: int | None = None
    protocol: Protocol = field(default_factory=Protocol)
    flops: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.flops < math.inf:
            raise InputError(f"budget is {self.flops} operations: expected more than 0.")
        if self.flops > 0 and self.minutes != 0:
            raise InputError(f"budget is {self.minutes} minutes and {as_typed(self.flops)} operations: give one of them.")
        if self.flops == 0 and not 0 < self.minutes <= 1e6:
            raise InputError(f"budget is {self.minutes} minutes: expected more than 0.")

    @property
    def budget(self) -> str:
        """In words."""
        return f"{self.minutes:g} min" if self.flops == 0 else f"{as_typed(self.flops)} operations"


@dataclass
class Comparison:
    """One call: families trained and judged in `out`. `say` gets lines for a person, `bars` opens a progress bar."""

    data: Path
    out: Path
    settings: Settings
    device: torch.device
    quiet: bool = False
    say: Callable[[str], None] = lambda text: None
    bars: Bars = lambda: nullcontext(None)

    def run(self, families: Sequence[Family]) -> list[Result]:
        """The results of these families that are there afterwards. Raises `training.signals.Stopped` when told to stop."""
        resolved = self.out.resolve()
        if resolved.is_relative_to(self.data.resolve()):
            raise InputError(f"--out {self.out} lies inside --data {self.data}, whose pictures it would join; give another.")
        with machine_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        for family in families:
            records.check_budget(self.out / family.name, self._config(family))
        check_count(len(self.prepared.train))
        for family in families:
            try:
                check(adapt(self._config(family), self.prepared)[0])
            except InputError as error:
                raise InputError(f"{family.title}: {error} Or leave it out (--families).") from None
        begin, made, found = time.monotonic(), 0, []
        for index, family in enumerate(families):
            where = f"[{index + 1}/{len(families)}] {family.title}"
            lock = FileLock(self.out / f".{family.name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self.say(f"{where}: another process is at work on it; left to it.")
                continue
            try:
                result, fresh = self._family(family, where)
            finally:
                lock.release()
            found.append(result)
            made += fresh
            if made:
                left = (time.monotonic() - begin) / made * (len(families) - index - 1) / 60
                self.say(f"{where}: {summary(result)}; {len(families) - index - 1} to go, about {left:.0f} min.")
        return found

    @cached_property
    def prepared(self) -> Prepared:
        """The data, looked through once for all families."""
        return prepare_data(self.data, DataConfig(size=self.settings.size), self.out / REFERENCE)

    @cached_property
    def fingerprint(self) -> str:
        """Of the training pictures."""
        return self.prepared.train.fingerprint()

    @cached_property
    def reference(self) -> Reference:
        """Real pictures and their features."""
        held = self.prepared.held_out
        with self.bars() as progress:
            return Reference(
                self.prepared.train.resident(),
                held.load_all() if len(held) else torch.empty(0, 3, self.settings.size, self.settings.size, dtype=torch.uint8),
                self.settings.protocol,
                self.device,
                self.out / REFERENCE / "features",
                progress,
            )

    def _config(self, family: Family) -> RunConfig:
        settings = self.settings
        return budgeted(family, 60 * settings.minutes, settings.size, settings.protocol.seed, settings.flops)

    def _family(self, family: Family, where: str) -> tuple[Result, bool]:
        """The family's result, and whether it was made now."""
        settings, folder = self.settings, self.out / family.name
        config = self._config(family)
        own_key = key(config, self.fingerprint, settings.protocol, settings.batch_size)
        kept = read_result(folder)
        if kept is not None and kept.key == own_key and kept.status != FAILED:
            self.say(f"{where}: kept, {summary(kept)}.")
            return kept, False
        self.say(f"{where}: training for {settings.budget}.")
        torch.compiler.reset()  # families share networks' code, whose compiled variants are limited in number
        made: dict[str, Any]
        try:
            made = self._made(family, config, folder)
        except (SfumatoError, RuntimeError, MemoryError) as error:
            diverged = isinstance(error, InputError | NotFiniteError) and "finite" in str(error)
            reason = " ".join(str(error).split())[:500] or type(error).__name__
            made = {"status": DIVERGED if diverged else FAILED, "reason": reason}
            self.say(f"{where}: {made['status']}: {reason}")
        _free(self.device)
        by = provenance(self.device)
        result = Result(
            family=family.name,
            title=family.title,
            formula=family.formula,
            source=family.source,
            latent=family.latent,
            likelihood=family.likelihood,
            recipe=family.recipe,
            key=own_key,
            minutes=settings.minutes,
            flops=settings.flops,
            device=str(by["device"]),
            data=self._data(),
            stages=records.stages(folder, config),
            curves=records.curves(folder),
            made_by=by,
            **made,
        )
        folder.mkdir(parents=True, exist_ok=True)
        result.write(folder)
        return result, True

    def _made(self, family: Family, config: RunConfig, folder: Path) -> dict[str, Any]:
        """Train, sample, judge: the fields of a result that is done."""
        self._share_audit(folder)
        target = train(config, self.data, folder, self.device, quiet=self.quiet, prepared=self.prepared)
        pipeline = load(target, self.device)
        with self.bars() as progress:
            drawn = self._drawn(pipeline, folder, progress)
            reference = self.reference
            verdict = judge(drawn.pixels, reference, self.device, told(progress, "features of samples"))
        self._sheets(folder, drawn, verdict)
        scores, missing = dict(verdict.scores), dict(verdict.missing)
        bits_kind = self._bits(pipeline, config, scores)
        model = pipeline.model
        counts = {"first stage": _count(model.first_stage), "prior": _count(model.prior)}
        return {
            "status": DONE,
            "parameters": {name: count for name, count in counts.items() if count},
            "num_samples": len(drawn.pixels),
            "seconds_per_sample": drawn.seconds_per_sample,
            "batch_size": drawn.batch_size,
            "sampler": drawn.sampler,
            "scores": scores,
            "missing": missing,
            "bits_kind": bits_kind,
        }

    def _share_audit(self, folder: Path) -> None:
        """Spare a family the look through pictures that all families share."""
        source = self.out / REFERENCE / AUDIT
        if source.is_file() and not folder.exists():
            (folder / AUDIT).parent.mkdir(parents=True)
            (folder / "run.lock").touch()  # marks the folder as a run's
            shutil.copyfile(source, folder / AUDIT)

    def _drawn(self, pipeline: Pipeline, folder: Path, progress: Progress | None) -> Drawn:
        """The samples, from the disk where they are."""
        settings, protocol = self.settings, self.settings.protocol
        stage = Stage(folder / "samples", key(pipeline.hash, protocol.samples, protocol.seed, settings.batch_size))
        stage.open()
        path, kept = stage.directory / "samples.safetensors", stage.results()
        if kept is not None:
            return Drawn(read_weights(path)["pixels"], **kept)
        seconds = 60 * settings.sample_minutes
        drawn = draw(pipeline, protocol.samples, protocol.seed, settings.batch_size, seconds, told(progress, "samples"))
        save_weights(path, {"pixels": drawn.pixels})
        found = {"seconds_per_sample": drawn.seconds_per_sample, "batch_size": drawn.batch_size, "sampler": drawn.sampler}
        stage.finish(found)
        return drawn

    def _sheets(self, folder: Path, drawn: Drawn, verdict: Verdict) -> None:
        """The first samples; those nearest to a training picture, above it."""
        save_sheet(folder / SAMPLES, sheet(list(drawn.pixels[:SHOWN]), COLUMNS))
        closest = verdict.distances.argsort()[:PAIRS]
        pairs = [*drawn.pixels[closest], *self.reference.training[verdict.nearest[closest]]]
        save_sheet(folder / NEIGHBOURS, sheet(pairs, len(closest)))

    def _bits(self, pipeline: Pipeline, config: RunConfig, scores: dict[str, Score]) -> str:
        """Add bits per dimension where they exist; returns what they are, or why there are none."""
        protocol = self.settings.protocol
        rest = chosen_and_rest(len(self.reference.held_out))[1]  # no picture by which weights were chosen
        held = self.reference.held_out[rest[: protocol.bits]]
        try:
            found = held_out_bits(
                pipeline.model,
                held,
                self.reference.training,
                DecoderLoss.of(config.first_stage.squared_error_alone),
                steps=self.settings.bound_steps,
                batch_size=self.settings.batch_size,
                seed=protocol.seed,
                device=self.device,
            )
        except UndefinedBits as error:
            return f"{error.why}."
        except InputError as error:
            return str(error)
        if not bool(found.values.isfinite().all()):
            return "it is infinite for some held-out pictures."
        rng = torch.Generator().manual_seed(protocol.seed)
        scores["bits"] = Score.of(mean_interval(found.values, rng, protocol.num_resamples))
        return "exact" if found.exact else "bound"

    def _data(self) -> dict[str, Any]:
        prepared = self.prepared
        return {
            "folder": self.data.name,
            "fingerprint": self.fingerprint[:16],
            "num_train": len(prepared.train),
            "num_held_out": len(prepared.held_out),
            "size": self.settings.size,
        }


def summary(result: Result) -> str:
    """A result in a line."""
    if not result.done:
        return result.status
    fd = result.scores.get("fd")
    return f"FD {fd.value:.3g}" if fd is not None else "done"


def told(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    """A callback that names what is being done."""
    return None if progress is None else lambda done, total: progress(what, done, total)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
