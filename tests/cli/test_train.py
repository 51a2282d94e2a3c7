"""`sfumato train` from the outside: exit codes, one line on stderr, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sfumato.cli.main import main
from sfumato.io.pretrained import load_pretrained
from sfumato.recipes import RECIPES
from tiny_runs import SMALL, write_folder

SETS = [word for change in SMALL for word in ("--set", change)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "pictures", 12)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SFUMATO_DEBUG", raising=False)


def refused(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 2) -> str:
    assert main(["train", *map(str, argv)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sfumato: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def test_train_prints_the_model_and_again_does_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "tiny", "--data", str(data), "--device", "cpu", *SETS]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert out == "runs/tiny/model\n"
    for words in ("12 pictures", "first stage: ", "parameters, 10 steps of 4 on cpu", "reconstruction: PSNR", "images/s"):
        assert words in err
    assert load_pretrained("runs/tiny").name == "tiny"
    when = Path("runs/tiny/model/model.safetensors").stat().st_mtime_ns
    assert main([*argv, "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("runs/tiny/model\n", "")
    assert Path("runs/tiny/model/model.safetensors").stat().st_mtime_ns == when


def test_train_goes_on_from_the_runs_config(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--data", str(data), "--out", "run", "--quiet"]
    assert main(["train", "tiny", *common, *SETS, "--stop-after", "0"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "the same command goes on" in err
    assert main(["train", "run/config.json", *common]) == 0
    assert capsys.readouterr().out == "run/model\n"


@pytest.mark.parametrize("recipe", ["tiny", "folder", "ldm-f4", "emoji"])
def test_dry_run_writes_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str) -> None:
    assert main(["train", recipe, "--data", str(data), "--dry-run", "--set", "seed=7"]) == 0
    out, err = capsys.readouterr()
    config = json.loads(out)
    assert (config["name"], config["seed"], config["prior"]["condition"]) == (recipe, 7, "text")
    for words in ("pictures: 11 to train on, 1 held out", "first stage: ", "prior: ", "conditioner: ", "GiB"):
        assert words in err
    assert list(tmp_path.iterdir()) == []
    assert len(list(data.iterdir())) == 24


def test_dry_run_counts_what_is_trained(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny", "--data", str(data), "--dry-run", *SETS]) == 0
    shown = dict(line.split(": ", 1) for line in capsys.readouterr().err.splitlines())
    assert main(["train", "tiny", "--data", str(data), "--out", "run", *SETS]) == 0
    for name, weights in (("first stage", "first_stage"), ("prior", "prior"), ("conditioner", "conditioner")):
        model = load_pretrained("run").model
        count = sum(p.numel() for p in getattr(model, weights).parameters())
        assert shown[name] == f"{count:,} parameters"


@pytest.mark.parametrize(("change", "words"), [
    ("prior.train.stepz=3", "did you mean 'prior.train.steps'"),
    ("prior.train.steps=0", "prior.train: steps is 0: expected 1 or more"),
    ("prior.train.steps=many", "prior.train.steps: got 'many', expected a whole number"),
    ("prior.train.learning_rate=NaN", "prior.train.learning_rate: got nan, expected a finite number"),
    ("prior.train.learning_rate=-1", "learning_rate is -1"),
    ("first_stage.train.batch_size=0", "batch_size is 0"),
    ("first_stage.loss.gan_start=setled", "did you mean 'settled'"),
    ("prior.dropout=2", "dropout is 2.0"),
    ("data.size=0", "size is 0"), ("data.size=17", "data.size is 17"), ("data.size=1e999", "data.size"),
    ("data.crop=middle", "data.crop"), ("data.background=puce", "background"),
    ("prior.model.network.channels=0", "channels is 0"),
    ("prior.model.network.head_channels=7", "does not divide"),
    ("prior.model.schedule.beta_start=2", "beta_start"),
    ("sampling.sampler=dpmpp_3m", "did you mean 'dpmpp_2m'"), ("sampling.steps=0", "steps"),
    ("sampling.steps=1000000000", "steps"), ("sampling.guidance=NaN", "sampling.guidance"),
    ("seed=-1", "seed is -1"), ("seed=1180591620717411303424", "seed is 1180591620717411303424"),
    ("no-equals-sign", "FIELD=VALUE"),
    ("data.size=1000000", "size is 1000000: expected 8192 or less"),
    ("prior.train.batch_size=1000000000", "expected 65536 or less"),
    ("prior.train.steps=1" + "0" * 400, "steps is a whole number of about 401 digits: expected 1000000000 or less"),
    ("seed=" + "[" * 1000, "..., expected a whole number"),
    ("name=../../x", "expected a plain name"), ("name=", "expected a plain name"), ("name=..", "expected a plain name"),
])  # fmt: skip
def test_wrong_fields(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, words: str) -> None:
    for extra in ([], ["--dry-run"]):
        line = refused(capsys, "tiny", "--data", data, "--out", "run", *SETS, "--set", change, *extra)
        assert words in line
    assert not (tmp_path / "run" / "first_stage").exists()


def test_wrong_arguments(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'tiny'" in refused(capsys, "tinny", "--data", data)
    assert "--data" in refused(capsys, "tiny")
    assert "did you mean --set" in refused(capsys, "tiny", "--data", data, "--sets", "a=1")
    assert "no such folder" in refused(capsys, "tiny", "--data", tmp_path / "nowhere")
    assert "no such folder" in refused(capsys, "tiny", "--data", "x" * 5000)
    assert "--stop-after" in refused(capsys, "tiny", "--data", data, "--stop-after", "nan")
    assert "--stop-after" in refused(capsys, "tiny", "--data", data, "--stop-after", "-3")
    assert "--device" in refused(capsys, "tiny", "--data", data, "--device", "tpu")
    assert "unknown recipe" in refused(capsys, "y" * 5000, "--data", data)
    assert "too long" in refused(capsys, "tiny", "--data", data, "--out", "z" * 300)
    assert list(tmp_path.iterdir()) == []


def test_wrong_config_files(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in refused(capsys, "missing.json", "--data", data)
    for text, words in [("{", "not valid JSON"), ("[1]", "a table of fields"), ('{"name": "x"}', "missing"), ("{}", "missing")]:
        (tmp_path / "c.json").write_text(text)
        assert words in refused(capsys, "c.json", "--data", data)
    (tmp_path / "c.json").write_text("[1]")
    assert "unknown field" in refused(capsys, "c.json", "--data", data, "--set", "seed=1")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    assert "not valid JSON" in refused(capsys, "c.json", "--data", data)


def test_wrong_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "picture" in refused(capsys, "tiny", "--data", empty, "--out", "run")
    one = write_folder(tmp_path / "one", 1)
    assert "at least 2" in refused(capsys, "tiny", "--data", one, "--out", "run")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    refused(capsys, "tiny", "--data", text, "--out", "run")
    junk = tmp_path / "junk"
    junk.mkdir()
    for index in range(20):
        (junk / f"{index}.png").write_bytes(b"no picture")
    assert "0 readable pictures" in refused(capsys, "tiny", "--data", junk, "--out", "run")
    assert not (tmp_path / "run" / "first_stage").exists()


def test_wrong_places(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused(capsys, "tiny", "--data", data, "--out", "file", *SETS)
    assert "below a file" in refused(capsys, "tiny", "--data", data, "--out", "file/run", *SETS)
    assert "holds other files" in refused(capsys, "tiny", "--data", data, "--out", tmp_path, *SETS)
    assert "inside --data" in refused(capsys, "tiny", "--data", data, "--out", data / "run", *SETS)
    assert (tmp_path / "file").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_exit_code_3(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from faults import Disk, refuse

    for at in (1, 45):
        with monkeypatch.context() as patch:
            Disk(at, refuse(errno.ENOSPC)).install(patch)
            line = refused(capsys, "tiny", "--data", data, "--out", f"run{at}", "--quiet", *SETS, code=3)
        assert "No space left" in line
        assert main(["train", "tiny", "--data", str(data), "--out", f"run{at}", "--quiet", *SETS]) == 0
        assert capsys.readouterr().out == f"run{at}/model\n"


@pytest.mark.parametrize("minutes", ["soon", "-1", "nan"])
def test_minutes_that_are_none(data: Path, capsys: pytest.CaptureFixture[str], minutes: str) -> None:
    err = refused(capsys, "tiny", "--data", data, "--stop-after", minutes)
    assert f"--stop-after: got '{minutes}', expected minutes" in err


def test_half_a_config(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("half.json").write_text('{"name": "x"}')
    assert "the field data is missing" in refused(capsys, "half.json", "--data", data)


def test_an_unknown_recipe_is_told_what_else_would_do(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end = "or the path of a config.json; `sfumato info --recipes` lists them all.\n"
    near = refused(capsys, "tinny", "--data", data)
    assert near.startswith(f"sfumato: unknown recipe 'tinny': did you mean 'tiny'? Among the {len(RECIPES)} known: tiny, ")
    assert near.endswith(end)
    far = refused(capsys, "nope", "--data", data)
    assert far.startswith(f"sfumato: unknown recipe 'nope'. Among the {len(RECIPES)} known: class, ")
    assert far.endswith(end)
