"""What the same families make of pictures: samples and numbers of a `sfumato compare`, beside their formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from sfumato.errors import InputError
from sfumato.studies.embed import embedded
from sfumato.studies.families import FAMILIES
from sfumato.studies.findings import findings, millions, number, ranked, span
from sfumato.studies.overview import first_samples
from sfumato.studies.page import conditions
from sfumato.studies.results import SAMPLES, Result, read_results

ACROSS, LINES, GAP = 12, 2, 2
"""Samples of a picture, and the pixels between them."""


@dataclass(frozen=True)
class Pictures:
    """A comparison's results by family, in the order of the field's history, those that diverged too, and its folder."""

    results: Mapping[str, Result]
    folder: Path


def read_pictures(folder: Path) -> Pictures:
    """The --out of a `sfumato compare`. Raises `InputError` where no family has samples there."""
    found = {r.family: r for r in read_results(folder, list(FAMILIES))}
    if not any(r.done for r in found.values()):
        raise InputError(f"compare: no family's result is in {folder}; give the --out of `sfumato compare`.")
    return Pictures(found, folder)


def on_pictures(pictures: Pictures, family: str) -> str:
    """The family's samples and numbers, as HTML; empty where the comparison has none of it."""
    result = pictures.results.get(family)
    if result is None:
        return ""
    if not result.done:
        return f"<h3>On pictures</h3>\n<p>It {escape(result.status)}: {escape(result.reason)}</p>"
    facts = [("Fréchet distance", span(result.scores["fd"]))] if "fd" in result.scores else []
    facts += [
        (name, number(result.scores[name].value)) for name in ("precision", "recall", "coverage") if name in result.scores
    ]
    if bits := _bits(result):
        facts.append(("bits per dimension", bits))
    if "memorised" in result.scores:
        facts.append(("distance to training pictures", number(result.scores["memorised"].value)))
    if result.seconds_per_sample is not None:
        facts.append(("seconds a sample", number(result.seconds_per_sample)))
    facts.append(("parameters", millions(result.num_parameters)))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f"<h3>On pictures</h3>\n{_strip(pictures, result)}\n<dl>{listed}</dl>"


def the_rest(pictures: Pictures, told: Sequence[str]) -> str:
    """Families of the comparison that have no chapter."""
    rest = [result for result in pictures.results.values() if result.done and result.family not in told]
    if not rest:
        return ""
    parts = [f'<h3>{escape(r.title)}</h3>\n<p class="kind">{escape(r.formula)}</p>\n{_strip(pictures, r)}' for r in rest]
    return '<h2 id="others">Without a chapter</h2>\n' + "\n".join(parts)


def table_rows(pictures: Pictures, chapters: Sequence[str]) -> list[list[str]]:
    """Cells for every family, the smallest distance first; a family with a chapter is a link to it."""
    results = [r for r in pictures.results.values() if r.done]
    order = [*ranked(results), *(r for r in results if "fd" not in r.scores)]
    rows = []
    for r in order:
        title = f'<a href="#{r.family}">{escape(r.title)}</a>' if r.family in chapters else escape(r.title)
        values = [number(r.scores[name].value) if name in r.scores else "—" for name in ("fd", "precision", "recall")]
        speed = "—" if r.seconds_per_sample is None else number(r.seconds_per_sample)
        rows.append([title, *values, _bits(r) or "—", speed])
    return rows


COLUMNS = ("family", "Fréchet distance", "precision", "recall", "bits / dimension", "seconds a sample")


def told(pictures: Pictures) -> list[str]:
    """Sentences: under which conditions, what the numbers say, what was not equal."""
    results = list(pictures.results.values())
    return [conditions(results), *findings(results)]


def _bits(result: Result) -> str:
    """Bits per dimension, a bound marked; empty where there are none."""
    if "bits" not in result.scores:
        return ""
    return ("≤ " if result.bits_kind == "bound" else "") + number(result.scores["bits"].value)


def _strip(pictures: Pictures, result: Result) -> str:
    """The first samples, none chosen, in the size they have; the page enlarges them."""
    cells = first_samples(pictures.folder / result.family / SAMPLES, ACROSS * LINES)
    if not cells:
        return ""
    side = cells[0].width
    strip = Image.new("RGB", (ACROSS * (side + GAP) - GAP, -(-len(cells) // ACROSS) * (side + GAP) - GAP), "white")
    for index, cell in enumerate(cells):
        strip.paste(cell, ((index % ACROSS) * (side + GAP), (index // ACROSS) * (side + GAP)))
    return f'<figure class="strip">{embedded(strip, f"samples of {result.title}", quality=90)}</figure>'
