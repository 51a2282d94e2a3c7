"""A GAN's run: stage 1 is all of it, and the prior is the noise.

audit -> generator against discriminator -> samples -> model card
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sfumato.build import build_conditioner, build_first_stage, build_prior, encoder_of
from sfumato.first_stages.generator import GeneratorFirstStage
from sfumato.networks.discriminator import Discriminator
from sfumato.training import report
from sfumato.training.conditions import Pixels
from sfumato.training.inputs import condition_source
from sfumato.training.sampler import SampleSheet
from sfumato.training.stages import Stage, key
from sfumato.training.tasks.gan import GanTask, LabelledPixels

if TYPE_CHECKING:
    from sfumato.training.run import Run


def train_generator(run: Run, base: str) -> Path:
    """Train what is left of the run's GAN, whose data and seed have the key `base`; returns the model directory."""
    from sfumato.training.run import closing, count, rate

    config, part, device = run.config, run.config.first_stage, run.device
    told = config.prior.conditioner
    made_with = key(base, part.model, part.gan, part.discriminator, part.train, told, config.prior.model)
    stage = Stage(run.out / "first_stage", made_with, part.train.steps, part.train.seconds, part.train.flops)
    stage.open()
    target, results = run.out / "model", stage.results()
    if results is not None and run.is_saved(target):
        return target
    torch.manual_seed(config.seed)
    first = build_first_stage(part.model).to(device)
    assert isinstance(first, GeneratorFirstStage)
    discriminator = Discriminator(part.discriminator).to(device)
    conditioner = build_conditioner(told, run.tokenizer, encoder_of(first)).to(device)
    prior = build_prior(config.prior.model, first).to(device)
    resident = run.resident()
    data = run.data.train
    conditions = condition_source(conditioner, data, run.data.beside, device, 1, resident, flip=config.data.flip)
    source = LabelledPixels(Pixels(data, resident, device), conditions, config.seed, config.data.flip)
    task = GanTask(first, conditioner, discriminator, part.gan, source)
    reporter = run.reporter(stage)
    with closing(reporter):
        trainer = run.trainer(task, part.train, stage, reporter)
        averaged: Any = trainer.state.ema.modules if trainer.state.ema else task.modules()
        model = run.model(averaged["first_stage"], prior, averaged["conditioner"])
        samples = SampleSheet(model, config, run.data, conditions, device)

        def on_sample(step: int) -> None:
            page = samples.make()
            report.save_sheet(stage.directory / "samples" / f"step-{step:08d}.png", page)
            reporter.image("samples", page, step)

        counts = f"generator: {count(first):,} parameters, discriminator: {count(discriminator):,}"
        outcome = run.train(trainer, on_sample, counts)
    results = results or {"steps": outcome.step, "images_per_second": rate(outcome)}
    run.finish_model(model, target, results, {"steps": 0, "images_per_second": 0.0})
    stage.finish(results)
    return target
