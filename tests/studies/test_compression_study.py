"""The study at 16 px on a CPU: what is trained, kept, gone on with, drawn and recommended."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from sfumato.cli.main import main
from sfumato.errors import InputError
from sfumato.recipes.compression import compression_tiny
from sfumato.studies.compression import measure
from sfumato.studies.compression import results as results_module
from sfumato.studies.compression import study as study_module
from sfumato.studies.compression.chart import Axis, Dot, Line, chart
from sfumato.studies.compression.page import _made_by, speeds, write_page
from sfumato.studies.compression.results import (
    Distance,
    Moment,
    Result,
    Settings,
    Speed,
    load_all,
    load_result,
    recommend,
    save_result,
)
from sfumato.studies.compression.study import Study
from sfumato.training.signals import Stopped
from tiny_runs import write_folder

TINY = Settings(minutes=1 / 120, size=16, samples=97, num_steps=(1, 2), shares=(0.5, 1.0), curve_steps=2, resize=32)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("study") / "data", 130, "none")


@pytest.fixture(autouse=True, scope="module")
def _few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "RESAMPLES", 5)
        yield


def study(data: Path, out: Path, said: list[str], settings: Settings = TINY) -> Study:
    return Study(data, out, settings, CPU, said.append, compression_tiny)


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of f = 1 and 2, made in two calls."""
    out = tmp_path_factory.mktemp("study") / "out"
    study(data, out, []).run([2])
    study(data, out, []).run([1, 2])
    return out


def test_everything_of_a_factor_is_kept(done):
    one, two = load_all(done)
    assert (one.factor, two.factor) == (1, 2)
    assert one.is_done
    assert two.is_done
    assert one.num_pictures == two.num_pictures == 124  # of 130 5 % are held out
    assert len(one.data) == 16
    assert (one.latent, two.latent) == ((3, 16, 16), (3, 8, 8))
    assert [moment.seconds for moment in two.curve] == [0.25, 0.5]
    assert [moment.seconds for moment in one.curve] == [0.25, 0.5, 1.0]  # the first stage's time too
    assert two.curve[0].steps < two.curve[1].steps
    assert one.first_stage is None
    assert two.first_stage is not None
    assert two.first_stage.seconds == pytest.approx(0.5, abs=0.3)
    for result in (one, two):
        assert [speed.num_steps for speed in result.speeds] == [1, 2]
        assert result.speeds[0].pictures_per_second > result.speeds[1].pictures_per_second
        assert all(m.distance.low <= m.distance.value <= m.distance.high for m in result.curve)


def test_the_clock_of_training_does_not_count_what_is_between(done):
    clock = json.loads((done / "f2" / "run" / "prior" / "clock.json").read_text())
    assert 0.5 <= clock["seconds"] < 0.8


def test_what_is_done_is_not_done_again(done, data, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(study_module, "train", lambda *a, **k: pytest.fail("trained again"))
    results = study(data, done, said).run([1, 2])
    assert [result.is_done for result in results] == [True, True]
    assert said == ["[1/2] f = 1: done before", "[2/2] f = 2: done before"]


def test_a_study_goes_on_where_it_stopped(done, data, tmp_path, monkeypatch):
    """A result that lacks its last parts gets only those; more numbers of steps need no training."""
    found = load_result(done, 2)
    more = dataclasses.replace(TINY, num_steps=(1, 3))
    asked: list[int] = []
    real = study_module.sample

    def counted(model, count, num_steps, seed, device):
        asked.append(num_steps)
        return real(model, count, num_steps, seed, device)

    monkeypatch.setattr(study_module, "sample", counted)
    results = study(data, done, [], more).run([2])
    assert asked == [3]
    assert [speed.num_steps for speed in results[0].speeds] == [1, 2, 3]
    assert results[0].curve == found.curve
    save_result(done, found)


def test_a_study_stops_in_time_and_goes_on(data, tmp_path):
    """With no time at all nothing is measured; without a limit the same folder is finished."""
    quick = dataclasses.replace(TINY, shares=(1.0,), num_steps=(1,))
    with pytest.raises(Stopped, match="goes on"):
        dataclasses.replace(study(data, tmp_path / "out", [], quick), minutes=0.0).run([2])
    assert load_result(tmp_path / "out", 2) is None
    assert study(data, tmp_path / "out", [], quick).run([2])[0].is_done


def test_other_settings_are_refused_before_anything_is_trained(done, data, monkeypatch):
    monkeypatch.setattr(study_module, "train", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(InputError, match="cannot stand in one figure"):
        study(data, done, [], dataclasses.replace(TINY, minutes=1.0)).run([4, 2])
    with pytest.raises(InputError, match="take --size 128"):
        study(data, done, []).run([4, 32])


def test_other_pictures_are_refused_before_anything_is_trained(done, tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "train", lambda *a, **k: pytest.fail("trained"))
    other = write_folder(tmp_path / "other", 150, "none")
    with pytest.raises(InputError, match=r"f2 was made of \d+ other pictures than the \d+ of --data"):
        study(other, done, []).run([2])


def test_one_that_fails_is_told_and_the_others_go_on(data, tmp_path, monkeypatch):
    real = study_module.train

    def broken(config, *rest, **more):
        if config.name.endswith("f2"):
            raise InputError("prior: 20 steps in a row were not finite")
        return real(config, *rest, **more)

    monkeypatch.setattr(study_module, "train", broken)
    said: list[str] = []
    quick = dataclasses.replace(TINY, shares=(1.0,), num_steps=(1,))
    results = study(data, tmp_path / "out", said, quick).run([2, 4])
    assert results[0].failed.startswith("prior: 20 steps")
    assert not results[0].is_done
    assert results[1].is_done
    assert "f = 2 has no more: prior: 20 steps" in write_page(tmp_path / "out").read_text()


def test_the_page_stands_alone(done):
    text = write_page(done).read_text()
    assert text.count("<svg") == 2
    assert text.count("data:image/webp;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "Nothing to recommend: no factor is finished with a prior of 100 steps or more." in text
    assert "Not in this study: f = 4, 8, 16, 32." in text
    for name, lines in (("time.svg", 2), ("speed.svg", 2)):
        root = ET.parse(done / name).getroot()
        assert [element.tag.rpartition("}")[2] for element in root.iter()].count("polyline") == lines


def of(factor: int, *speeds: tuple[int, float, float, float, float]) -> Result:
    made = tuple(Speed(n, rate, Distance(value, low, high)) for n, rate, value, low, high in speeds)
    return Result(factor, TINY, curve=(Moment(1.0, 100, Distance(1, 1, 1)),), speeds=made)


def test_the_fastest_of_what_cannot_be_told_from_the_best_is_recommended():
    """f = 1 is best, f = 4 within its interval and faster, f = 8 faster yet and worse."""
    found = recommend([of(1, (200, 1, 5.0, 4.5, 5.5)), of(4, (50, 40, 5.6, 5.4, 5.8)), of(8, (50, 90, 7.0, 6.5, 7.5))])
    assert (found.factor, found.num_steps, found.best) == (4, 50, 1)
    assert "cannot be told from the best (f = 1" in found.words
    alone = recommend([of(8, (10, 90, 9.0, 8.0, 9.9), (50, 20, 7.0, 6.5, 7.5))])
    assert (alone.factor, alone.num_steps, alone.best) == (8, 50, 8)
    assert recommend([of(2)]) is None
    hardly = dataclasses.replace(of(16, (50, 900, 1.0, 0.9, 1.1)), curve=(Moment(1.0, 99, Distance(1, 1, 1)),))
    assert recommend([hardly]) is None
    both = recommend([hardly, of(8, (50, 20, 7.0, 6.5, 7.5))])
    assert (both.factor, both.best) == (8, 8)


def test_dots_stand_where_their_numbers_say():
    line = Line("a <b>", (Dot(1.0, 10.0, 9.0, 11.0), Dot(10.0, 100.0), Dot(100.0, 1000.0)))
    root = ET.fromstring(chart("both logarithmic", [line], Axis("x", log=True), Axis("y", log=True), ("level", 100.0)))
    dots = [(float(e.get("cx")), float(e.get("cy"))) for e in root.iter() if e.tag.endswith("circle")]
    assert dots[1][0] - dots[0][0] == pytest.approx(dots[2][0] - dots[1][0], abs=0.05)
    assert dots[0][1] - dots[1][1] == pytest.approx(dots[1][1] - dots[2][1], abs=0.05)
    dashed = next(e for e in root.iter() if e.get("stroke-dasharray"))
    assert float(re.match(r"M70 ([\d.]+)", dashed.get("d"))[1]) == dots[1][1]
    assert any(e.text == "a <b>" for e in root.iter())


def test_labels_lie_on_no_other_text():
    """Three lines in one place: there is room for few of their labels, the ends first, and none lies on a name."""
    lines = [
        Line(f"f = {f}", tuple(Dot(10.0 + i, 5.0 + 0.01 * f, label=str(200 - i)) for i in range(4))) for f in (1, 2, 4)
    ] + [Line("far", (Dot(1000.0, 50.0, label="10"),))]
    root = ET.fromstring(chart("", lines, Axis("x", log=True), Axis("y", log=True)))
    texts = [e for e in root.iter() if e.get("paint-order")]
    boxes = []
    for e in texts:
        x, y, size = float(e.get("x")), float(e.get("y")), int(e.get("font-size"))
        boxes.append((x, y - 0.8 * size, x + 0.6 * size * len(e.text), y))
    assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for i, a in enumerate(boxes) for b in boxes[:i])
    shown = [e.text for e in texts]
    assert {"f = 1", "f = 2", "f = 4", "far", "10", "200"} <= set(shown)
    assert len(shown) < 4 + 13


def test_the_page_says_which_factors_a_machine_made():
    text = _made_by([dataclasses.replace(of(f), device=d, made_by="sfumato 1") for f, d in ((1, "a"), (2, "b"), (4, "a"))])
    assert text == ["f = 1, 4: a; sfumato 1", "f = 2: b; sfumato 1"]
    assert speeds([of(1, (10, 1296.2, 8.6, 8.0, 9.0), (20, 43.14, 5.0, 4.0, 6.0))])[1] == ["1", "1,296, 8.6", "43.1, 5"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--factors", "4,4"), "stands twice"),
        (("--factors", "5"), "expected one of 1, 2, 4"),
        (("--factors", "x"), "factors"),
        (("--samples", "50"), "expected 97 or more"),
        (("--minutes-per-stage", "0"), "expected above 0"),
        (("--size", "100"), "power of two"),
        (("--steps", "0"), "steps"),
        (("--data", "nowhere"), "no such folder"),
        (("--page-only",), "holds no result"),
    ],
)
def test_what_is_wrong_is_one_line(more, words, data, tmp_path, capsys):
    assert main(["study", "compression", "--data", str(data), "--out", str(tmp_path / "out"), "--device", "cpu", *more]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_too_few_pictures_are_told_with_the_count_needed(tmp_path, capsys):
    few = write_folder(tmp_path / "few", 30, "none")
    assert (
        main(["study", "compression", "--data", str(few), "--out", str(tmp_path / "out"), "--size", "16", "--factors", "1"])
        == 2
    )
    assert "expected 97 or more" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class Quick(Settings):
    """What the command leaves at its defaults, smaller."""

    shares: tuple[float, ...] = (1.0,)
    curve_steps: int = 2
    resize: int = 32


def test_the_command_makes_the_page(data, tmp_path, monkeypatch, capsys):
    """With the tiny recipe in the place of the real one; the second call finds everything done."""
    monkeypatch.setattr(study_module, "Study", functools.partial(Study, recipe=compression_tiny))
    monkeypatch.setattr(results_module, "Settings", Quick)
    out = tmp_path / "out"
    command = ["study", "compression", "--data", str(data), "--out", str(out), "--factors", "2", "--minutes-per-stage", "0.004"]
    command += ["--size", "16", "--samples", "97", "--steps", "2,1", "--device", "cpu"]
    assert main([*command, "--quiet"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    assert [speed.num_steps for speed in load_all(out)[0].speeds] == [1, 2]
    assert main(command) == 0
    assert "f = 2: done before" in capsys.readouterr().err
    page = (out / "index.html").read_text()
    assert "--minutes-per-stage 0.004 --size 16 --samples 97 --steps 1,2" in page


def test_the_page_alone(done, capsys):
    assert main(["study", "compression", "--out", str(done), "--page-only"]) == 0
    assert capsys.readouterr().out.strip() == str(done / "index.html")
