"""The pages keep their word: commands parse, fields exist, Python imports what there is, links lead somewhere."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from sfumato.cli.main import VERBS, Parser, parse
from sfumato.cli.train import read_config
from sfumato.recipes import RECIPES

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GENERATED = ("docs/results", "docs/lab-log")  # what programs print is no instruction


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^[ ]*```(\w*)\n(.*?)^[ ]*```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands() -> list[tuple[str, str]]:
    """(page, command) of every `sfumato ...` in a block of shell, also after `&&`."""
    found = []
    for page in PAGES:
        if name(page).startswith(GENERATED):
            continue
        for block in blocks(page, "sh", "bash", "shell", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                parts = re.split(r"&&|;|\|", line.partition(" #")[0].strip().removeprefix("$ "))
                found += [(name(page), part.strip()) for part in parts if part.strip().startswith("sfumato ")]
    return found


def read(command: str) -> tuple[str, argparse.Namespace]:
    _, verb, *rest = shlex.split(command)
    module = importlib.import_module(VERBS[verb][0])
    parser = Parser(prog=verb)
    module.add_arguments(parser)
    return verb, parse(parser, rest)


def test_there_are_commands():
    assert len(commands()) > 20


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_parse(page, command):
    arguments = shlex.split(command)[1:]
    if arguments[0].startswith("-"):
        return
    verb, args = read(command)
    if verb == "train" and args.recipe in RECIPES:
        read_config(args.recipe, args.set)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_imports_what_there_is(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path)
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def test_every_field_that_a_page_sets_exists():
    for page in PAGES:
        for field in re.findall(r"--set ([a-z_.]+)=", page.read_text(encoding="utf-8")):
            assert any(_has(fields, field) for fields in _fields()), f"{name(page)}: {field}"


def _has(fields: Any, path: str) -> bool:
    for part in path.split("."):
        if not isinstance(fields, dict) or part not in fields:
            return False
        fields = fields[part]
    return True


def _fields() -> list[Any]:
    """Of the recipe for any folder, and of those whose conditioner has settings of its own."""
    from sfumato.config import to_dict

    return [to_dict(RECIPES[recipe]()) for recipe in ("folder", "upscale", "frozen-text", "retrieval")]
