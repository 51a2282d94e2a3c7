"""The standard scores behind their adapter, with a stand-in for torch-fidelity: its names and its formulas, small networks.

The stand-in's formulas are SciPy's; docs/evaluation.md has the command for the real one.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.special import rel_entr, softmax
from torch import Tensor, nn

import tiny_models
from sfumato.cli.main import main
from sfumato.errors import InputError
from sfumato.evaluation import fidelity as adapter
from sfumato.evaluation.data import EvaluationData
from sfumato.evaluation.fidelity import INCEPTION, METRICS, POOLED, Extractor, Fidelity, metrics_from_text
from sfumato.evaluation.protocol import Sets, evaluate
from sfumato.evaluation.reference import ReferenceCache

DIMS, CLASSES, SUBSET = 6, 5, 10


class Network(nn.Module):
    """Like theirs: uint8 RGB in, a tuple of the asked layers out, weights unpickled from a path."""

    sizes: ClassVar = {"2048": DIMS, "logits_unbiased": CLASSES, "fc2_relu": 4}
    built: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **rest: Any):
        super().__init__()
        self.features_list = features_list
        self.built.append({"name": name, "layers": features_list, "path": feature_extractor_weights_path})
        rng = torch.Generator().manual_seed(len(name))
        for layer, size in self.sizes.items():
            self.register_buffer(f"w{layer}", torch.randn(3 * 16, size, generator=rng))
        if feature_extractor_weights_path is not None:
            self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        flat = nn.functional.adaptive_avg_pool2d(x.float() / 255, 4).flatten(1)
        return tuple(flat @ getattr(self, f"w{layer}") for layer in self.features_list)


def fid_statistics(features: Tensor) -> dict[str, Any]:
    return {"mu": features.double().numpy().mean(0), "sigma": np.cov(features.double().numpy().T)}


def fid(a: dict[str, Any], b: dict[str, Any], verbose: bool) -> dict[str, float]:
    cross = np.real(sqrtm(a["sigma"] @ b["sigma"]))
    return {"frechet": float(((a["mu"] - b["mu"]) ** 2).sum() + np.trace(a["sigma"] + b["sigma"] - 2 * cross))}


def isc(logits: Tensor, splits: int = 10, shuffle: bool = True) -> dict[str, float]:
    parts = np.array_split(softmax(logits.double().numpy(), 1), splits)
    scores = [np.exp(rel_entr(p, p.mean(0)).sum(1).mean()) for p in parts]
    return {"isc": float(np.mean(scores)), "isc_std": float(np.std(scores))}


def kid(a: Tensor, b: Tensor, kid_subset_size: int, verbose: bool) -> dict[str, float]:
    rng, found = np.random.default_rng(0), []
    for _ in range(50):
        x, y = (s.double().numpy()[rng.choice(len(s), kid_subset_size, replace=False)] for s in (a, b))
        xx, yy, xy = ((u @ v.T / u.shape[1] + 1) ** 3 for u, v in ((x, x), (y, y), (x, y)))
        n = kid_subset_size
        found.append((xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (n * (n - 1)) - 2 * xy.mean())
    return {"kid": float(np.mean(found)), "kid_std": float(np.std(found))}


def prc(a: Tensor, b: Tensor, prc_neighborhood: int, **rest: Any) -> dict[str, float]:
    def share(queries: Tensor, base: Tensor) -> float:
        radius = np.sort(cdist(base, base), 1)[:, prc_neighborhood]
        return float((cdist(queries, base) <= radius).any(1).mean())

    return {"precision": share(a, b), "recall": share(b, a)}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> type[Network]:
    def module(name: str, **content: Any) -> ModuleType:
        made = ModuleType(name)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    parts = {
        "metric_fid": {
            "fid_features_to_statistics": fid_statistics,
            "fid_statistics_to_metric": fid,
            "KEY_METRIC_FID": "frechet",
        },
        "metric_isc": {"isc_features_to_metric": isc, "KEY_METRIC_ISC_MEAN": "isc"},
        "metric_kid": {"kid_features_to_metric": kid, "KEY_METRIC_KID_MEAN": "kid", "KEY_METRIC_KID_STD": "kid_std"},
        "metric_prc": {
            "prc_features_to_metric": prc,
            "KEY_METRIC_PRECISION": "precision",
            "KEY_METRIC_RECALL": "recall",
        },
    }
    made = {name: module(f"torch_fidelity.{name}", **content) for name, content in parts.items()}
    networks = {"FeatureExtractorInceptionV3": Network, "FeatureExtractorVGG16": Network, "__version__": "0.4.0"}
    module("torch_fidelity", **made, **networks)
    monkeypatch.setattr(adapter, "DIMS", DIMS)
    monkeypatch.setattr(adapter, "KID_SUBSET", SUBSET)
    for name, count in (("fid", DIMS + 1), ("kid", SUBSET)):
        monkeypatch.setitem(adapter.FEWEST, name, count)
    monkeypatch.setattr(Network, "built", [])
    return Network


def straight(data: EvaluationData, network: Any) -> Tensor:
    return network(data.pixels)


def test_the_values_are_the_librarys_under_their_standard_names(library: type[Network], data: Any) -> None:
    fake, real = data(40, 0), data(60, 1)
    found = Fidelity().scores(fake.pixels, real, straight)
    rows = {row.key: row for row in found.rows}
    assert {row.label for row in found.rows} == {"FID", "IS", "KID", "precision (VGG16, k = 3)", "recall (VGG16, k = 3)"}
    a, b = (library(INCEPTION, ["2048", "logits_unbiased"])(side.pixels) for side in (fake, real))
    v, w = (library("vgg16", ["fc2_relu"])(side.pixels)[0] for side in (fake, real))
    shares = prc(v, w, 3)
    wanted = {
        "fid": fid(fid_statistics(a[0]), fid_statistics(b[0]), False)["frechet"],
        "is": isc(a[1])["isc"],
        "kid": kid(a[0], b[0], SUBSET, False)["kid"],
        "precision_vgg16": shares["precision"],
        "recall_vgg16": shares["recall"],
    }
    assert {key: row.value for key, row in rows.items()} == pytest.approx(wanted, rel=1e-6)
    for row in found.rows:
        assert row.low is not None
        assert row.high is not None
        assert row.low <= row.value <= row.high
    assert rows["recall_vgg16"].count == 60
    assert found.manifest["inception"]["network"] == "torch-fidelity 0.4.0 inception-v3-compat"


def test_intervals_are_what_resampling_says(library: type[Network], data: Any) -> None:
    """KID's deviation is that of subsets of 10, scaled to 40; a share's interval is the binomial one."""
    fake, real = data(40, 0), data(60, 1)
    rows = {row.key: row for row in Fidelity(("kid", "prc")).scores(fake.pixels, real, straight).rows}
    a, b = (library(INCEPTION, ["2048"])(side.pixels)[0] for side in (fake, real))
    spread = kid(a, b, SUBSET, False)["kid_std"] * (10 / 40) ** 0.5
    assert rows["kid"].high - rows["kid"].value == pytest.approx(1.959964 * spread, rel=1e-5)
    share = rows["precision_vgg16"]
    assert share.high - share.low == pytest.approx(2 * 1.96 * (share.value * (1 - share.value) / 40) ** 0.5, abs=0.06)


def test_asking_for_some(library: type[Network], data: Any) -> None:
    fake, real = data(12, 0), data(12, 1)
    found = Fidelity(("is",)).scores(fake.pixels, real, straight)
    assert [row.key for row in found.rows] == ["is"]
    assert "vgg" not in found.manifest
    assert metrics_from_text("all") == METRICS
    assert metrics_from_text("kid, fid") == ("fid", "kid")
    with pytest.raises(InputError, match="did you mean 'fid'"):
        metrics_from_text("fidd")


def test_grey_and_transparent_pictures_are_seen_as_rgb(library: type[Network], data: Any) -> None:
    extractor = Extractor(INCEPTION, (POOLED,))
    four, one = data(3, 0, channels=4), data(3, 0, channels=1)
    torch.testing.assert_close(extractor(four.pixels), extractor(four.pixels[:, :3]))
    torch.testing.assert_close(extractor(one.pixels), extractor(one.pixels.repeat(1, 3, 1, 1)))


def test_too_few_pictures_name_the_count() -> None:
    """The true counts, without any library."""
    for metrics, counts, word in (
        (("fid",), (5000, 2048), "at least 2049 a side, for a covariance of 2048"),
        (("kid",), (999, 5000), "at least 1000 a side"),
        (("is",), (9, 5000), "at least 10 a side"),
        (("prc",), (3, 3), "at least 4 a side"),
    ):
        with pytest.raises(InputError, match=word):
            Fidelity(metrics).check(*counts)
    Fidelity().check(2049, 2049)
    Fidelity(("is",)).check(10, 0)


def test_the_reconstructions_fid_is_zero_for_equal_pictures(library: type[Network], data: Any) -> None:
    real = data(20, 0)
    (row,) = Fidelity().reconstruction(real.pixels, real, straight).rows
    assert (row.key, row.label) == ("reconstruction/fid", "R-FID")
    assert row.value == pytest.approx(0, abs=1e-4)
    assert row.high == pytest.approx(0, abs=1e-4)  # pairs are resampled together


def test_weights_of_a_file_are_read_without_running_code(library: type[Network], tmp_path: Path, data: Any) -> None:
    state = Network(INCEPTION, ["2048"]).state_dict()
    state["w2048"] += 1
    good, bad, other = (tmp_path / name for name in ("good.pth", "bad.pth", "other.pth"))
    torch.save(state, good)

    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "ran"), "w"))

    bad.write_bytes(pickle.dumps({"w2048": Evil()}, protocol=2))
    torch.save({"w": torch.zeros(1)}, other)
    extractor, plain = Extractor(INCEPTION, (POOLED,), good), Extractor(INCEPTION, (POOLED,))
    pixels = data(2, 0).pixels
    flat = nn.functional.adaptive_avg_pool2d(pixels.float() / 255, 4).flatten(1)
    torch.testing.assert_close(extractor(pixels), flat @ state["w2048"])
    assert extractor.describe()["sha256"] != plain.describe()["sha256"]
    assert Network.built[-2]["path"] not in (str(good), None)  # a copy that this program wrote
    with pytest.raises(InputError, match="not a readable state dict"):
        Extractor(INCEPTION, (POOLED,), bad)(pixels)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError, match="do not fit it"):
        Extractor(INCEPTION, (POOLED,), other)(pixels)


def test_features_of_real_pictures_are_kept_by_content(library: type[Network], tmp_path: Path, data: Any) -> None:
    cache, extractor = ReferenceCache(tmp_path), Extractor(INCEPTION, (POOLED,))
    first = cache.features(data(9, 0), extractor)
    assert torch.equal(ReferenceCache(tmp_path).features(data(9, 0), extractor), first)
    assert len(list(tmp_path.iterdir())) == 1
    cache.features(data(9, 1), extractor)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_evaluation_has_the_standard_scores_beside_the_embedded(
    library: type[Network], data: Any, oracle: Any, pooling: Any, settings: Any
) -> None:
    held, rest = data(97, 0), data(97, 1)
    report = evaluate(pooling(2), Sets(held, rest=rest), settings(), oracle(held), fidelity=Fidelity()).report
    assert {"fd", "fid", "is", "kid", "precision_vgg16", "recall_vgg16", "reconstruction/fid"} <= {r.key for r in report.rows}
    assert report["fd"].label == "FD-MobileNetV2"
    assert report.manifest["fidelity"]["inception"]["sha256"]
    alone = evaluate(pooling(2), Sets(held), settings(), fidelity=Fidelity(("fid",))).report
    assert alone["reconstruction/fid"].value == pytest.approx(report["reconstruction/fid"].value, rel=1e-6)
    with pytest.raises(InputError, match="only the R-FID"):
        evaluate(pooling(2), Sets(held), settings(), fidelity=Fidelity(("kid",)))
    with pytest.raises(InputError, match="training pictures"):
        evaluate(pooling(2), Sets(held), settings(distance=False), oracle(held), fidelity=Fidelity())


def test_without_the_library_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(InputError, match=r"pip install sfumato\[fidelity\]"):
        adapter.library()


def test_the_command(library: type[Network], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_models.write_model(tmp_path / "tiny", tiny_models.unconditional_config())
    folder, rows = tmp_path / "data", []
    folder.mkdir()
    for part, count in (("test", 12), ("train", 20)):
        for i in range(count):
            noise = np.random.default_rng(len(rows)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((16, 16)).save(folder / f"{part}{i}.png")
            rows.append({"file_name": f"{part}{i}.png", "split": part})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out, cache = tmp_path / "report.json", tmp_path / "cache"
    argv = ["evaluate", str(model), "--data", str(folder), "--device", "cpu", "--cache", str(cache)]
    assert main([*argv, "--steps", "1", "--no-fd", "--fidelity", "all", "--out", str(out)]) == 0
    assert "| FID ↓ |" in capsys.readouterr().out
    assert json.loads(out.read_text("utf-8"))["manifest"]["asked"] == {
        "steps": 1,
        "no_fd": True,
        "fidelity": list(METRICS),
    }
    assert main([*argv, "--reproduce", str(out)]) == 0
    assert "fidelity inception sha256: the same" in capsys.readouterr().out
