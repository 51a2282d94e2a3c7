"""Pickles that would call something: none is called, nothing is imported, and one line names what was asked for.

The payloads are live: `test_the_payloads_work` runs them in a process that unpickles carelessly, and they leave their mark.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from hostile import CALLABLES, DRAWERS, call, first, pickles, refusal, text, with_pickle
from sfumato.errors import InputError
from sfumato.interop import child, torchfile
from sfumato.interop.checkpoint import open_checkpoint
from sfumato.interop.pickles import Limits, Reader
from sfumato.interop.rebuild import Refused

#: A list of two of a list of two ... 60 times: 2^60 leaves for who walks it, 60 lists in memory.
DOUBLING = b"]q\x00" + b"".join(b"0](h%ch%ceq%c" % (n, n, n + 1) for n in range(60))


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


NAMES: dict[str, bytes] = {
    "a dotted name": text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93",
    "a module inside an allowed one": text("collections.OrderedDict") + text("__class__") + b"\x93",
    "an empty module": text("") + text("os.system") + b"\x93",
    "a module that is a number": b"K\x01" + text("system") + b"\x93",
    "a module that is a table": b"}" + text("system") + b"\x93",
    "a line break in a name": text("os\nsystem") + text("x") + b"\x93",
    "control characters": text("os\x1b[2Jsystem\x07") + text("x") + b"\x93",
    "other letters that look alike": text("tоrch") + text("FloatStorage") + b"\x93",
    "spaces": b"ctorch FloatStorage\nx\n",
    "an extension code": b"\x82\x01",
    "an extension code of two bytes": b"\x83\x01\x01",
    "an extension code of four bytes": b"\x84\x01\x01\x01\x01",
    "an out-of-band buffer": b"\x97",
    "calling what is no name": b"K\x01)R",
    "calling a table": b"})R",
    "calling a tensor class": b"ctorch\nTensor\nK\x01R",
    "calling a storage class": b"ctorch\nFloatStorage\n)R",
    "calling a type": b"ctorch\nfloat32\n)R",
    "making objects of a number": b"K\x01)\x81",
    "state of a class": b"ccollections\nOrderedDict\n}b",
    "state of a number": b"K\x01}b",
    "items of a class": b"ccollections\nOrderedDict\nK\x01K\x02s",
    "appending to a text": text("a") + b"K\x01a",
    "a table of other than pairs": b"ccollections\nOrderedDict\n](K\x01K\x02e\x85R",
    "a tensor made by another name": b"ctorch._tensor\n_rebuild_from_type_v2\n(ccollections\nOrderedDict\nctorch\nTensor\n)}tR",
    "a tensor of another class": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nccollections\nOrderedDict\n)}tR"
    ),
    "a tensor without arguments": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "a tensor in itself": b"ctorch._utils\n_rebuild_parameter\n(K\x01\x88}tR",
    "a module behind a reference": b"(" + text("module") + b"K\x01K\x02K\x03tQ",
    "a reference that is a text": text("storage") + b"Q",
    "protocol 6": b"\x80\x06N",
    "an unknown operation": b"\xff",
    "a value from nowhere in the memo": b"h\x63",
    "an empty stack": b"00000",
    "a mark that is missing": b"et",
    "a number that is none": b"I1x\n",
    "a float that is none": b"Fx\n",
    "a text that is no text": b"X\x02\x00\x00\x00\xff\xff",
    "a text longer than the file": b"X\xff\xff\xff\x7fa",
    "a text of 2^63 bytes": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa",
    "bytes of 2^64": b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffa",
    "a number of 2^31 bytes": b"\x8b\xff\xff\xff\x7f1",
    "a number of negative length": b"\x8b\xff\xff\xff\xff1",
    "a number of many digits": b"L" + b"9" * 100_000 + b"L\n",
    "nested tables": b"}K\x01" * 5000 + b"N" + b"s" * 5000,
    "nested marks": b"(" * 2000,
}


@pytest.mark.parametrize("what", NAMES)
def test_tricks(tmp_path: Path, what: str) -> None:
    data = NAMES[what]
    message = refusal(Reader(io.BytesIO(data + b".")).read)
    if what == "nested tables":  # deep, and harmless: nothing walks into it
        assert message is None
    else:
        assert message is not None
        assert len(message) < 400
        assert message.isprintable()
    if what in ("nested tables", "a number of many digits", "bytes of 2^64", "control characters"):
        path = with_pickle(tmp_path / "x.ckpt", first(data))
        if what == "nested tables":
            assert open_checkpoint(path).metadata.step == 7
        else:
            refused(path)


def bomb_doubling() -> bytes:
    return DOUBLING


def bomb_name() -> bytes:
    """The same list as the name of a module: who writes it into a message writes 2^60 words."""
    return bomb_doubling() + b"0h\x3c" + text("system") + b"\x93"


def bomb_tuple_keys() -> bytes:
    """A tuple nested 200,000 deep as a key: hashing it would overflow the stack of a C program."""
    return b"})" + b"\x85" * 200_000 + b"Ns"


def bomb_many() -> bytes:
    """Nine million empty lists."""
    return b"(" + b"]" * 9_000_000 + b"t"


def bomb_marks() -> bytes:
    return b"(" * 30_000_000


def bomb_text() -> bytes:
    """A name without an end: a line of 60 MB."""
    return b"c" + b"a" * 60_000_000


def bomb_memo() -> bytes:
    """One value under five million numbers."""
    return b"N" + b"\x94" * 8_500_000


def bomb_frozen() -> bytes:
    return (b"(" + text("a") * 1000 + b"\x91" + b"0") * 2000 + b"N"


@pytest.mark.parametrize(
    "bomb",
    [bomb_doubling, bomb_name, bomb_tuple_keys, bomb_many, bomb_marks, bomb_text, bomb_memo, bomb_frozen],
    ids=lambda b: b.__name__,
)
def test_bombs(tmp_path: Path, bomb: Callable[[], bytes]) -> None:
    """Refused or read past in little memory and time; the parent's memory does not move by more than the pickle."""
    path = with_pickle(tmp_path / "x.ckpt", first(bomb()))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    message = refusal(lambda: open_checkpoint(path))
    assert message is None or re.search("more than|nested deeper|damaged pickle|more memory|asks for", message), message
    assert message is None or len(message) < 600 + len(str(path))
    assert time.perf_counter() - start < 40
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1_100_000


def test_a_reader_stops_at_its_limits() -> None:
    with pytest.raises(Refused, match="more than 10 operations"):
        Reader(io.BytesIO(b"N0" * 10 + b"N."), Limits(operations=10)).read()
    with pytest.raises(Refused, match="nested deeper than 3"):
        Reader(io.BytesIO(b"((((tttt."), Limits(marks=3)).read()
    assert Reader(io.BytesIO(b"(((ttt."), Limits(marks=3)).read() == (((),),)


def in_child(code: str) -> dict[str, str]:
    """What a process says that has given its rights away as the reader's does, and then does something."""
    lines = f"import os, sys; from sfumato.interop import child; child.limit(); child.close_doors(); {code}; child.answer({{}})"
    root = str(Path(torchfile.__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-S", "-c", lines], capture_output=True, check=False, timeout=60, env={"PYTHONPATH": root}
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("os.system('true')", "os.system"),
        ("open('/dev/null')", "open"),
        ("import decimal", "import"),
        ("eval('1')", "compile"),
        ("os.fork()", "os.fork"),
        ("os.execv('/bin/true', ['true'])", "os.exec"),
        ("os.remove('x')", "os.remove"),
        ("import _socket; _socket.socket()", "import"),
    ],
)
def test_the_child_ends_at_the_first_wrong_step(code: str, event: str) -> None:
    """A second wall: were the reader itself fooled, its process still may do nothing."""
    assert in_child(code) == {"refused": f"tried {event} while it was read"}


def test_the_child_has_limits() -> None:
    code = (
        "import sys; from sfumato.interop import child; child.limit(); import resource;"
        "print(resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CPU),"
        "resource.getrlimit(resource.RLIMIT_FSIZE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == f"({child.MEMORY}, {child.MEMORY}) ({child.SECONDS}, {child.SECONDS}) (0, 0)"


def test_the_child_brings_in_nothing_that_is_installed() -> None:
    """Only the standard library and four small modules of ours: no PyTorch, no NumPy, no pickle of tensors."""
    root = str(Path(torchfile.__file__).resolve().parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); from sfumato.interop import child; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("sfumato.")} == {
        "sfumato.interop", "sfumato.interop.child", "sfumato.interop.globals", "sfumato.interop.pickles",
        "sfumato.interop.rebuild",
    }  # fmt: skip
    assert not loaded & {"torch", "numpy", "safetensors", "yaml", "subprocess", "socket", "site"}


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"{", b"[]", b"null", b"{}", b'{"refused": ',
        b'{"ends": [1], "keys": [], "storages": {}, "tensors": [["a", "0", "float32", 0, [1], [1]]], "others": [],'
        b' "metadata": {}}',
    ],
)  # fmt: skip
def test_a_child_that_lies_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    path = with_pickle(tmp_path / "x.ckpt", lambda data: data)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, answer, b""))
    assert "broke the process that read it" in refused(path)


@pytest.mark.parametrize(
    "change",
    [
        (b"K\x0ctq", b"K\x0dtq"),  # elements of a storage
        (b"K\x0ctq", b"K\x0btq"),
        (b"K\x04K\x03\x86", b"K\x04K\x04\x86"),  # shape
        (b"K\x03K\x01\x86", b"K\x04K\x01\x86"),  # stride
        (b"K\x00K\x04K\x03\x86", b"K\x01K\x04K\x03\x86"),  # offset
        (b"K\x00K\x04K\x03\x86", b"J\xff\xff\xff\xffK\x04K\x03\x86"),  # negative
        (b"K\x04K\x03\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),
        (b"K\x04K\x03\x86", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x03\x86"),
        (b"K\x04K\x03\x86", b"\x88K\x03\x86"),  # True for a number
        (b"K\x04K\x03\x86", b"NK\x03\x86"),
        (b"K\x04K\x03\x86", b"K\x0c\x85"),  # one number for two strides
        (b"torch\nFloatStorage", b"torch\nDoubleStorage"),
        (b"torch\nFloatStorage", b"torch\nHalfStorage"),
        (b"torch\nFloatStorage", b"torch\nNoStorage"),
        (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"),  # key of a storage that is not there
    ],
)
def test_numbers_that_do_not_fit_the_file(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    """Types, shapes, strides, offsets and lengths are checked before a byte is mapped, once by each process."""

    def swap(data: bytes) -> bytes:
        assert change[0] in data
        return data.replace(*change, 1)

    refused(with_pickle(tmp_path / "x.ckpt", swap))


def test_mutations_of_an_honest_pickle(tmp_path: Path) -> None:
    """Twenty thousand pickles with one to four wrong bytes: each is read or refused, and no other error comes out."""
    import random

    import torch

    buffer = io.BytesIO()
    torch.save({"state_dict": {"w": torch.ones(4, 3)}, "epoch": 1}, buffer, _use_new_zipfile_serialization=False)
    honest, rng, refusals = buffer.getvalue(), random.Random(0), 0
    for _ in range(20_000):
        data = bytearray(honest)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        message = refusal(partial(child.read, io.BytesIO(bytes(data)), legacy=True))
        assert message is None or message.isprintable()
        refusals += message is not None
    assert 10_000 < refusals < 20_000
