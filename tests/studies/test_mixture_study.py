"""The study as a whole: what breaks down is reported and the others go on, what is kept is read again, the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfumato.cli.main import main
from sfumato.errors import InputError
from sfumato.studies.mixture import run as running
from sfumato.studies.mixture.base import Evidence, Model
from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.fit import Budget, Curve
from sfumato.studies.mixture.outcome import load, save
from sfumato.studies.mixture.run import FAMILIES, Family, families, study
from sfumato.studies.mixture.scatter import scatter, standalone


class Broken(Model):
    """Its loss overflows at the third step."""

    evidence = Evidence.exact

    def learn(self, mixture: Mixture, budget: Budget, rng: torch.Generator) -> Curve:
        curve = Curve()
        for step, loss in enumerate((1.0, 10.0, float("inf"))):
            curve.add(step, loss, 1)
        return curve

    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        raise AssertionError("a model that broke down is not asked")


class Perfect(Model):
    """The mixture itself."""

    evidence = Evidence.exact

    def learn(self, mixture: Mixture, budget: Budget, rng: torch.Generator) -> Curve:
        return Curve([(1, 0.5)], steps=1)

    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        return Mixture().sample(count, rng)

    def log_prob(self, x: Tensor, rng: torch.Generator) -> Tensor:
        return Mixture().log_prob(x)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (Family("gan", "GAN", Broken, 3), Family("flow", "Flow", Perfect, 1))
    monkeypatch.setattr(running, "FAMILIES", rows)


@pytest.mark.usefixtures("small")
def test_a_family_that_breaks_down_is_reported_and_the_others_go_on() -> None:
    seen: list[str] = []
    found = study(Mixture(), done=lambda outcome: seen.append(outcome.name))
    broken, perfect = found.outcomes
    assert seen == ["gan", "flow"]
    assert broken.failed == "the loss was no finite number at step 3"
    assert broken.curve == ((1, 1.0), (2, 10.0))
    assert (broken.modes, broken.score, broken.points) == (None, None, ())
    assert perfect.failed is None
    assert perfect.modes is not None
    assert perfect.modes.found == 8
    assert perfect.score is not None
    assert perfect.score.excess == pytest.approx(0, abs=1e-12)
    assert perfect.score.log_prob == pytest.approx(-found.mixture.entropy, abs=4 * perfect.score.log_prob_error)


@pytest.mark.usefixtures("small")
def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    found = study(Mixture(), seed=3)
    save(found, tmp_path)
    assert load(tmp_path) == found


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path)
    for text in ("{}", '{"outcomes": [{}]}', '{"outcomes": [], "mixture": {"modes": 8}}'):
        (tmp_path / "mixture.json").write_text(text)
        with pytest.raises(InputError, match="run `sfumato study mixture` again"):
            load(tmp_path)


def test_families_by_name() -> None:
    assert families(()) == FAMILIES
    assert [family.name for family in families(["flow", "gan"])] == ["gan", "flow"]
    with pytest.raises(InputError, match="flow"):
        families(["flwo"])
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.usefixtures("small")
def test_the_random_state_and_the_threads_are_as_before() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    study(Mixture(), seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_picture_has_every_point_and_every_mode() -> None:
    svg = standalone(scatter([(0.0, 0.0), (2.0, 0.0), (99.0, 0.0)], Mixture(), 'a "b" <c>'))
    assert svg.count("h0") == 2  # one is far outside
    assert "M100 100h0" in svg
    assert svg.count("<circle") == 8
    assert "<c>" not in svg


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "out", tmp_path / "page.html"
    command = ["study", "mixture", "--out", str(out), "--families", "vqvae, autoregressive", "--seconds", "0.3", "--seed", "1"]
    assert main([*command, "--page", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "VQ-VAE" in printed
    assert "Autoregressive" in printed
    assert sorted(path.name for path in out.iterdir()) == ["autoregressive.svg", "mixture.json", "vqvae.svg"]
    kept = json.loads((out / "mixture.json").read_text())
    assert [one["name"] for one in kept["outcomes"]] == ["vqvae", "autoregressive"]
    assert (kept["seed"], kept["seconds"]) == (1, 0.3)
    assert 'id="autoregressive"' in page.read_text(encoding="utf-8")
    assert main([*command]) == 2  # the folder is there
    again = tmp_path / "again.html"
    assert main(["study", "mixture", "--results", str(out), "--page", str(again)]) == 0
    assert again.read_bytes() == page.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --out DIR"),
        (["--out", "a", "--results", "b"], "not both"),
        (["--results", "nowhere"], "give --page"),
        (["--out", "new", "--page", "page.txt"], ".html"),
        (["--out", "new", "--seconds", "0"], "seconds"),
        (["--out", "new", "--seconds", "long"], "seconds"),
        (["--out", "new", "--seed", "-1"], "seed"),
        (["--out", "new", "--families", "gun"], "gan"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", "mixture", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
