"""What a model is worth: its samples against real pictures, and how fast it makes them."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfumato.diffusion.grids import Spacing
from sfumato.errors import InputError
from sfumato.evaluation.data import EvaluationData, choose
from sfumato.evaluation.reference import ReferenceCache
from sfumato.evaluation.scoring import Scorer
from sfumato.generation.pixels import to_bytes, to_unit
from sfumato.metrics.bootstrap import bootstrap
from sfumato.metrics.frechet import Moments, frechet_distance, moments
from sfumato.model import LatentModel
from sfumato.noise import PictureNoise
from sfumato.priors.diffusion import DiffusionSettings
from sfumato.samplers import SAMPLERS
from sfumato.studies.compression.results import FEWEST, Distance, Settings
from sfumato.training.prepare import Prepared
from sfumato.training.report import reconstruct

MOST_REAL = 5000
"""Training pictures that samples are compared with; of more a random choice."""
BATCH = {"cpu": 16}
"""Pictures at once, by device; 256 elsewhere."""
RESAMPLES = 100


@dataclass(frozen=True)
class Reference:
    """Moments of real pictures' features; held: held-out pictures (N, C, H, W) uint8; floor: their distance, if N suffices."""

    moments: Moments
    scorer: Scorer
    held: Tensor
    floor: float | None
    seed: int

    def distance(self, pixels: Tensor, device: torch.device) -> Distance:
        """Of pictures (N, C, H, W) uint8, N >= `FEWEST`, with what another choice of N of their kind would change."""
        features = self.scorer(pixels, device, _batch(len(pixels), device))

        def against(index: Tensor) -> float:
            return frechet_distance(moments(features[index]), self.moments)

        rng = torch.Generator().manual_seed(self.seed)
        found = bootstrap(len(features), against, rng, num_resamples=RESAMPLES, centred=True)
        return Distance(found.value, found.low, found.high)


def make_reference(prepared: Prepared, settings: Settings, cache: Path, device: torch.device) -> Reference:
    """From the training pictures; features are kept under `cache`. Raises `InputError` where there are too few."""
    if len(prepared.train) < FEWEST:
        raise InputError(
            f"data: {len(prepared.train)} pictures to train on, expected {FEWEST} or more to compare samples with."
        )
    scorer = Scorer(resize=settings.resize)

    def read(part: str, wanted: int) -> EvaluationData | None:
        whole = prepared.train if part == "train" else prepared.held_out
        if not len(whole):
            return None
        chosen = whole.part(choose(len(whole), wanted, settings.seed))
        blank = [""] * len(chosen)
        return EvaluationData(chosen.load_all(), blank, blank, [record.name for record in chosen.records])

    real, held = read("train", MOST_REAL), read("held out", settings.samples)
    assert real is not None
    features = ReferenceCache(cache).features(real, scorer, device, _batch(len(real), device))
    reference = Reference(moments(features), scorer, real.pixels[:0] if held is None else held.pixels, None, settings.seed)
    if held is None or len(held) < FEWEST:
        return reference
    floor = reference.distance(held.pixels, device).value
    return Reference(reference.moments, scorer, held.pixels, floor, settings.seed)


def sample(
    model: LatentModel, count: int, num_steps: int, seed: int, device: torch.device, batch: int | None = None
) -> tuple[Tensor, float]:
    """`count` pictures (N, C, H, W) uint8 by DDIM, picture i with the noise of seed + i; and the seconds it took, noise,
    denoising and decoding. Raises `InputError` where they are not finite."""
    size = batch or _batch(count, device)
    settings = DiffusionSettings(SAMPLERS["ddim"], num_steps, Spacing.trailing)
    parts: list[Tensor] = []
    _wait(device)
    start = time.perf_counter()
    for first in range(0, count, size):
        seeds = range(seed + first, seed + min(first + size, count))
        x = _made(model, settings, PictureNoise(seeds), len(seeds), device)
        if not bool(x.isfinite().all()):
            raise InputError("the samples are not finite: training has diverged.")
        parts.append(to_bytes(x).cpu())
    return torch.cat(parts), time.perf_counter() - start


def warm_up(model: LatentModel, count: int, device: torch.device) -> None:
    """One short call of the shape that `sample` has, so that what is chosen once is not timed."""
    size = _batch(count, device)
    sample(model, size, 2, 0, device, size)


@torch.inference_mode()
def reconstructions(model: LatentModel, pixels: Tensor, device: torch.device) -> Tensor:
    """Pictures (N, C, H, W) uint8 through the first stage, as bytes."""
    parts = [to_bytes(reconstruct(model.encoder, to_unit(part.to(device)))).cpu() for part in pixels.split(32)]
    return torch.cat(parts)


@torch.inference_mode()
def _made(model: LatentModel, settings: DiffusionSettings, noise: PictureNoise, count: int, device: torch.device) -> Tensor:
    """(B, C, H, W), about [-1, 1]: the denoiser in bf16 on a GPU, all sums and the decoder in fp32."""
    conditioner = model.conditioner
    told = [conditioner.from_prompt("", model.image_size)] * count
    twins = conditioner.twins(conditioner.prepare(told).to(device), 1.0, None)
    shape = (count, *model.latent_shape(*model.image_size))
    with _half(device):
        z = model.prior.sample(shape, twins, settings, noise)
    return model.decode(z.float())


def _half(device: torch.device) -> AbstractContextManager[object]:
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def _batch(count: int, device: torch.device) -> int:
    """Equal batches, of which none is a rest of another shape where that can be."""
    most = BATCH.get(device.type, 256)
    return -(-count // -(-count // most))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
