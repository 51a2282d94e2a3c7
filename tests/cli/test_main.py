"""The front door: verbs, one-line errors, exit codes, nothing imported that is not needed."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import subprocess
import sys
import time
import types
from importlib import metadata
from pathlib import Path

import pytest

from sfumato.cli import main as cli
from sfumato.cli.main import VERBS, main
from sfumato.errors import InputError, MachineError


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A verb `probe` whose `run` does what `verb.action` says."""
    module = types.ModuleType("probe_verb")
    module.HELP = "Probe."
    module.action = lambda args: 0

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("names", nargs="*")
        parser.add_argument("--steps")
        parser.add_argument("--device", choices=("cpu", "cuda"))

    module.add_arguments = add_arguments

    def run(args: argparse.Namespace) -> int:
        return module.action(args)  # looked up late: tests replace it

    module.run = run
    monkeypatch.setitem(sys.modules, "probe_verb", module)
    monkeypatch.setitem(VERBS, "probe", ("probe_verb", "probe"))
    monkeypatch.delenv("SFUMATO_DEBUG", raising=False)
    return module


def fails(error: BaseException) -> object:
    def action(args: argparse.Namespace) -> int:
        raise error

    return action


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sfumato: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


ERRORS = [
    (InputError("steps: got 0, expected 1."), 2, "steps: got 0"),
    (MachineError("disk full."), 3, "disk full"),
    (KeyboardInterrupt(), 130, "stopped"),
    (MemoryError(), 3, "out of memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"), 3, "out of memory"),
    (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), 3, "out of memory"),
    (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 3, "No space left"),
    (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 3, "/x/y"),
    (OSError(errno.EROFS, "Read-only file system"), 3, "Read-only"),
    (ZeroDivisionError("division\nby zero"), 1, "SFUMATO_DEBUG"),
    (RuntimeError("sizes differ"), 1, "mistake in sfumato"),
    (InputError("bad\x1b[31m name\r\nnext"), 2, "\\x1b[31m"),
    (InputError("x" * 10**6), 2, "xxx"),
]


@pytest.mark.parametrize(("error", "code", "words"), ERRORS, ids=range(len(ERRORS)))
def test_errors_are_one_line(
    verb: types.ModuleType, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, words: str
) -> None:
    verb.action = fails(error)
    assert main(["probe"]) == code
    line = one_line(capsys)
    assert words in line
    assert len(line) < 3000
    assert line.rstrip("\n").isprintable()


def test_debug_shows_the_traceback(verb: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_DEBUG", "1")
    verb.action = fails(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["probe"])


@pytest.mark.parametrize(("argv", "words"), [
    (["probee"], "did you mean 'probe'"), (["--vrsion"], "unknown verb"), ([""], "unknown verb"),
    (["x" * 9999], "unknown verb"),
    (["probe", "--step", "3"], "did you mean --steps"), (["probe", "--stepz=3"], "did you mean --steps"),
    (["probe", "--steps"], "expected one argument"), (["probe", "--device", "gpu"], "invalid choice"),
    (["probe", "-q"], "unknown argument '-q'"), (["probe", "--" + "x" * 9999], "unknown argument"),
])  # fmt: skip
def test_wrong_command_lines(verb: types.ModuleType, capsys: pytest.CaptureFixture[str], argv: list[str], words: str) -> None:
    assert main(argv) == 2
    line = one_line(capsys)
    assert words in line
    assert len(line) < 400


def test_options_and_names_mix(verb: types.ModuleType) -> None:
    seen: list[argparse.Namespace] = []
    verb.action = lambda args: seen.append(args) or 0
    assert main(["probe", "a", "--steps", "3", "b", "--device=cpu", "c"]) == 0
    assert main(["probe", "--steps", "-1"]) == 0
    assert main(["probe", "--", "--steps"]) == 0
    assert [(s.names, s.steps, s.device) for s in seen] == [
        (["a", "b", "c"], "3", "cpu"), ([], "-1", None), (["--steps"], None, None)
    ]  # fmt: skip


def test_verbs_within_verbs(verb: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        inner = parser.add_subparsers(dest="what", required=True).add_parser("emoji")
        inner.add_argument("directory")
        inner.add_argument("--size")

    verb.add_arguments = add_arguments
    verb.action = lambda args: print(args.directory, args.size) or 0
    assert main(["probe", "emoji", "x", "--size", "3"]) == 0
    assert capsys.readouterr().out == "x 3\n"
    assert main(["probe", "emoji", "x", "--siz", "3"]) == 2
    assert "unknown argument '--siz'" in one_line(capsys)
    assert main(["probe", "emojy"]) == 2
    one_line(capsys)


def test_help_and_version(verb: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in VERBS)
    assert main([]) == 2
    assert main(["probe", "--help"]) == 0
    assert "usage: sfumato probe" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sfumato 0.")


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_verb_keeps_the_contract(name: str) -> None:
    module = importlib.import_module(VERBS[name][0])
    assert isinstance(module.HELP, str)
    parser = cli.Parser(prog=name, description=module.HELP)
    module.add_arguments(parser)
    assert callable(module.run)
    assert parser.format_help()


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    "argv", [["--help"], ["--version"], ["generate", "--help"], ["generate", "x", "--steps", "0"], ["nope"]]
)
def test_no_torch_before_it_is_needed(argv: list[str]) -> None:
    result = python(f"import sys; from sfumato.cli.main import main; main({argv!r}); assert 'torch' not in sys.modules")
    assert result.returncode == 0, result.stderr


def test_import_is_quick_and_lazy() -> None:
    started = time.perf_counter()
    result = python(
        "import sys, time; t = time.perf_counter(); import sfumato; d = time.perf_counter() - t; "
        "assert 'torch' not in sys.modules and {'load', 'LatentModel', '__version__'} <= set(dir(sfumato)); print(d)"
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0.3
    assert time.perf_counter() - started < 10


def test_lazy_names() -> None:
    import sfumato
    from sfumato.generation.pipeline import Pipeline, load
    from sfumato.model import LatentModel

    assert (sfumato.load, sfumato.Pipeline, sfumato.LatentModel) == (load, Pipeline, LatentModel)
    with pytest.raises(AttributeError, match="nothing"):
        sfumato.nothing  # noqa: B018


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        result = subprocess.run(
            [sys.executable, "-m", "sfumato", "--help"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert result.returncode == 141
    assert result.stderr == ""


@pytest.mark.parametrize(("stream", "other"), [("1", "2"), ("2", "1")])
def test_a_stream_closed_at_the_start(stream: str, other: str) -> None:
    """`>&-`: nothing breaks, and what belonged there does not go into the other stream."""
    command = f'"{sys.executable}" -m sfumato "$1" {stream}>&-'
    for argument, code in (("--version", 0), ("nope", 2)):
        result = subprocess.run(["sh", "-c", command, "sh", argument], capture_output=True, text=True, check=False, timeout=60)
        assert result.returncode == code
        shown = result.stderr if other == "2" else result.stdout
        assert bool(shown) == ((argument == "nope") == (other == "2"))
        assert "NoneType" not in shown


def test_version_of_sources_that_were_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sfumato

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert sfumato._version() == "unknown"
