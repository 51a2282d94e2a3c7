"""Between the stages: latents or codes of all pictures on disk, and the unit scale of latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from sfumato.build import LearnedFirstStage
from sfumato.first_stages.base import FirstStage
from sfumato.io.weights import read_weights, save_weights
from sfumato.priors.autoregressive import AutoregressiveConfig
from sfumato.priors.hierarchical import HierarchicalConfig
from sfumato.priors.normal import NormalConfig
from sfumato.training import latents
from sfumato.training.codes import CachedCodes, measure_codes
from sfumato.training.pixels import PixelSource
from sfumato.training.progress import lines
from sfumato.training.signals import Stopped
from sfumato.training.stages import Stage, key

if TYPE_CHECKING:
    from sfumato.training.run import Run


def cached_latents(run: Run, first: FirstStage, first_key: str) -> tuple[latents.Cached | CachedCodes, str]:
    """What the prior trains on, and the key of that. The first stage gets its unit scale; 1 for a VAE."""
    model = run.config.prior.model
    of_codes = isinstance(model, AutoregressiveConfig | HierarchicalConfig)
    own = [model.kind] if of_codes or isinstance(model, NormalConfig) else []
    stage = Stage(run.out / "latents", key(first_key, run.config.data.flip, *own))
    stage.open()
    if of_codes and not isinstance(first, LearnedFirstStage):
        return _codes(run, first, stage), stage.key  # 8-bit pixels, which have no statistics
    paths = [stage.directory / "moments.safetensors"] + [stage.directory / "flipped.safetensors"] * run.config.data.flip
    scale = stage.directory / "scale.safetensors"
    if stage.results() is None:
        source = PixelSource(run.data.train, run.resident(), run.device, run.config.seed)
        for index, path in enumerate(paths):
            moments, small = latents.measure(first, _watched(run, source.in_order(32, flipped=index == 1)))
            moments.save(path)
            if index == 0:
                numbers = latents.normalize(first, moments, small, unit=not isinstance(model, NormalConfig))
                if run.frozen is not None and run.frozen.statistics:
                    first.load_state_dict(dict(run.frozen.statistics), strict=False)
                save_weights(scale, {k: v for k, v in first.state_dict().items() if k in ("shift", "scale", "preview")})
        stage.finish(numbers)
    scales = read_weights(scale)
    if isinstance(first, LearnedFirstStage):
        first.set_statistics(scales["shift"], scales["scale"], scales["preview"])
    if of_codes:
        return _codes(run, first, stage), stage.key
    return latents.Cached.read(paths, scales), stage.key


def _codes(run: Run, first: FirstStage, stage: Stage) -> CachedCodes:
    """The pictures as whole numbers."""
    paths = [stage.directory / f"{name}.safetensors" for name in ("codes", "codes_flipped")[: 1 + run.config.data.flip]]
    for index, path in enumerate(paths):
        if not path.is_file():
            source = PixelSource(run.data.train, run.resident(), run.device, run.config.seed)
            measure_codes(first.codes(), _watched(run, source.in_order(32, flipped=index == 1)), path)
    return CachedCodes.read(paths)


def _watched(run: Run, batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same pictures; says now and then how far it is, and raises `Stopped` between two batches at a signal."""
    done, progress = 0, lines()
    for batch in batches:
        if run.stop.signalled:  # not when the time is up: calls of a few minutes each have to get past this
            raise Stopped(f"stopped by {run.stop.reason} while pictures are encoded; the same command encodes them anew.")
        yield batch
        done += len(batch)
        if not run.quiet:
            progress("encoding pictures", done, len(run.data.train))
