"""Pickles that ask for too much or say what is not so: refused in bounded time and memory, by either process."""

from __future__ import annotations

import io
import json
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from hostile import DOUBLING, TRICKS, first, refusal, text, with_pickle
from sfumato.errors import InputError
from sfumato.interop import child, torchfile
from sfumato.interop.checkpoint import open_checkpoint
from sfumato.interop.pickles import Limits, Reader
from sfumato.interop.rebuild import Refused


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("what", TRICKS)
def test_tricks(tmp_path: Path, what: str) -> None:
    data = TRICKS[what]
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
    other = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # the largest child of all tests before
    allowed = max(other, before + 300_000, 1_100_000)  # a child counts what its parent had when it was begun
    message = refusal(lambda: open_checkpoint(path))
    assert message is None or re.search("more than|nested deeper|damaged pickle|more memory|asks for", message), message
    assert message is None or len(message) < 600 + len(str(path))
    assert time.perf_counter() - start < 40
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= allowed


def test_a_reader_stops_at_its_limits() -> None:
    with pytest.raises(Refused, match="more than 10 operations"):
        Reader(io.BytesIO(b"N0" * 10 + b"N."), Limits(operations=10)).read()
    with pytest.raises(Refused, match="nested deeper than 3"):
        Reader(io.BytesIO(b"((((tttt."), Limits(marks=3)).read()
    assert Reader(io.BytesIO(b"(((ttt."), Limits(marks=3)).read() == (((),),)


def test_what_a_child_says_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_pickle(tmp_path / "x.ckpt", lambda data: data)
    answer = json.dumps({"refused": "a\x1b[2J\nb" * 10_000}).encode()
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, answer, b""))
    message = refused(path)
    assert message.isprintable()
    assert len(message) < 3000


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
