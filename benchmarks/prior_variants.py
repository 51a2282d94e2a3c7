"""One variant of a run's prior, trained for a while on the run's latents: its loss on held-out pictures, and its speed.

    python benchmarks/prior_variants.py RUN --data DIR [--set prior.FIELD=VALUE ...] [--images N | --seconds S]
        [--lock FILE] [--save MODEL]

RUN is a folder of `sfumato train` whose first stage is done (that command with `--set prior.train.steps=1` makes one). Only
fields of the prior may differ, so variants meet the same latents. The loss is the mean squared error of the averaged weights in
the network's own output space, on the mean latents of the validation pictures with their first captions, at ten times from 0.05
to 0.95 with the same noise for every variant: comparable between variants of one prediction and one schedule. `--lock`: a file
that lets one process at a time train, so that several may compile beside each other. `--save` writes the averaged weights as a
model, for `sfumato evaluate MODEL --split validation`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from common import table, write
from filelock import FileLock

from sfumato.build import ModelConfig, build_conditioner, build_prior
from sfumato.config import from_dict, override
from sfumato.first_stages.base import FirstStage
from sfumato.generation.pixels import to_unit
from sfumato.io.files import read_json
from sfumato.io.pretrained import save_pretrained
from sfumato.model import LatentModel
from sfumato.training.cache import cached_latents
from sfumato.training.config import RunConfig
from sfumato.training.fit import latent_factor
from sfumato.training.inputs import condition_source, conditions_of
from sfumato.training.loop import Trainer, autocast
from sfumato.training.prepare import adapt, prepare_data, sampling_weights
from sfumato.training.progress import Reporter
from sfumato.training.run import Run
from sfumato.training.signals import StopFlag
from sfumato.training.stages import Stage, key
from sfumato.training.tasks.diffusion import DiffusionTask

TIMES = [0.05 + 0.1 * i for i in range(10)]
WARM_UP = 8  # steps before the clock starts: compilation, and the recording of a step


def variant(run_directory: Path, data: Path, assignments: list[str], device: torch.device) -> tuple[Run, FirstStage, Any]:
    """The run with a changed prior, its first stage and its cached latents."""
    given = read_json(run_directory / "config.json")
    config = from_dict(RunConfig, override(given, assignments))
    prepared = prepare_data(data, config.data, None)
    resolved, tokenizer = adapt(config, prepared)
    base, part = key(prepared.train.fingerprint(), resolved.data, resolved.seed), resolved.first_stage
    stage = Stage(run_directory / "first_stage", key(base, part.model, part.loss, part.train, part.init), part.train.steps)
    if stage.results() is None:  # another key, and opening the stage would delete what is there
        raise SystemExit(
            "the run has no first stage of this data and config; only fields of the prior may differ from the run's."
        )
    run = Run(resolved, tokenizer, prepared, run_directory, device, StopFlag(), quiet=True)
    first, _, first_key = run._first_stage(base)
    return run, first, cached_latents(run, first, first_key)[0]


def make_task(run: Run, first: FirstStage, cached: Any) -> DiffusionTask:
    """The prior's task as the run itself makes it."""
    part = run.config.prior
    torch.manual_seed(run.config.seed + 1)
    conditioner = build_conditioner(part.conditioner, run.tokenizer)
    prior = build_prior(part.model, first)
    factor = latent_factor(run.config.first_stage.model)
    conditions = condition_source(conditioner, run.data.train, run.data.beside, run.device, factor)
    weights = sampling_weights(run.data.train, part.balance_by, part.balance)
    source = cached.source(conditions, run.device, run.config.seed, weights)
    return DiffusionTask(prior.to(run.device), conditioner.to(run.device), source, part.dropout)


@torch.inference_mode()
def held_out_loss(task: DiffusionTask, modules: Any, first: FirstStage, run: Run, config: Any) -> list[float]:
    """The mean squared error at each of `TIMES` over the held-out pictures."""
    prior, conditioner, data = modules["prior"], modules["conditioner"], run.data.held_out
    rng = torch.Generator().manual_seed(7)
    sums, count = torch.zeros(len(TIMES), dtype=torch.float64), 0
    for start in range(0, len(data), 128):
        rows = range(start, min(start + 128, len(data)))
        z = first.posterior(to_unit(torch.stack([data.pixels(i) for i in rows]).to(run.device))).mean
        with autocast(config, run.device):
            cond = conditioner(conditioner.prepare([conditions_of(conditioner, data, i)[0] for i in rows]).to(run.device))
            for place, moment in enumerate(TIMES):
                eps = torch.randn(z.shape, generator=rng).to(run.device)
                t = torch.full((len(z),), moment, device=run.device)
                error = prior.denoiser.output(prior.denoiser.noised(z, eps, t), t, cond).float() - prior.denoiser.target(
                    z, eps, t
                )
                sums[place] += float(error.square().mean()) * len(z)
        count += len(z)
    return (sums / count).tolist()


def save(directory: Path, run: Run, first: FirstStage, modules: Any) -> None:
    """Write the run's first stage with a variant's prior and conditioner as a model directory."""
    config, size = run.config, (run.config.data.size, run.config.data.size)
    model = LatentModel(first, modules["prior"], modules["conditioner"], size)
    shape = ModelConfig(config.first_stage.model, config.prior.model, config.prior.conditioner, size)
    save_pretrained(directory, model, shape, defaults=config.sampling, name=directory.name, storage=config.storage)


def train(trainer: Trainer, seconds: float, images: int | None) -> tuple[int, float]:
    """Steps after the warm-up, and how long they took."""
    start, step = time.monotonic(), WARM_UP
    batch = trainer.config.batch_size
    while step * batch < images if images is not None else time.monotonic() - start < seconds:
        trainer._step(step)
        step += 1
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)
    return step - WARM_UP, time.monotonic() - start


def main(argv: list[str] | None = None) -> int:
    """Print the losses and the speed; with --out write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--seconds", type=float, default=60, help="of training, compilation not counted (default: 60)")
    parser.add_argument("--images", type=int, help="train on so many pictures instead of so many seconds")
    parser.add_argument("--lock", type=Path)
    parser.add_argument("--save", type=Path, metavar="MODEL")
    parser.add_argument("--name", default="")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    if args.save and args.save.exists():
        raise SystemExit(f"{args.save} is there already; give another name.")
    device = torch.device(args.device)
    run, first, cached = variant(args.run, args.data, args.set, device)
    task, config = make_task(run, first, cached), run.config.prior.train
    parameters = {k: sum(p.numel() for p in m.parameters()) for k, m in task.modules().items()}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(task, config, Path(folder), device, run.config.seed, Reporter(Path(folder), "variant", quiet=True))
        begin = time.monotonic()
        for step in range(WARM_UP):
            trainer._step(step)
        warm = time.monotonic() - begin
        with FileLock(args.lock) if args.lock else nullcontext():
            steps, taken = train(trainer, args.seconds, args.images)
        averaged = trainer.state.ema.modules if trainer.state.ema else task.modules()
        losses = held_out_loss(task, averaged, first, run, config)
    if args.save:
        save(args.save, run, first, averaged)
    rate = steps * config.batch_size / max(taken, 1e-9)
    found = {
        "name": args.name or " ".join(args.set) or "as it is", "loss": sum(losses) / len(losses), "losses": losses,
        "images": steps * config.batch_size, "seconds": taken, "images_per_second": rate, "warm_up_seconds": warm,
        "parameters": parameters,
    }  # fmt: skip
    header = ["variant", "held-out loss", "at t = 0.15, 0.55, 0.95", "pictures", "pictures/s", "warm-up s", "M parameters"]
    shown = " ".join(f"{losses[i]:.4f}" for i in (1, 5, 9))
    count = sum(parameters.values()) / 1e6
    row = [found["name"], f"{found['loss']:.5f}", shown, found["images"], f"{rate:.0f}", f"{warm:.0f}", f"{count:.1f}"]
    print(table(header, [row]), flush=True)
    write(args.out, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
