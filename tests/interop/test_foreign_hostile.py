"""Pickles that would call something: none is called, nothing is imported, and one line names what was asked for.

The payloads are live: `test_the_payloads_work` runs them in a process that unpickles carelessly, and they leave their mark.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hostile import CALLABLES, DOUBLING, DRAWERS, TRICKS, call, first, pickles, text, with_pickle
from sfumato.cli.main import main
from sfumato.errors import InputError
from sfumato.interop.checkpoint import open_checkpoint
from sfumato.interop.pickles import Reader
from sfumato.interop.rebuild import Refused


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture(autouse=True)
def _nothing_ran(tmp_path):
    """After each test: no mark was left, no module came in, no other process lives."""
    before = set(sys.modules)
    yield
    assert not (tmp_path / "canary").exists()
    new = {name for name in set(sys.modules) - before if not name.startswith(("sfumato.", "encodings.", "torch."))}
    assert not new & {name.rpartition(".")[0].partition(".")[0] for name in CALLABLES} - {"torch", "sfumato"}


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("how", DRAWERS)
def test_the_payloads_work(tmp_path: Path, how: str) -> None:
    """Where a reader has no guard each of them makes a file (an object's state only sets attributes, so "build" makes none)."""
    mark = tmp_path / f"mark-{how}"
    name, argument = ("builtins.eval", f"open({str(mark)!r}, 'w').close()")
    if how in ("newobj", "newobj_ex"):  # those make objects of classes only
        name, argument = "subprocess.Popen", ["touch", str(mark)][0]
    data = b"\x80\x04" + call(name, argument, how) + b"."
    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=False, timeout=60)
    if how in ("newobj", "newobj_ex"):
        assert b"touch: missing" in done.stderr or not done.returncode  # it started
    elif how != "build":
        assert mark.exists(), done.stderr


@pytest.mark.parametrize("how", DRAWERS)
def test_every_callable_in_every_way_and_protocol(canary: Path, how: str) -> None:
    for name in CALLABLES:
        for data in pickles(call(name, f"touch {canary}", how)):
            with pytest.raises(Refused) as caught:
                Reader(io.BytesIO(data)).read()
            assert str(caught.value) == f"asks for {name}, which is not in the list of what a checkpoint may hold"


@pytest.mark.parametrize("how", DRAWERS)
def test_in_a_zip(tmp_path: Path, canary: Path, how: str) -> None:
    path = with_pickle(tmp_path / "x.ckpt", first(call("posix.system", f"touch {canary}", how)))
    assert "asks for posix.system" in refused(path)


@pytest.mark.parametrize("stream", range(5))
@pytest.mark.parametrize("how", ["global", "stack", "inst", "obj", "newobj"])
def test_in_each_pickle_of_the_old_format(tmp_path: Path, canary: Path, stream: int, how: str) -> None:
    path = with_pickle(tmp_path / "x.safetensors", first(call("os.system", f"touch {canary}", how)), legacy=stream)
    assert "asks for os.system" in refused(path)


def test_the_honest_files_around_them_are_read(tmp_path: Path) -> None:
    """So that what is refused above is the payload: one that pushes and drops a number passes."""
    for legacy in (None, *range(5)):
        path = with_pickle(tmp_path / f"{legacy}.ckpt", first(b"K\x01"), legacy=legacy)
        assert open_checkpoint(path).metadata.step == 7


@pytest.mark.parametrize("name", ["no.ckpt", "yes.safetensors", "picture.png", "model.bin", "x.pkl", "x"])
@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_under_any_name(tmp_path: Path, canary: Path, name: str, protocol: int) -> None:
    data = list(pickles(call("builtins.eval", f"open({str(canary)!r}, 'w')", "global")))[protocol]
    (tmp_path / name).write_bytes(data)
    assert "asks for builtins.eval" in refused(tmp_path / name)


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
def test_pythons_own_pickles_of_each_protocol(tmp_path: Path, canary: Path, protocol: int) -> None:
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps({"state_dict": {"a": Evil(canary)}}, protocol))
    assert re.search(r"asks for (os|posix)\.system", refused(tmp_path / "x.ckpt"))


@pytest.mark.parametrize("legacy", [None, 0, 1, 2, 3, 4])
def test_behind_the_stop(tmp_path: Path, canary: Path, legacy: int | None) -> None:
    """A second pickle behind the first: a reader that goes on would run it. Between the old format's five it takes a turn."""
    payload = b"\x80\x02" + call("os.system", f"touch {canary}", "global") + b"."
    path = with_pickle(tmp_path / "x.ckpt", lambda data: data, legacy=legacy, after=payload)
    message = refused(path)
    assert "asks for os.system" in message or "behind the end" in message or "is not as long" in message


@pytest.mark.parametrize(
    ("stream", "value", "why"),
    [
        (0, b"K\x01", "torch.save did not write"),
        (0, b"\x88", "torch.save did not write"),
        (1, b"M\xe8\x03", "another version"),
        (1, DOUBLING, "another version"),
        (1, b"\x8b" + struct.pack("<i", 10_000) + b"\x01" * 10_000, "another version"),
        (2, b"N", "little-endian"),
        (3, b"N", "no state dict"),
        (3, b"}" + b"\x8b" + struct.pack("<i", 10_000) + b"\x01" * 10_000 + b"Ns", "no state dict"),
        (4, b"N", "lacks the list of its storages"),
        (4, b"]K\x01a", "lacks the list of its storages"),
        (4, b"]", "does not list the storages"),
        (4, b"](" + text("0") + text("0") + b"e", "does not list the storages"),
    ],
)
def test_streams_of_the_old_format_that_say_something_else(tmp_path: Path, stream: int, value: bytes, why: str) -> None:
    path = with_pickle(tmp_path / "x.ckpt", lambda _: b"\x80\x02" + value + b".", legacy=stream)
    assert why in refused(path)


def test_a_polyglot_is_read_by_its_first_bytes(tmp_path: Path, canary: Path) -> None:
    """A pickle with an archive behind it, and an archive with a pickle before it: neither the one nor the other is honest."""
    honest = with_pickle(tmp_path / "x.ckpt", lambda data: data).read_bytes()
    old = with_pickle(tmp_path / "x.ckpt", lambda data: data, legacy=0).read_bytes()
    evil = b"\x80\x02" + call("os.system", f"touch {canary}", "global") + b"."
    for data, why in (
        (old + honest, "storages end at byte"),
        (evil + honest, "asks for os.system"),
        (honest + evil, "behind it"),
    ):
        (tmp_path / "x.ckpt").write_bytes(data)
        assert why in refused(tmp_path / "x.ckpt")


def test_behind_the_storages(tmp_path: Path, canary: Path) -> None:
    path = with_pickle(tmp_path / "x.ckpt", lambda data: data, legacy=0)
    with open(path, "ab") as file:
        file.write(b"\x80\x02" + call("os.system", f"touch {canary}", "global") + b".")
    assert "storages end at byte" in refused(path)


def test_nested_pickles_stay_bytes(tmp_path: Path, canary: Path) -> None:
    """Bytes and texts that are pickles are nothing but that; only a name that would open them matters, and is refused."""
    inner = b"\x80\x02" + call("os.system", f"touch {canary}", "global") + b"."
    bytes_ = b"B" + struct.pack("<I", len(inner)) + inner
    path = with_pickle(tmp_path / "x.ckpt", first(bytes_))
    assert open_checkpoint(path).metadata.step == 7
    for name in ("pickle.loads", "_pickle.loads", "torch.storage._load_from_bytes", "copyreg.__newobj__"):
        module, _, last = name.rpartition(".")
        opened = f"c{module}\n{last}\n".encode() + bytes_ + b"\x85R"
        assert f"asks for {name}" in refused(with_pickle(tmp_path / "x.ckpt", first(opened)))


WATCH = """
import json, os, sys
from sfumato.errors import InputError
from sfumato.interop.checkpoint import open_checkpoint
def read(path):
    try:
        return sum(t.numel() for t in open_checkpoint(path).index.read().values())
    except InputError as error:
        return str(error)
names = [line.rstrip() for line in sys.stdin]
read(names[0]), read(names[1]), read(names[2])  # what an honest file and a refusal bring in at their first time
seen = []
def watch(event, args):
    if event == "open" and isinstance(args[1], str) and not set(args[1]) & set("wax+"):
        return
    if event == "subprocess.Popen":
        args = [args[0] == sys.executable and list(args[1])[1:4] == ["-I", "-S", "-B"]]
    told = ("open", "import", "exec", "compile", "os.", "socket", "subprocess", "ctypes", "shutil", "marshal", "pickle")
    if event.startswith(told) and not (event == "open" and args[0] == os.devnull):
        seen.append([event, str(list(args))[:80]])
sys.addaudithook(watch)
before = sorted(sys.modules)
answers = [read(name) for name in names]
print(json.dumps({"seen": seen, "new": sorted(set(sys.modules) - set(before)), "answers": answers}))
"""


def test_the_parent_only_reads_and_asks_its_child(tmp_path: Path, canary: Path) -> None:
    """An auditor sees every import, execution, file, process and socket of the process that opens the hostile files."""
    files = [with_pickle(tmp_path / f"honest{i}", lambda data: data, legacy=i) for i in (None, 0)]
    for number, how in enumerate(DRAWERS):
        payload = call("os.system", f"touch {canary}", how)
        for legacy in (None, number % 5):
            files.append(with_pickle(tmp_path / f"{how}-{legacy}", first(payload), legacy=legacy))
        files.append(tmp_path / f"{how}-bare")
        files[-1].write_bytes(b"\x80\x04" + payload + b".")
    for number, what in enumerate(list(TRICKS)[::2]):
        files.append(with_pickle(tmp_path / f"trick-{number}", first(TRICKS[what])))
    names = "\n".join(map(str, files))
    done = subprocess.run([sys.executable, "-c", WATCH], input=names, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert found["new"] == []
    kinds = {(event, args) for event, args in found["seen"] if event != "os.posix_spawn"}
    assert kinds == {("subprocess.Popen", "[True]")}
    assert found["answers"][:2] == [17, 17]  # the honest ones: 12 and 5 numbers
    assert len(found["seen"]) >= len(files) - 1
    assert sum("asks for os.system" in str(answer) for answer in found["answers"]) == 3 * len(DRAWERS)


@pytest.mark.parametrize("legacy", [None, 0, 1, 2, 3, 4])
@pytest.mark.parametrize("command", [["inspect"], ["inspect", "--values"], ["convert"], ["generate"]], ids=" ".join)
def test_the_commands_say_one_line(
    tmp_path: Path, canary: Path, capsys: pytest.CaptureFixture[str], command: list[str], legacy: int | None
) -> None:
    path = with_pickle(tmp_path / "x.ckpt", first(call("os.system", f"touch {canary}", "global")), legacy=legacy)
    rest = {
        "inspect": [str(path), *command[1:]],
        "convert": [str(path), str(tmp_path / "made"), "--to", "native"],
        "generate": ["a cat", "--model", str(path), "--out", str(tmp_path / "x.png")],
    }[command[0]]
    before = set(tmp_path.iterdir())
    assert main([command[0], *rest]) == 2
    said = capsys.readouterr().err.strip()
    assert "asks for os.system" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert set(tmp_path.iterdir()) == before
