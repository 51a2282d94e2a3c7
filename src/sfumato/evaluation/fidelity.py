"""The standard scores by torch-fidelity (Obukhov et al. 2020), an optional extra: `pip install sfumato[fidelity]`.

    FID, KID   2,048 features of InceptionV3, pooled (Heusel et al. 2017, arXiv 1706.08500; Binkowski et al. 2018, 1801.01401)
    IS         its logits without the bias, in ten parts (Salimans et al. 2016, arXiv 1606.03498)
    prc        precision and recall, VGG16's second hidden layer (Kynkaanniemi et al. 2019, arXiv 1904.06991)

The networks, their resizing and every value are that library's, at its defaults, so that they compare with what papers print;
the intervals are ours. It needs torchvision. Weights are read from files that the user has, without running code from them, or
fetched by torch-fidelity itself. This is the only module that knows it.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.alpha import on_white
from sfumato.errors import InputError, unknown
from sfumato.evaluation.data import EvaluationData, batches
from sfumato.evaluation.report import Row
from sfumato.evaluation.scoring import FeatureSource, OnBatch
from sfumato.features.vgg import read_tensors
from sfumato.metrics.bootstrap import Interval, mean_interval
from sfumato.metrics.frechet import frechet_distance, moments
from sfumato.metrics.inception_score import SPLITS, inception_interval

METRICS = ("fid", "is", "kid", "prc")
INCEPTION, VGG = "inception-v3-compat", "vgg16"
POOLED, LOGITS, HIDDEN = "2048", "logits_unbiased", "fc2_relu"
DIMS = 2048
KID_SUBSET = 1000
NEIGHBOURS = 3
FID_RESAMPLES, IS_RESAMPLES = 20, 100
FEWEST = {"fid": DIMS + 1, "is": SPLITS, "kid": KID_SUBSET, "prc": NEIGHBOURS + 1}
"""Pictures a side: a covariance of 2,048 features is whole from 2,049 on, a kernel subset has 1,000."""


def metrics_from_text(text: str) -> tuple[str, ...]:
    """`all`, or some of fid, is, kid, prc with commas between. Raises `InputError` for another name."""
    names = METRICS if text.strip() == "all" else tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in METRICS:
            raise unknown("standard score", name[:40], (*METRICS, "all"))
    return tuple(name for name in METRICS if name in names)


def library() -> ModuleType:
    """torch-fidelity. Raises `InputError` where it, or torchvision, is not installed."""
    try:
        import torch_fidelity
        import torch_fidelity.metric_fid
        import torch_fidelity.metric_isc
        import torch_fidelity.metric_kid
        import torch_fidelity.metric_prc
    except ImportError as error:
        raise InputError(
            f"the standard scores need torch-fidelity and torchvision, and {error.name or 'one'} is not installed; run `pip "
            "install sfumato[fidelity]`, or leave --fidelity out for the embedded features."
        ) from None
    return torch_fidelity


@dataclass(frozen=True)
class Extractor:
    """(N, C, H, W) uint8 -> (N, D) fp32 of `layers`, side by side, by torch-fidelity's network of that `name`.

    weights: a file of the user's, .pth or .safetensors; None lets torch-fidelity fetch its own.
    """

    name: str
    layers: tuple[str, ...]
    weights: Path | None = None

    @cached_property
    def network(self) -> nn.Module:
        """Built at first use. Raises `InputError` for weights that do not fit or cannot be fetched."""
        kind = {INCEPTION: "FeatureExtractorInceptionV3", VGG: "FeatureExtractorVGG16"}[self.name]
        build = getattr(library(), kind)
        try:
            if self.weights is None:
                return build(self.name, list(self.layers), verbose=False)
            state = dict(read_tensors(self.weights))
            with tempfile.TemporaryDirectory() as folder:  # torch-fidelity unpickles what it is given: it gets plain tensors
                plain = Path(folder) / "weights.pth"
                torch.save(state, plain)
                return build(self.name, list(self.layers), feature_extractor_weights_path=str(plain), verbose=False)
        except InputError:
            raise
        except (RuntimeError, OSError) as error:  # other tensors, or no connection
            where = (
                "could not be fetched; give them with a file" if self.weights is None else f"in {self.weights} do not fit it"
            )
            raise InputError(f"{self.name}: its weights {where} ({' '.join(str(error).split())[:200]}).") from None

    def describe(self) -> dict[str, Any]:
        """What a report has to say of the extractor; the hash is of its tensors."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return {
            "network": f"torch-fidelity {library().__version__} {self.name}",
            "layers": list(self.layers),
            "sha256": digest.hexdigest(),
            "resize": "bilinear as in TensorFlow 1, by torch-fidelity",
        }

    @torch.inference_mode()
    def __call__(
        self, pixels: Tensor, device: torch.device | str = "cpu", batch_size: int = 32, on_batch: OnBatch | None = None
    ) -> Tensor:
        """(N, D) on the CPU. Grey is repeated, transparency seen on white."""
        network, found = self.network.to(device), []
        for part in batches(len(pixels), batch_size):
            rgb = on_white(pixels[part])
            rgb = rgb.expand(-1, 3, -1, -1) if rgb.shape[1] == 1 else rgb
            found.append(torch.cat([f.float().cpu() for f in network(rgb.to(device))], 1))
            if on_batch is not None:
                on_batch(part.stop, len(pixels))
        return torch.cat(found)


@dataclass(frozen=True)
class Scores:
    """Rows with intervals, notes in words, and which networks gave them."""

    rows: Sequence[Row] = ()
    notes: Sequence[str] = ()
    manifest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fidelity:
    """Which scores, and the files of the networks' weights: InceptionV3's, and all of torchvision's VGG16."""

    metrics: tuple[str, ...] = METRICS
    inception: Path | None = None
    vgg: Path | None = None

    def check(self, generated: int, real: int, metrics: Sequence[str] | None = None) -> None:
        """Raises `InputError` that names the count a score needs, where there are fewer pictures on a side."""
        for name in self.metrics if metrics is None else metrics:
            fewer = generated if name == "is" else min(generated, real)
            if fewer < FEWEST[name]:
                why = {"fid": f", for a covariance of {DIMS} features", "kid": ", the size of its subsets"}.get(name, "")
                raise InputError(
                    f"fidelity: {name} of {generated} pictures against {real} real ones needs at least {FEWEST[name]} a "
                    f"side{why}; give more, or leave {name} out (--fidelity {','.join(m for m in METRICS if m != name)})."
                )

    def scores(
        self,
        generated: Tensor,
        real: EvaluationData,
        cached: FeatureSource,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        seed: int = 0,
        level: float = 0.95,
        on_batch: OnBatch | None = None,
    ) -> Scores:
        """Of (N, C, H, W) uint8 generated pictures against real ones, whose features come from `cached`.

        Raises `InputError` as `check`, `library` and `Extractor.network` do.
        """
        self.check(len(generated), len(real))
        rows: list[Row] = []
        manifest: dict[str, Any] = {"metrics": list(self.metrics)}
        rng, n = torch.Generator().manual_seed(seed), len(generated)
        inception = [name for name in self.metrics if name != "prc"]
        if inception:
            layers = (POOLED, LOGITS) if "is" in inception else (POOLED,)
            extractor = Extractor(INCEPTION, layers, self.inception)
            manifest["inception"] = extractor.describe()
            found = extractor(generated, device, batch_size, on_batch)
            made = found[:, :DIMS]
            if inception != ["is"]:
                theirs = cached(real, Extractor(INCEPTION, (POOLED,), self.inception))
            if "fid" in inception:
                rows.append(Row.of(fid(made, theirs, rng, level), "fid", "FID", n, "lower"))
            if "is" in inception:
                rows.append(Row.of(score(found[:, DIMS:], rng, level), "is", "IS", n, "higher", floor=1.0, floor_is="least"))
            if "kid" in inception:
                rows.append(Row.of(kid(made, theirs, level), "kid", "KID", n, "lower"))
        if "prc" in self.metrics:
            vgg = Extractor(VGG, (HIDDEN,), self.vgg)
            manifest["vgg"] = vgg.describe()
            pair = prc(vgg(generated, device, batch_size, on_batch), cached(real, vgg), rng, level)
            counts = (n, len(real))
            for name, value, count in zip(("precision", "recall"), pair, counts, strict=True):
                rows.append(Row.of(value, f"{name}_vgg16", f"{name} (VGG16, k = {NEIGHBOURS})", count, "higher"))
        return Scores(rows, [_note(self.metrics, len(real))], manifest)

    def reconstruction(
        self,
        made: Tensor,
        real: EvaluationData,
        cached: FeatureSource,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        seed: int = 0,
        level: float = 0.95,
        on_batch: OnBatch | None = None,
    ) -> Scores:
        """R-FID: reconstructions against the very pictures that were reconstructed, (N, C, H, W) uint8 each."""
        self.check(len(made), len(real), ("fid",))
        extractor = Extractor(INCEPTION, (POOLED,), self.inception)
        theirs = cached(real, extractor)
        rng = torch.Generator().manual_seed(seed)
        value = fid(extractor(made, device, batch_size, on_batch), theirs, rng, level, paired=True)
        row = Row.of(value, "reconstruction/fid", "R-FID", len(made), "lower", floor=0.0)
        return Scores([row], [], {"metrics": ["fid"], "inception": extractor.describe()})


def fid(made: Tensor, real: Tensor, rng: torch.Generator, level: float, paired: bool = False) -> Interval:
    """Frechet inception distance of (N, 2048) and (M, 2048); the interval from the deviation of 20 resamples of both."""
    theirs = library().metric_fid
    statistics = [theirs.fid_features_to_statistics(side.contiguous()) for side in (made, real)]
    value = float(theirs.fid_statistics_to_metric(*statistics, False)[theirs.KEY_METRIC_FID])
    draws = []
    for _ in range(FID_RESAMPLES):
        index = torch.randint(len(made), (len(made),), generator=rng)
        other = index if paired else torch.randint(len(real), (len(real),), generator=rng)
        draws.append(frechet_distance(moments(made[index]), moments(real[other])))
    return _normal(value, torch.tensor(draws, dtype=torch.float64).std().item(), level)


def score(logits: Tensor, rng: torch.Generator, level: float) -> Interval:
    """Inception score of (N, classes) logits, the mean of ten parts of the shuffled set; the interval by resampling."""
    theirs = library().metric_isc
    value = float(theirs.isc_features_to_metric(logits)[theirs.KEY_METRIC_ISC_MEAN])
    near = inception_interval(logits, rng, num_resamples=IS_RESAMPLES, level=level)
    return Interval(value, value + near.low - near.value, value + near.high - near.value, level)


def kid(made: Tensor, real: Tensor, level: float) -> Interval:
    """Kernel inception distance, the mean of 100 subsets of 1,000; their deviation, scaled to all pictures by
    sqrt(1000 / n) (Politis & Romano 1994), gives the interval."""
    theirs = library().metric_kid
    found = theirs.kid_features_to_metric(made.contiguous(), real.contiguous(), kid_subset_size=KID_SUBSET, verbose=False)
    spread = float(found[theirs.KEY_METRIC_KID_STD]) * (KID_SUBSET / min(len(made), len(real))) ** 0.5
    return _normal(float(found[theirs.KEY_METRIC_KID_MEAN]), spread, level)


def prc(made: Tensor, real: Tensor, rng: torch.Generator, level: float) -> tuple[Interval, Interval]:
    """Precision and recall: shares of N and of M pictures. A share's bootstrap needs no more than the share."""
    theirs = library().metric_prc
    found = theirs.prc_features_to_metric(made, real, prc_neighborhood=NEIGHBOURS, save_cpu_ram=True, verbose=False)
    pair = []
    for key, count in ((theirs.KEY_METRIC_PRECISION, len(made)), (theirs.KEY_METRIC_RECALL, len(real))):
        flags = torch.arange(count) < round(float(found[key]) * count)
        near = mean_interval(flags.double(), rng, level=level)
        pair.append(Interval(float(found[key]), near.low, near.high, level))
    return pair[0], pair[1]


def _normal(value: float, deviation: float, level: float) -> Interval:
    reach = deviation * torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)).item()
    return Interval(value, value - reach, value + reach, level)


def _note(metrics: Sequence[str], real: int) -> str:
    names = {"fid": "FID", "is": "IS", "kid": "KID", "prc": "precision and recall (VGG16)"}
    return f"{', '.join(names[m] for m in metrics)} by torch-fidelity at its defaults, against {real} real pictures."
