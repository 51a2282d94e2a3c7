"""Every family on the mixture: train, draw, judge. One that breaks down is reported with its curve, and the others go on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import sfumato
from sfumato.errors import InputError, unknown
from sfumato.studies.mixture.adversarial import Adversarial
from sfumato.studies.mixture.autoregressive import Autoregressive
from sfumato.studies.mixture.base import Evidence, Model
from sfumato.studies.mixture.coupling import Flow
from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.diffusion import Diffusion, Rectified
from sfumato.studies.mixture.fit import Budget, Diverged
from sfumato.studies.mixture.latent import LatentDiffusion
from sfumato.studies.mixture.modes import judge
from sfumato.studies.mixture.networks import count_parameters
from sfumato.studies.mixture.outcome import Outcome, Score, Study
from sfumato.studies.mixture.quantized import Quantizing
from sfumato.studies.mixture.variational import Variational

HELD_OUT, JUDGED, SHOWN = 1000, 4000, 1000
HELD_OUT_SEED = 2**31  # apart from the seeds of training, and the same for all


@dataclass(frozen=True)
class Family:
    """One row: its name on the command line, its title, how it is built with random weights, and its steps of training."""

    name: str
    title: str
    build: Callable[[], Model]
    steps: int


FAMILIES: tuple[Family, ...] = (
    Family("gan", "GAN", Adversarial, 2000),
    Family("vae", "VAE", Variational, 2000),
    Family("vqvae", "VQ-VAE", Quantizing, 1500),
    Family("autoregressive", "Autoregressive", Autoregressive, 500),
    Family("flow", "Flow", Flow, 1500),
    Family("ddpm", "DDPM", Diffusion, 1500),
    Family("rectified", "Rectified flow", Rectified, 1500),
    Family("ldm", "LDM", LatentDiffusion, 2000),
)


def families(names: Sequence[str]) -> tuple[Family, ...]:
    """Those of these names, in the order of `FAMILIES`; all for none. Raises `InputError` for another name."""
    known = {family.name: family for family in FAMILIES}
    for name in names:
        if name not in known:
            raise unknown("family", name[:40], known)
    return tuple(family for family in FAMILIES if not names or family.name in names)


def study(
    mixture: Mixture,
    seed: int = 0,
    seconds: float | None = None,
    names: Sequence[str] = (),
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> Study:
    """Train and judge the families of `names`, all for none; `done` is called after each.

    seconds: of processor time for the training of each, in place of its steps. PyTorch runs in one thread meanwhile, which is
    fastest at this size and keeps a seed's numbers the same on one machine. Raises `InputError` for wrong names and seconds.
    """
    chosen, outcomes = families(names), []
    if seconds is not None and not 0 < seconds < math.inf:
        raise InputError(f"seconds: got {seconds}, expected above 0, or none for each family's own number of steps.")
    with one_thread(), torch.random.fork_rng(devices=[]):
        for family in chosen:
            outcomes.append(one(family, mixture, seed, seconds))
            done(outcomes[-1])
    return Study(mixture, seed, seconds, HELD_OUT, JUDGED, tuple(outcomes), sfumato.__version__)


def one(family: Family, mixture: Mixture, seed: int, seconds: float | None = None, steps: int | None = None) -> Outcome:
    """Train and judge one family; `steps` in place of its own. It sets PyTorch's global seed, which draws its weights."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    model, budget = family.build(), Budget(steps or family.steps, seconds)
    begin = time.process_time()
    try:
        curve, failed = model.learn(mixture, budget, rng), None
    except Diverged as error:
        curve, failed = error.curve, str(error)
    took = time.process_time() - begin
    start = Outcome(
        family.name, family.title, model.evidence.value, count_parameters(model), curve.steps, round(took, 2),
        tuple((step, round(loss, 5)) for step, loss in curve.points if math.isfinite(loss)), failed=failed,
    )  # fmt: skip
    return start if failed else judged(start, model, mixture, rng)


def judged(start: Outcome, model: Model, mixture: Mixture, rng: torch.Generator) -> Outcome:
    """`start` with what a trained model draws and says of held-out points."""
    begin = time.process_time()
    points = model.sample(JUDGED, rng)
    took = (time.process_time() - begin) / JUDGED * 1000
    x = mixture.sample(HELD_OUT, torch.Generator().manual_seed(HELD_OUT_SEED))
    if not bool(points.isfinite().all()):
        return replace(start, failed="it draws points that are no finite numbers")
    score = None if model.evidence is Evidence.none else scored(model.log_prob(x, rng), mixture.log_prob(x))
    shown = tuple((round(a, 3), round(b, 3)) for a, b in points[:SHOWN].tolist())
    return replace(
        start,
        sample_seconds=round(took, 4),
        modes=judge(points, mixture),
        score=score,
        points=shown,
        details=model.details(mixture, x, rng),
    )


def scored(log_prob: Tensor, truth: Tensor) -> Score:
    """Both (B,), in nats."""
    log_prob, count = log_prob.detach().double(), len(truth)
    excess = truth - log_prob
    return Score(
        float(log_prob.mean()),
        float(log_prob.std()) / math.sqrt(count),
        float(excess.mean()),
        float(excess.std()) / math.sqrt(count),
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch in one thread inside, as before outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
