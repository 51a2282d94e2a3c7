"""A classifier of latents: trained, kept on disk, and guiding without retraining."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfumato.cli.main import main
from sfumato.errors import InputError
from sfumato.generation.guides import class_score
from sfumato.io.classifier import CLASSIFIER, load_classifier, save_classifier
from sfumato.networks.classifier import ClassifierConfig, LatentClassifier
from sfumato.training.classifier import ClassifierTraining, train_classifier
from tiny_models import unconditional_config, write_model

CONFIG = ClassifierConfig(("low", "high"), 4, widths=(16, 16))
QUICK = ClassifierTraining(steps=80, batch_size=32, learning_rate=3e-3)


def latents(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two classes whose first channel has the mean -1 or 1; the rest is noise."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=rng)
    z = torch.randn(count, 4, 8, 8, generator=rng)
    z[:, 0] += (2.0 * labels - 1).view(-1, 1, 1)
    return z, labels


@pytest.fixture(scope="module")
def trained() -> LatentClassifier:
    return train_classifier(CONFIG, *latents(256, 0), QUICK)


def test_learns_the_classes_and_takes_any_size(trained):
    z, labels = latents(256, 1)
    assert float((trained(z).argmax(1) == labels).float().mean()) > 0.98
    larger = torch.cat([z, z], dim=3)[:, :, :, :12]
    assert float((trained(larger).argmax(1) == labels).float().mean()) > 0.98
    assert not any(parameter.requires_grad for parameter in trained.parameters())


def test_the_seed_decides_and_nothing_outside_is_drawn_from():
    state = torch.random.get_rng_state()
    how = ClassifierTraining(steps=2, batch_size=8, seed=3)
    one, other = (train_classifier(CONFIG, *latents(16, 0), how) for _ in range(2))
    assert torch.equal(one.out.weight, other.out.weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_its_gradient_points_to_the_class(trained):
    """log p(high) grows with the first channel, on whose mean alone the classes depend."""
    z = latents(32, 2)[0].requires_grad_()
    score = class_score(trained, "high")(z, torch.full((32,), 0.5))
    assert score.shape == (32,)
    assert bool((score <= 0).all())
    (gradient,) = torch.autograd.grad(score.sum(), z)
    means = gradient.mean((0, 2, 3))
    assert float(means[0]) > 5 * float(means[1:].abs().max())
    with pytest.raises(InputError, match="did you mean 'high'"):
        class_score(trained, "hihg")


def test_comes_back_from_disk(trained, tmp_path):
    save_classifier(tmp_path / "c", trained, "0123456789")
    found = load_classifier(tmp_path / "c")
    z = latents(8, 3)[0]
    assert torch.equal(found.network(z), trained(z))
    assert (found.latents, found.network.config) == ("0123456789", CONFIG)


def test_damaged_folders_are_refused(trained, tmp_path):
    with pytest.raises(InputError, match="holds no classifier"):
        load_classifier(tmp_path)
    save_classifier(tmp_path / "c", trained)
    path = tmp_path / "c" / CLASSIFIER
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(InputError, match="manifest"):
        load_classifier(tmp_path / "c")


@pytest.mark.parametrize("labels", [torch.tensor([0, 2]), torch.tensor([0, -1]), torch.tensor([0]), torch.tensor([0.0, 1.0])])
def test_labels_that_do_not_fit(labels):
    with pytest.raises(InputError, match="labels"):
        train_classifier(CONFIG, torch.zeros(2, 4, 8, 8), labels, QUICK)


@pytest.mark.parametrize(
    "changes",
    [{"names": ("a",)}, {"names": ("a", "a")}, {"in_channels": 0}, {"widths": ()}, {"widths": (12,)}, {"dropout": 1.0}],
)
def test_configs_that_mean_nothing(changes):
    with pytest.raises(InputError, match="classifier"):
        ClassifierConfig(**{"names": ("a", "b"), "in_channels": 4} | changes)


def test_the_command(trained, tmp_path: Path, monkeypatch, capsys):
    model = write_model(tmp_path / "model", unconditional_config())
    save_classifier(tmp_path / "any", trained)
    save_classifier(tmp_path / "other", trained, "ffffffffff")
    monkeypatch.chdir(tmp_path)
    flags = ["generate", "--model", str(model), "--seed", "1", "--steps", "2", "--device", "cpu"]
    assert main([*flags, "--out", "plain.png"]) == 0
    assert main([*flags, "--out", "high.png", "--guide", "any", "--guide-class", "high", "--guide-scale", "5"]) == 0
    assert Path("plain.png").read_bytes() != Path("high.png").read_bytes()
    capsys.readouterr()
    for wrong, said in (
        (["--guide", "any"], "--guide-class"),
        (["--guide", "any", "--guide-class", "hi"], "did you mean"),
        (["--guide", "other", "--guide-class", "high"], "ffffffffff"),
        (["--guide", "plain.png", "--guide-class", "high"], "beside a picture"),
        (["--guide-class", "high"], "without a guide"),
        (["--guide", str(model)], "classifier.json"),
    ):
        assert main([*flags, *wrong, "--out", "x.png"]) == 2
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        assert said in err
    assert not Path("x.png").exists()
