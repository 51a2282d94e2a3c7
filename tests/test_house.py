"""The rules of the house that can be checked by reading it: arrows, sizes, no code from data, nothing of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "sfumato"
MODULES = sorted(SOURCE.rglob("*.py"))
MAX_LINES, MAX_FUNCTION = 400, 60

FORBIDDEN_CALLS = {
    "eval", "exec", "__import__", "builtins.eval", "builtins.exec", "importlib.import_module", "import_module",
    "importlib.__import__", "runpy.run_path", "runpy.run_module", "yaml.load", "yaml.unsafe_load", "torch.load",
    "torch.hub.load", "os.system", "os.popen",
}  # fmt: skip
FORBIDDEN_IMPORTS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "runpy", "imp"}
ALLOWED = {
    # verbs, whose modules are constants of that file: a name from outside only chooses among them
    ("cli/main.py", "importlib.import_module"),
    # the published files of VGG16 and LPIPS; the tests below hold it to weights_only=True
    ("features/vgg.py", "torch.load"),
    ("features/vgg.py", "pickle"),
    # the yaml released beside a checkpoint: its safe loader, behind limits
    ("interop/yamls.py", "yaml"),
}


def name(module: Path) -> str:
    return module.relative_to(SOURCE).as_posix()


def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def calls(module: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node


def imports(module: Path) -> Iterator[str]:
    """Top-level packages that a module imports, anywhere in it, and full names out of `importlib`."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module.partition(".")[0]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_source_was_found():
    assert len(MODULES) > 50


def test_imports_point_down():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", done.stdout), done.stdout


def test_the_doors_are_cheap():
    verbs = ", ".join(f"sfumato.cli.{verb}" for verb in ("generate", "train", "data", "convert", "info"))
    doors = f"import sys, sfumato, sfumato.cli.main, {verbs}"
    heavy = ("torch", "numpy", "tokenizers", "safetensors")
    assert python(f"{doors}; print([m for m in {heavy} if m in sys.modules])").strip() == "[]"


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_sizes(module):
    lines = len(module.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: split the file"
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name} has {length} lines: split it"


def test_every_module_says_what_it_is():
    silent = [name(m) for m in MODULES if m.read_text(encoding="utf-8").strip() and ast.get_docstring(tree(m)) is None]
    assert silent == []


def test_nothing_is_imported_or_run_by_a_string():
    found = {(name(m), call) for m in MODULES for call, _ in calls(m) if call in FORBIDDEN_CALLS}
    found |= {(name(m), package) for m in MODULES for package in imports(m) if package in FORBIDDEN_IMPORTS}
    assert found - ALLOWED == set()


def test_files_of_tensors_are_read_without_running_code():
    for module in MODULES:
        for call, node in calls(module):
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            if call == "torch.load":
                assert isinstance(given.get("weights_only"), ast.Constant), name(module)
                assert given["weights_only"].value is True, name(module)
            assert "allow_pickle" not in given, name(module)
            assert "shell" not in given, name(module)
            assert "trust_remote_code" not in given, name(module)


def tracked() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    files = (ROOT / part.decode() for part in done.stdout.split(b"\0") if part)
    return [path for path in files if path.is_file()]


def test_no_file_speaks_of_one_machine():
    here = re.compile(rb"(?<![\w.\-/])/(?:work|root|home/[a-z]|Users/[a-z])(?![\w.\-])")
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:8192] and path != Path(__file__).resolve():
            found += [f"{path.relative_to(ROOT)}: {match[0].decode()}" for match in here.finditer(data)]
    assert found == []
