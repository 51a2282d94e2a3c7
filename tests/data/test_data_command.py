"""`sfumato data` as a person types it."""

import pytest
from corpus import picture, saved

from sfumato.cli.main import main
from sfumato.data import emoji
from sfumato.data.emoji import EmojiReport
from sfumato.data.folder import scan


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / f"{name}.png").write_bytes(saved(picture(), "PNG"))
    return tmp_path / "pictures"


def test_audit(folder, tmp_path, capsys):
    (folder / "d.png").write_bytes(b"")
    assert main(["data", "audit", str(folder), "--bad-files", str(tmp_path / "bad.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "3 pictures" in out
    assert "unreadable: 1" in out
    assert "d.png" in (tmp_path / "bad.jsonl").read_text()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["audit", "nothing-here"], "no such folder"),
        (["emoji", "x", "--styles", "notto"], "did you mean 'noto'"),
        (["emoji", "x", "--size", "1"], "size 1"),
        (["emoji", "x", "--size", "big"], "--size"),
        (["pack", "nothing-here", "a.tar"], "no such folder"),
        (["pack", "..", "."], "a folder; give the name"),
        (["pack", "../pictures", "a.tar", "--size", "1000000"], "expected 1 to 8192"),
        (["audit", "x", "--max-badd", "1"], "--max-bad"),
        ([], "ACTION"),
    ],
)
def test_mistakes_are_one_line(argv, words, capsys, folder, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["data", *argv]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert list((tmp_path / "here").iterdir()) == []


def test_pack(folder, tmp_path, capsys):
    assert main(["data", "pack", str(folder), str(tmp_path / "a.tar"), "--size", "16"]) == 0
    assert "a.tar" in capsys.readouterr().out
    assert len(scan(tmp_path / "a.tar").records) == 3


def test_pack_leaves_what_is_there(folder, tmp_path, capsys):
    target = tmp_path / "new" / "a.tar"
    target.parent.mkdir()
    target.write_text("mine")
    assert main(["data", "pack", str(folder), str(target), "--size", "16"]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert main(["data", "pack", str(folder), str(target), "--size", "16", "--overwrite"]) == 0
    assert len(scan(target).records) == 3
    assert [p.name for p in target.parent.iterdir()] == ["a.tar"]


def test_emoji(tmp_path, capsys, monkeypatch):
    def build(directory, size, styles, background, cache, workers, progress, num_pairs):
        progress("rendering", 1, 2)
        assert (size, list(styles), background, cache, workers) == (64, ["noto"], "transparent", tmp_path / "npm", None)
        assert num_pairs == 70
        return EmojiReport(directory, {("noto", "train"): 3, ("noto", "test"): 1}, {"noto/1F409": "empty"}, 2_500_000)

    monkeypatch.setattr(emoji, "build_emoji", build)
    argv = ["data", "emoji", str(tmp_path / "set"), "--size", "64", "--styles", "noto", "--background", "transparent"]
    argv += ["--pairs", "70"]
    assert main([*argv, "--cache", str(tmp_path / "npm")]) == 0
    out = capsys.readouterr().out
    assert "noto: test 1, train 3" in out
    assert "left out noto/1F409: empty" in out
    assert "4 pictures, 2.5 MB" in out


def test_packed_classes_stay_classes(folder, tmp_path):
    """No captions in the shard, else a model of it would be conditioned on text and not on classes."""
    for name in ("cat", "dog"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        (tmp_path / "classes" / name / "1.png").write_bytes((folder / "a.png").read_bytes())
    assert main(["data", "pack", str(tmp_path / "classes"), str(tmp_path / "a.tar"), "--size", "16"]) == 0
    found = scan(tmp_path / "a.tar")
    assert [(record.label, record.captions) for record in found.records] == [("cat", ()), ("dog", ())]
