"""The comparison as one HTML file that needs nothing else: pictures inside, figures as SVG, dark or light as the reader's."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from sfumato.io.files import read_table, write_bytes
from sfumato.studies.chart import Dot, scatter, spark
from sfumato.studies.embed import embedded_file
from sfumato.studies.families import FIRST_STAGE_SHARE
from sfumato.studies.findings import collapsed, findings, millions, number, ranked
from sfumato.studies.results import NEIGHBOURS, SAMPLES, Result, Score, Trained
from sfumato.studies.style import STYLE
from sfumato.training.held_out import NUMBERS, Found
from sfumato.training.operations import as_typed

PAGE = "compare.html"

COLUMNS = (
    ("fd", "Fréchet distance ↓", "lower"),
    ("precision", "precision ↑", "higher"),
    ("recall", "recall ↑", "higher"),
    ("coverage", "coverage ↑", "higher"),
    ("bits", "bits / dimension ↓", "lower"),
    ("memorised", "distance to training pictures", ""),
    ("copies", "copies", ""),
)
"""Score, heading, which way is better."""
PLAIN = ("seconds / sample", "training images / s", "parameters", "samples")
TRAINED = ("training operations", "training seconds")
"""Headings where a budget was of operations: how many they were, and the time that they took, which is then not equal."""

SECONDS = (
    "seconds of training steps on the device, without compilation and the first ten steps of each kind, without sample sheets, "
    "checkpoints and the encoding of the data between stages."
)
OPERATIONS = (
    "floating-point operations of training steps, forward, backward and in the optimizer, a multiplication and an addition "
    "being two. Counted, by PyTorch's FlopCounterMode in the first step of each kind, are matrix products, convolutions and "
    "attention; elementwise work, norms, sums and the encoding of the data between stages are not. Equal operations are not "
    "equal time: training seconds, without the first ten steps of each kind, stand beside them."
)
"""What was the same for all families."""


def write_page(results: Sequence[Result], out: Path, command: str = "") -> Path:
    """OUT/compare.html of these results, whose pictures lie in OUT/FAMILY. Returns its path."""
    order = [*ranked([r for r in results if r.done]), *(r for r in results if r.done and "fd" not in r.scores)]
    order += [r for r in results if not r.done]
    body = [
        "<h1>The family tree side by side</h1>",
        f"<p class=lead>{escape(conditions(results))}</p>",
        "<section><h2>What it says</h2><ul class=findings>",
        *(f"<li>{escape(text)}</li>" for text in findings(results)),
        "</ul></section>",
        "<section><h2>Quality against speed</h2>",
        figure(results),
        "<p class=note>Down and to the left is better. Filled in colour: diffusion in a learned latent space. "
        "Bars are 95 % intervals.</p></section>",
        "<section><h2>The numbers</h2>",
        table(order),
        _legend(results),
        "</section>",
        "<section><h2>The pictures</h2><p class=note>The same seeds in every family, none chosen.</p><div class=cards>",
        *(card(result, out / result.family) for result in order),
        "</div></section>",
        _protocol(results, command),
    ]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>sfumato compare</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body><main>'
    )
    path = out / PAGE
    write_bytes(path, "\n".join([head, *body, "</main></body></html>", ""]).encode())
    return path


def conditions(results: Sequence[Result]) -> str:
    """What was equal, in a sentence or two."""
    if not results:
        return "No family has been trained yet."
    first = results[0]
    budgets = [
        _span([f"{value:g}" for value in sorted({r.minutes for r in results if r.flops <= 0})], "minutes"),
        _span([as_typed(value) for value in sorted({r.flops for r in results if r.flops > 0})], "floating-point operations"),
    ]
    devices = sorted({result.device for result in results})
    data = first.data
    return (
        f"{len(results)} families of image generators, each trained for {' or '.join(filter(None, budgets))} on the same "
        f"{data.get('num_train', 0):,} pictures of {data.get('size', '?')} × {data.get('size', '?')} pixels "
        f"({data.get('folder', '')}; {data.get('num_held_out', 0):,} more are held out), on {' and on '.join(devices)}, and "
        f"judged by one protocol{_samples_of(results)}."
    )


def _samples_of(results: Sequence[Result]) -> str:
    counts = {r.num_samples for r in results if r.done}
    return f", by {counts.pop():,} samples each" if len(counts) == 1 else ""


def _span(values: Sequence[str], unit: str) -> str:
    """The smallest to the largest of sorted `values`; empty of none."""
    return f"{' to '.join(dict.fromkeys((values[0], values[-1])))} {unit}" if values else ""


def figure(results: Sequence[Result]) -> str:
    """Fréchet distance over seconds a sample."""
    dots, real = [], None
    for result in results:
        score = result.scores.get("fd")
        if score is not None and result.seconds_per_sample:
            dots.append(Dot(result.title, result.seconds_per_sample, score.value, score.low, score.high, result.latent))
            real = score.real if score.real is not None else real
    found = scatter(dots, "seconds a sample", "Fréchet distance (FD-MobileNetV2)", real, "other real pictures")
    return f"<div class=wide>{found}</div>" if found else "<p>There is nothing to draw yet.</p>"


def table(order: Sequence[Result]) -> str:
    """A row for each family, the best of a column marked; the last row is what real pictures score."""
    done = [r for r in order if r.done]
    shown = [column for column in COLUMNS if any(column[0] in r.scores for r in done)]
    told = {"samples": len({r.num_samples for r in done}) > 1, **dict.fromkeys(TRAINED, any(r.flops > 0 for r in done))}
    plain_heads = [heading for heading in (*PLAIN, *TRAINED) if told.get(heading, True)]
    heads = ["family", *(heading for _, heading, _ in shown), *plain_heads]
    rows = ["<tr>" + "".join(f"<th scope=col>{escape(h)}</th>" for h in heads) + "</tr>"]
    best = {}
    for name, _, way in shown:
        values = [r.scores[name].value for r in done if name in r.scores]
        if way and len(set(values)) > 1:
            best[name] = min(values) if way == "lower" else max(values)
    for result in order:
        cells = [f"<th scope=row>{escape(result.title)}</th>"]
        if not result.done:
            rows.append(f"<tr>{cells[0]}<td colspan={len(heads) - 1} class=bad>{escape(result.status)}</td></tr>")
            continue
        rates = " / ".join(f"{stage.rate:,.0f}" if stage.rate > 0 else "–" for stage in result.stages.values()) or "–"
        speed = "–" if result.seconds_per_sample is None else number(result.seconds_per_sample)
        for name, _, _ in shown:
            score = result.scores.get(name)
            cells.append(_cell(score, name, score is not None and best.get(name) == score.value, result))
        operations, seconds = result.training
        trained = (as_typed(operations, 3) if operations else "–", f"{seconds:,.0f}" if seconds else "–")
        plain = (speed, rates, millions(result.num_parameters), f"{result.num_samples:,}", *trained)
        named = zip((*PLAIN, *TRAINED), plain, strict=True)
        rows.append(f"<tr>{''.join([*cells, *(f'<td>{text}</td>' for name, text in named if name in plain_heads)])}</tr>")
    rows.append(_real_row(done, [name for name, _, _ in shown], len(plain_heads)))
    return f"<div class=wide><table>{''.join(rows)}</table></div>"


def _cell(score: Score | None, name: str, best: bool, result: Result) -> str:
    if score is None:
        return f'<td title="{escape(result.bits_kind if name == "bits" else result.missing.get(name, ""))}">–</td>'
    interval = "" if score.low is None or score.high is None else f"<small>{number(score.low)}–{number(score.high)}</small>"
    kind = "≤ " if name == "bits" and result.bits_kind == "bound" else ""
    return f"<td{' class=best' if best else ''}>{kind}{number(score.value)}{interval}</td>"


def _real_row(done: Sequence[Result], shown: Sequence[str], num_plain: int) -> str:
    most = max((r for r in done), key=lambda r: r.num_samples, default=None)
    if most is None or not any(score.real is not None for score in most.scores.values()):
        return ""
    cells = []
    for name in shown:
        score = most.scores.get(name)
        cells.append(f"<td>{'–' if score is None or score.real is None else number(score.real)}</td>")
    return f"<tr class=real><th scope=row>other real pictures</th>{''.join(cells)}{'<td>–</td>' * num_plain}</tr>"


def _legend(results: Sequence[Result]) -> str:
    reasons: dict[str, list[str]] = {}
    for result in results:
        if result.done and "bits" not in result.scores and result.bits_kind:
            reasons.setdefault(result.bits_kind, []).append(result.title)
    lines = [f"No bits per dimension for {', '.join(titles)}: {reason}" for reason, titles in reasons.items()]
    lines += [f"{r.title}: {reason}" for r in results for reason in r.missing.values()]
    return "".join(f"<p class=note>{escape(line)}</p>" for line in lines)


def card(result: Result, folder: Path) -> str:
    """A family: its formula, its samples, its nearest training pictures, its curves."""
    source = (
        f' <a href="https://arxiv.org/abs/{escape(result.source)}">arXiv {escape(result.source)}</a>' if result.source else ""
    )
    parts = [f"<article><h3>{escape(result.title)}</h3>"]
    if result.formula or source:
        parts.append(f"<p class=formula>{escape(result.formula)}{source}</p>")
    if not result.done:
        parts.append(f"<p class=bad>{escape(result.status)}: {escape(result.reason)}</p>")
    stages = [f"{name.replace('_', ' ')}: {_steps(one)}" for name, one in result.stages.items()]
    stages += [text for text in (_kept(folder), f"sampler {result.sampler}" if result.sampler else "") if text]
    if stages:
        parts.append(f"<p class=note>{escape('; '.join(stages))}</p>")
    parts.append(embedded_file(folder / SAMPLES, f"samples of {result.title}"))
    near = embedded_file(folder / NEIGHBOURS, f"samples of {result.title} above the nearest training pictures")
    if near:
        parts.append(f"<p class=note>The samples nearest to a training picture, each above it:</p>{near}")
    sparks = "".join(spark(curve) for curve in result.curves)
    if sparks:
        parts.append(
            f"<details{'' if result.done and not collapsed(result) else ' open'}><summary>training</summary>{sparks}</details>"
        )
    return "".join([*parts, "</article>"])


def _steps(stage: Trained) -> str:
    counted = f", {as_typed(stage.flops, 3)} operations" if stage.flops > 0 else ""
    return f"{stage.steps:,} steps in {stage.seconds:.0f} s{counted}"


def _kept(folder: Path) -> str:
    """That a prior's weights are not its last ones, where it keeps those that did best on held-out pictures."""
    config, numbers = folder / "config.json", folder / "prior" / NUMBERS
    if not (config.is_file() and numbers.is_file()):
        return ""
    keep, found = read_table(config).get("prior", {}).get("train", {}).get("keep"), Found(**read_table(numbers))
    if keep != "best" or found.best_step == found.last_step:
        return ""
    return f"kept are the weights of step {found.best_step:,}, the best on held-out pictures"


def _protocol(results: Sequence[Result], command: str) -> str:
    shares = (
        f"A family with two stages to train spends {FIRST_STAGE_SHARE:.0%} of it on the first, "
        f"{1 - FIRST_STAGE_SHARE:.0%} on the prior."
    )
    kinds = sorted({r.flops > 0 for r in results})
    lines = [f"Equal budget: {OPERATIONS if counted else SECONDS} {shares}" for counted in kinds]
    lines += [
        "Fréchet distance, precision, recall (k = 3), density and coverage (k = 5) compare the samples with as many training "
        "pictures in the features of the embedded MobileNetV2: FD-MobileNetV2, which is no FID and compares with no number of "
        "another page.",
        "Distance to training pictures: the median distance of samples to the nearest of them, divided by that of held-out "
        "pictures; below 1, samples lie nearer than new pictures would. Copies: the share of samples nearer than 95 % of "
        "held-out pictures are; 0.05 where nothing is memorised.",
        "Bits per dimension are of held-out pictures; ≤ marks a bound. Intervals are 95 %, by bootstrap.",
    ]
    batches = sorted({r.batch_size for r in results if r.done})
    if batches:
        lines.append(f"Seconds a sample: at {' or '.join(map(str, batches))} samples at once, after a batch that warms up.")
    commits = sorted({str(r.made_by.get("commit")) for r in results if r.made_by.get("commit")})
    if commits:
        lines.append(
            f"Made by commit {', '.join(commits)}, PyTorch {', '.join(sorted({str(r.made_by['torch']) for r in results}))}."
        )
    told = "".join(f"<li>{escape(line)}</li>" for line in lines)
    shell = f"<pre>{escape(command)}</pre>" if command else ""
    return f"<section><h2>How it was made</h2>{shell}<ul>{told}</ul></section>"
