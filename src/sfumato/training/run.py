"""A whole run of the paper in one resumable call.

    audit -> first stage -> reconstruction report -> latent statistics and cache -> prior -> samples -> model card

Each part is done once; calling again continues, or does nothing. What a change does not touch is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sfumato.build import LearnedFirstStage, ModelConfig, build_conditioner, build_first_stage, build_prior, encoder_of
from sfumato.conditioners.base import Conditioner
from sfumato.config import to_dict
from sfumato.errors import InputError
from sfumato.first_stages.base import Decoder, FirstStage
from sfumato.io.files import machine_errors, write_json
from sfumato.io.pretrained import WEIGHTS, read_config, save_pretrained
from sfumato.io.weights import load_strictly, read_storage, read_weights, save_weights
from sfumato.model import LatentModel
from sfumato.networks.generator import GeneratorConfig
from sfumato.priors.base import Prior
from sfumato.priors.flow import FlowPrior
from sfumato.training import latents, report
from sfumato.training.cache import cached_latents
from sfumato.training.card import card
from sfumato.training.check import check
from sfumato.training.codes import CachedCodes
from sfumato.training.conditions import unflat
from sfumato.training.config import OptimConfig, RunConfig
from sfumato.training.fit import latent_factor
from sfumato.training.generator import train_generator
from sfumato.training.held_out import HeldOut, held_out_loss
from sfumato.training.inputs import condition_source, wants_pixels
from sfumato.training.lock import locked
from sfumato.training.loop import Outcome, Trainer
from sfumato.training.pixels import PixelSource, fits
from sfumato.training.prepare import Prepared, adapt, prepare_data, sampling_weights
from sfumato.training.progress import Reporter
from sfumato.training.sampler import SampleSheet
from sfumato.training.signals import StopFlag, Stopped
from sfumato.training.stages import Stage, key
from sfumato.training.start import Frozen, fill_frozen, frozen_first_stage, start_first_stage, start_part
from sfumato.training.tasks.autoencoder import AutoencoderTask
from sfumato.training.tasks.base import Task
from sfumato.training.tasks.diffusion import DiffusionTask

HELD_OUT_SHOWN = 512


@dataclass
class Run:
    """One run directory at work. `out` is RUN, `device` where it computes."""

    config: RunConfig
    tokenizer: str | None
    data: Prepared
    out: Path
    device: torch.device
    stop: StopFlag
    quiet: bool = False
    frozen: Frozen | None = None

    def execute(self, only_first_stage: bool = False) -> Path:
        """Do what is left; returns the model directory, or the first stage's. Raises `Stopped` after saving if told to stop."""
        base = key(self.data.train.fingerprint(), self.config.data, self.config.seed)
        if isinstance(self.config.first_stage.model, GeneratorConfig):
            return train_generator(self, base)
        first, first_results, first_key = self._first_stage(base)
        if only_first_stage:
            return self.out / "first_stage"
        source, latent_key = cached_latents(self, first, first_key)
        return self._prior(first, source, first_results, latent_key)

    def _first_stage(self, base: str) -> tuple[FirstStage, dict[str, Any], str]:
        part = self.config.first_stage
        if part.frozen:
            return self._frozen_first_stage(base)
        own_key = key(base, part.model, part.loss, part.train, part.init)
        stage = Stage(self.out / "first_stage", own_key, part.train.steps, part.train.seconds, part.train.flops)
        first = build_first_stage_seeded(self.config).to(self.device)
        if not isinstance(first, LearnedFirstStage):
            return first, {"steps": 0, "images_per_second": 0.0, "reconstruction": _perfect()}, stage.key
        stage.open()
        weights = stage.directory / "first_stage.safetensors"
        results = stage.results()
        if results is None:
            results = self._train_first_stage(first, stage, weights)
        load_strictly(first, read_weights(weights), str(weights))
        return first.eval().requires_grad_(False), results, stage.version

    def _frozen_first_stage(self, base: str) -> tuple[FirstStage, dict[str, Any], str]:
        """The first stage of another model; its unit scale is measured only where that model has none."""
        self.frozen = frozen_first_stage(self.config.first_stage.frozen)
        first = build_first_stage_seeded(self.config)
        fill_frozen(first, self.frozen)
        first = first.to(self.device).eval().requires_grad_(False)
        if isinstance(first, LearnedFirstStage):  # conditioners of pictures encode with it at every step
            first = _layout(first, self.device)
        stage = Stage(self.out / "first_stage", key(base, "frozen", self.frozen.digest()))
        stage.open()
        results = stage.results()
        if results is None:
            numbers = _perfect()
            if isinstance(first, LearnedFirstStage):
                numbers = report.reconstruction_report(first, self._held_out_pixels(), self.device)
            results = stage.finish({"steps": 0, "images_per_second": 0.0, "reconstruction": numbers})
        return first, results, stage.key

    def _train_first_stage(self, first: LearnedFirstStage, stage: Stage, weights: Path) -> dict[str, Any]:
        part = self.config.first_stage
        if part.init:
            start_first_stage(first, part.init)
        reporter = self.reporter(stage)
        resident = self.resident()
        source = PixelSource(self.data.train, resident, self.device, self.config.seed, self.config.data.flip)
        task = AutoencoderTask(_layout(first, self.device), part.loss, source, self.device)
        held_out = self._held_out_pixels()
        with closing(reporter):
            trainer = self.trainer(task, part.train, stage, reporter)
            averaged = cast(FirstStage, trainer.state.ema.modules["first_stage"]) if trainer.state.ema else first

            def on_sample(step: int) -> None:
                page = report.pairs_sheet(averaged, held_out, self.device)
                report.save_sheet(stage.directory / "samples" / f"step-{step:08d}.png", page)
                reporter.image("reconstruction", page, step)

            outcome = self.train(trainer, on_sample, f"first stage: {count(first):,} parameters")
        save_weights(weights, averaged.state_dict())
        averaged.eval()
        numbers = report.reconstruction_report(averaged, held_out, self.device)
        report.save_sheet(stage.directory / "pairs.png", report.pairs_sheet(averaged, held_out, self.device, 32))
        write_json(stage.directory / "reconstruction.json", numbers)
        alpha = f", alpha PSNR {numbers['alpha_psnr']:.2f} dB" if "alpha_psnr" in numbers else ""
        reporter.say(
            f"reconstruction: PSNR {numbers['psnr']:.2f} dB, SSIM {numbers['ssim']:.4f}, "
            f"perceptual {numbers['perceptual']:.4f}{alpha}"
        )
        return stage.finish({"steps": outcome.step, "images_per_second": rate(outcome), "reconstruction": numbers})

    def _prior(
        self, first: FirstStage, cached: latents.Cached | CachedCodes, first_results: dict[str, Any], latent_key: str
    ) -> Path:
        config, part = self.config, self.config.prior
        stage = Stage(
            self.out / "prior",
            key(latent_key, part.model, part.conditioner, part.dropout, part.train, part.init, part.balance_by, part.balance),
            part.train.steps,
            part.train.seconds,
            part.train.flops,
        )
        stage.open()
        target = self.out / "model"
        results = stage.results()
        if results is not None and self.is_saved(target):
            return target
        torch.manual_seed(config.seed + 1)
        conditioner = build_conditioner(part.conditioner, self.tokenizer, encoder_of(first))
        prior = build_prior(part.model, first)
        resident = self.resident() if wants_pixels(part.conditioner) else None
        conditions = condition_source(
            conditioner,
            self.data.train,
            self.data.beside,
            self.device,
            latent_factor(config.first_stage.model),
            resident,
            flip=config.data.flip,
        )
        weights = sampling_weights(self.data.train, part.balance_by, part.balance)
        source = cached.source(conditions, self.device, config.seed, weights)
        if part.init:
            start_part(prior, part.init, "prior")
            start_part(conditioner, part.init, "conditioner")
        prior, conditioner = prior.to(self.device), conditioner.to(self.device)
        task = DiffusionTask(prior, conditioner, source, part.dropout)
        if not task.parameters()["prior"]:  # a normal prior has nothing to learn
            samples = SampleSheet(self.model(first, prior, conditioner), config, self.data, conditions, self.device)
            report.save_sheet(stage.directory / "samples" / "step-00000000.png", samples.make())
            return self._finish(stage, samples.model, target, first_results, {"steps": 0, "images_per_second": 0.0})
        if isinstance(prior, FlowPrior):
            self._initialise(prior, task, part.train)
        reporter = self.reporter(stage)
        with closing(reporter):
            trainer = self.trainer(task, part.train, stage, reporter)
            averaged = trainer.state.ema.modules if trainer.state.ema else task.modules()
            model = self.model(first, averaged["prior"], averaged["conditioner"])
            samples = SampleSheet(model, config, self.data, conditions, self.device)

            def on_sample(step: int) -> None:
                page = samples.make()
                report.save_sheet(stage.directory / "samples" / f"step-{step:08d}.png", page)
                reporter.image("samples", page, step)

            held_out = held_out_loss(model, config, self.data, conditions, self.device, stage.directory)
            said = f"prior: {count(prior):,} parameters, conditioner: {count(conditioner):,}"
            outcome = self.train(trainer, on_sample, said, held_out)
        results = results or {"steps": outcome.step, "images_per_second": rate(outcome)}
        reporter.say(held_out.finish(results))
        return self._finish(stage, model, target, first_results, results)

    def _finish(
        self, stage: Stage, model: LatentModel, target: Path, first_results: dict[str, Any], results: dict[str, Any]
    ) -> Path:
        self.finish_model(model, target, first_results, results)
        stage.finish(results)
        return target

    def _initialise(self, flow: FlowPrior, task: DiffusionTask, config: OptimConfig) -> None:
        """Set a flow's activation norms by a first batch, before there is an average or a compiled network."""
        rng = torch.Generator(self.device).manual_seed(self.config.seed)
        batch = task.batch(0, config, rng)
        with torch.no_grad():
            flow.initialise(batch["z"], task.conditioner(unflat(batch)), rng)

    def model(self, first: Decoder, prior: nn.Module, conditioner: nn.Module) -> LatentModel:
        """These parts, or their averages, as a model."""
        size = self.config.data.size
        return LatentModel(first, cast(Prior[Any], prior), cast(Conditioner[Any, Any], conditioner), (size, size))

    def is_saved(self, target: Path) -> bool:
        """Whether the model is there with this config's name, sampling defaults and storage, which take no training."""
        if not (target / "manifest.json").is_file() or not (target / WEIGHTS).is_file():
            return False
        try:
            _, defaults, name = read_config(target)
            found = (defaults, name, read_storage(target / WEIGHTS))
        except InputError:  # damaged: it is written anew from the stage's checkpoint
            return False
        return found == (self.config.sampling, self.config.name, self.config.storage)

    def finish_model(self, model: LatentModel, target: Path, first: dict[str, Any], prior: dict[str, Any]) -> None:
        config = self.config
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        results = {"first_stage": first, "prior": prior, "device": name}
        parts = {
            "first stage": count(model.first_stage),
            "prior": count(model.prior),
            "conditioner": count(model.conditioner),
        }
        text = card(config, self._data_summary(), results, parts)
        shape = ModelConfig(config.first_stage.model, config.prior.model, config.prior.conditioner, model.image_size)
        save_pretrained(target, model, shape, defaults=config.sampling, name=config.name, card=text, storage=config.storage)

    def _data_summary(self) -> dict[str, Any]:
        found = self.data.summary
        return {
            "num_train": len(self.data.train),
            "num_held_out": len(self.data.held_out),
            "num_bad": len(found["bad"]),
            "num_duplicates": found["num_duplicates"],
        }

    def trainer(self, task: Task, config: OptimConfig, stage: Stage, reporter: Reporter) -> Trainer:
        for module in task.modules().values():
            prepare_module(module, config)
        trainer = Trainer(task, config, stage.directory, self.device, self.config.seed, reporter)
        step = trainer.resume()
        if step:
            reporter.say(f"{task.name}: going on from step {step}")
        return trainer

    def train(
        self, trainer: Trainer, on_sample: Callable[[int], None], headline: str, measure: HeldOut | None = None
    ) -> Outcome:
        trainer.reporter.say(f"{headline}, {trainer.config.length} of {trainer.config.batch_size} on {self.device}")
        outcome = trainer.run(self.stop, on_sample, measure)
        if not outcome.finished:
            raise Stopped(
                f"stopped by {self.stop.reason} at step {outcome.step} of {trainer.task.name}; the same command goes on."
            )
        return outcome

    def reporter(self, stage: Stage) -> Reporter:
        return Reporter(stage.directory, stage.directory.name, self.out / "tensorboard", self.quiet)

    def resident(self) -> torch.Tensor | None:
        if not fits(self.data.train, self.device, self.config.data.channels, self.config.data.size):
            return None
        return self.data.train.resident()

    def _held_out_pixels(self) -> torch.Tensor:
        shown = self.data.held_out if len(self.data.held_out) else self.data.train
        return torch.stack([shown.pixels(i) for i in range(min(len(shown), HELD_OUT_SHOWN))])


def build_first_stage_seeded(config: RunConfig) -> FirstStage:
    """The first stage with the random weights of the run's seed. A generator is trained elsewhere."""
    torch.manual_seed(config.seed)
    first = build_first_stage(config.first_stage.model)
    assert isinstance(first, FirstStage)
    return first


def prepare_module(module: nn.Module, config: OptimConfig) -> None:
    """Switch recomputation of activations on where it is asked for."""
    for child in module.modules():
        if hasattr(child, "checkpointing"):
            child.checkpointing = config.checkpointing  # type: ignore[assignment]


def resolve(config: RunConfig, data: Path) -> tuple[RunConfig, Prepared]:
    """The config that fits the data, without writing anything."""
    prepared = prepare_data(data, config.data, None)
    resolved = adapt(config, prepared)[0]
    check(resolved)
    return resolved, prepared


def parameter_counts(config: RunConfig) -> dict[str, int]:
    """Trainable parameters of each part, counted without memory."""
    from sfumato.conditioners.text import TextEncoder

    with torch.device("meta"):
        first = build_first_stage(config.first_stage.model)
        counts = {"first stage": count(first), "prior": count(build_prior(config.prior.model, first))}
    part = config.prior.conditioner
    tokenizer = TextEncoder.learn_tokenizer(["a"], 300).to_str()
    return counts | {"conditioner": count(build_conditioner(part, tokenizer, encoder_of(first)))}


def train(
    config: RunConfig,
    data: Path,
    out: Path,
    device: torch.device,
    *,
    minutes: float | None = None,
    quiet: bool = False,
    only_first_stage: bool = False,
    prepared: Prepared | None = None,
) -> Path:
    """Train both stages on the folder `data` in the folder `out`; returns the model directory.

    With `only_first_stage`, the first stage's directory: other runs can take it (`first_stage.frozen`). `prepared`: what
    `prepare_data` made of this folder with this data config, so that runs of runs look at it and read it once. Raises
    `Stopped` after saving when a signal came or `minutes` are over, `InputError`, `MachineError`.
    """
    if out.resolve().is_relative_to(data.resolve()):
        raise InputError(f"--out {out} lies inside --data {data}, whose pictures it would join; give another folder.")
    with machine_errors(out), locked(out), StopFlag(minutes) as stop:
        prepared = prepared or prepare_data(data, config.data, out)
        resolved, tokenizer = adapt(config, prepared)
        check(resolved)
        if not quiet:
            print("\n".join(prepared.summary["lines"]), file=sys.stderr)
        write_json(out / "config.json", to_dict(resolved))
        return Run(resolved, tokenizer, prepared, out, device, stop, quiet).execute(only_first_stage)


@contextmanager
def closing(reporter: Reporter) -> Iterator[None]:
    try:
        yield
    finally:
        reporter.close()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def rate(outcome: Outcome) -> float:
    return outcome.images / outcome.seconds if outcome.seconds > 0 else 0.0


def _layout(first: LearnedFirstStage, device: torch.device) -> LearnedFirstStage:
    """Channels-last weights on a GPU, where convolutions are faster with them."""
    return first.to(memory_format=torch.channels_last) if device.type == "cuda" else first  # type: ignore[call-overload]


def _perfect() -> dict[str, float]:
    return {"psnr": float("inf"), "ssim": 1.0, "perceptual": 0.0, "pictures": 0.0}
