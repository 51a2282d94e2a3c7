"""A comparison whose budget is of operations: shares, what is kept and said of it, and that no budget becomes another."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_compare_page import read

from made_results import made
from sfumato.cli.main import main
from sfumato.errors import InputError
from sfumato.studies.compare import Settings
from sfumato.studies.families import ENDLESS, FAMILIES, Family, budgeted, shares
from sfumato.studies.findings import findings
from sfumato.studies.overview import write_overview
from sfumato.studies.page import PAGE, conditions, write_page
from sfumato.studies.records import check_budget, stages
from sfumato.studies.results import RESULT, Result, Trained, read_result
from sfumato.training.config import RunConfig
from sfumato.training.loop import CLOCK, Trainer
from sfumato.training.operations import OperationCounter, as_typed
from sfumato.training.run import train
from sfumato.training.stages import key
from tiny_runs import write_folder

FLOPS = 1e9


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "pictures", 40)


def counted(name: str, fd: float = 10.0, flops: float = 2e16) -> Result:
    trained = {"prior": Trained(900, 321.0, 384.0, 2.0123e16)}
    return made(name, fd, minutes=0.0, flops=flops, stages=trained)


def config(seconds: float = 0.0, flops: float = 0.0) -> RunConfig:
    return budgeted(Family("tiny", "tiny", "tiny", "", ""), seconds, 16, flops=flops)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gets_the_whole_budget(name: str) -> None:
    both = budgeted(FAMILIES[name], 0.0, 32, flops=1e16)
    trains = [both.first_stage.train, both.prior.train]
    spent = [train.flops for train in trains if train.flops > 0]
    assert sum(spent) == pytest.approx(1e16)
    assert spent == ([1e16] if len(spent) == 1 else pytest.approx([4e15, 6e15]))
    assert all(train.seconds == 0 for train in trains)
    assert all(train.steps == ENDLESS for train in trains if train.flops > 0)
    timed = budgeted(FAMILIES[name], 300.0, 32)
    assert [t.flops for t in (timed.first_stage.train, timed.prior.train)] == [0, 0]
    assert len({key(both), key(timed), key(budgeted(FAMILIES[name], 0.0, 32, flops=2e16))}) == 3


def test_settings_have_one_budget() -> None:
    assert Settings(0.0, flops=2e16).budget == "2e16 operations"
    assert Settings(5.0).budget == "5 min"
    for minutes, flops, words in (
        (5.0, 1e9, "5.0 minutes and 1e9 operations: give one"),
        (0.0, 0.0, "0.0 minutes: expected more"),
        (0.0, -1.0, "-1.0 operations: expected more"),
        (0.0, math.inf, "inf operations"),
        (0.0, math.nan, "nan operations"),
    ):
        with pytest.raises(InputError, match=words):
            Settings(minutes, flops=flops)


@pytest.mark.parametrize(("number", "text"), [(2e16, "2e16"), (1.5e9, "1.5e9"), (3e5, "300000"), (1e100, "1e100")])
def test_operations_are_written_as_they_are_typed(number: float, text: str) -> None:
    assert as_typed(number) == text
    assert float(text) == number


def test_the_page_says_which_budget_it_was(tmp_path: Path) -> None:
    page = read(write_page([counted("ldm"), counted("ddpm", 20)], tmp_path))
    text = " ".join(page.text)
    assert "each trained for 2e16 floating-point operations on the same" in text
    assert "Equal budget: floating-point operations of training steps" in text
    assert "seconds of training steps on the device" not in text
    assert "prior: 900 steps in 321 s, 2.01e16 operations" in text
    head, row = page.rows[0], page.rows[1]
    assert [cell.strip() for cell in head[-2:]] == ["training operations", "training seconds"]
    assert [cell.strip() for cell in row[-2:]] == ["2.01e16", "321"]
    assert {len(r) for r in page.rows} == {len(head)}
    assert "At equal training operations the latent model wins: LDM (KL)" in text


def test_a_page_of_minutes_is_what_it_was(tmp_path: Path) -> None:
    page = read(write_page([made("ldm"), made("ddpm", 20)], tmp_path))
    text = " ".join(page.text)
    assert "operations" not in text
    assert "each trained for 5 minutes on the same" in text
    assert "Equal budget: seconds of training steps on the device" in text
    assert "prior: 900 steps in 300 s" in text


def test_different_budgets_are_said(tmp_path: Path) -> None:
    results = [counted("ldm"), made("ddpm", 20), counted("gan", 30, 1e15)]
    assert "each trained for 5 minutes or 1e15 to 2e16 floating-point operations on" in conditions(results)
    said = "\n".join(findings(results))
    assert "The budgets differ: LDM (KL): 2e16 operations; pixel DDPM: 5 minutes; GAN: 1e15 operations." in said
    assert "Within their budgets the latent model wins" in said
    page = read(write_page(results, tmp_path))
    text = " ".join(page.text)
    assert "Equal budget: seconds of training" in text
    assert "Equal budget: floating-point operations" in text
    rows = {row[0].strip(): row for row in page.rows}
    assert [cell.strip() for cell in rows["pixel DDPM"][-2:]] == ["–", "300"]


def test_the_overview_says_it(tmp_path: Path) -> None:
    """What stands above it is what the page has."""
    assert conditions([counted("ldm")]).startswith("1 families of image generators, each trained for 2e16 floating-point")
    assert write_overview([counted("ldm")], tmp_path, conditions([counted("ldm")])).is_file()


def test_results_made_before_there_was_such_a_budget_are_read(tmp_path: Path) -> None:
    made("ldm").write(tmp_path)
    kept = json.loads((tmp_path / RESULT).read_text())
    del kept["flops"]
    for stage in kept["stages"].values():
        del stage["flops"]
    (tmp_path / RESULT).write_text(json.dumps(kept))
    assert read_result(tmp_path) == made("ldm")
    counted("ldm").write(tmp_path)
    assert read_result(tmp_path) == counted("ldm")


@pytest.mark.parametrize(
    ("was", "asked", "words"),
    [
        ({"flops_budget": 4e8, "budget": 0.0}, {"flops": 1e9}, ""),
        ({"flops_budget": 4e8, "budget": 0.0}, {"flops": 2e9}, ""),
        ({"flops_budget": 8e8, "budget": 0.0}, {"flops": 1e9}, "trained for 8e8 operations, and 4e8 operations are asked"),
        ({"flops_budget": 4e8, "budget": 0.0}, {"seconds": 100.0}, "trained for 4e8 operations, and 40 s are asked"),
        ({"budget": 0.1}, {"flops": 1e9}, "trained for 0.1 s, and 4e8 operations are asked"),
        ({"budget": 5.0, "flops_budget": 1e8}, {"flops": 1e9}, "trained for 5 s or 1e8 operations, and 4e8 operations"),
        ({"budget": 50.0}, {"seconds": 100.0}, "trained for 50 s, and 40 s are asked"),
    ],
)
def test_no_budget_is_taken_back_or_turned_into_another(
    was: dict[str, float], asked: dict[str, float], words: str, tmp_path: Path
) -> None:
    (tmp_path / "first_stage").mkdir()
    (tmp_path / "first_stage" / CLOCK).write_text(json.dumps({"seconds": 1.0, "steps": 9, **was}))
    if not words:
        check_budget(tmp_path, config(**asked))
        return
    with pytest.raises(InputError, match=words):
        check_budget(tmp_path, config(**asked))


def test_what_a_stage_did_is_read(tmp_path: Path) -> None:
    (tmp_path / "prior").mkdir()
    clock = {"seconds": 2.0, "steps": 10, "flops": 123, "work": {"prior": [12, 10]}, "budget": 0.0, "flops_budget": 120.0}
    (tmp_path / "prior" / CLOCK).write_text(json.dumps(clock))
    batch = config(flops=1.0).prior.train.batch_size
    assert stages(tmp_path, config(flops=300.0)) == {"prior": Trained(10, 2.0, 5.0 * batch, 123.0)}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_step_of_a_family_has_the_operations_of_its_kind(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count of each single step against the first of its kind times their number."""
    each: dict[str, int] = {}
    single = Trainer._step

    def step(trainer: Trainer, number: int) -> Any:
        counter = OperationCounter(1.0)
        with counter.step("any"):
            values = single(trainer, number)
        each[trainer.directory.name] = each.get(trainer.directory.name, 0) + counter.done
        return values

    monkeypatch.setattr(Trainer, "_step", step)
    tiny = budgeted(Family(name, name, f"family-{name}-tiny", "", ""), 0.0, 16, flops=1e18)
    first, prior = (
        dataclasses.replace(part, train=dataclasses.replace(part.train, steps=3)) for part in (tiny.first_stage, tiny.prior)
    )
    train(dataclasses.replace(tiny, first_stage=first, prior=prior), data, tmp_path / "run", torch.device("cpu"), quiet=True)
    kept = {path.parent.name: json.loads(path.read_text())["flops"] for path in (tmp_path / "run").glob(f"*/{CLOCK}")}
    assert kept == each
    assert len(kept) == sum(share > 0 for share in shares(tiny))
    assert all(kept.values())


def test_a_gan_and_two_stages_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_folder(tmp_path / "data", 120), tmp_path / "out"
    families = ("family-gan-tiny", "family-ldm-tiny")
    flags = ["compare", "--data", str(data), "--out", str(out), "--families", ",".join(families), "--samples", "97",
             "--size", "16", "--device", "cpu"]  # fmt: skip
    assert main([*flags, "--budget-flops", "1e9"]) == 0
    said = capsys.readouterr()
    assert "training for 1e9 operations." in said.err
    for name, parts in zip(families, ({"first_stage": 1.0}, {"first_stage": 0.4, "prior": 0.6}), strict=True):
        result = read_result(out / name)
        assert result is not None
        assert (result.status, result.minutes, result.flops) == ("done", 0.0, FLOPS)
        assert result.stages.keys() == parts.keys()
        for stage, share in parts.items():
            clock = json.loads((out / name / stage / CLOCK).read_text())
            (cost, steps), *more = clock["work"].values()
            assert more == []  # the tiny GAN is penalised at every step
            assert steps == math.ceil(share * FLOPS / cost) == result.stages[stage].steps
            assert result.stages[stage].flops == clock["flops"] == cost * steps
    text = (out / PAGE).read_text()
    assert "sfumato compare --data data --budget-flops 1e9 --families" in text
    assert main([*flags, "--budget-flops", "1000000000"]) == 0
    assert capsys.readouterr().err.count("kept, FD") == 2
    for budget, words in ((["--budget-flops", "9e8"], "and 9e8 operations are asked for"), ([], "and 300 s are asked for")):
        assert main([*flags, *budget]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--budget", "5", "--budget-flops", "1e15"], "--budget and --budget-flops: a family's training ends by one"),
        (["--budget", "5.0", "--budget-flops", "1e15"], "give one"),
        (["--budget-flops", "0"], "budget-flops: got '0', expected a number of operations such as 2e16, more than 0"),
        (["--budget-flops", "many"], "budget-flops: got 'many'"),
        (["--budget-flops", "inf"], "budget-flops: got 'inf'"),
        (["--budget-flops", "nan"], "budget-flops: got 'nan'"),
        (["--budget-flops", "-1e15"], "budget-flops"),
    ],
)
def test_wrong_budgets(
    flags: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--data", ".", *flags]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
