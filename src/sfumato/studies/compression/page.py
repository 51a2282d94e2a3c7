"""The study as one HTML page that needs nothing but itself, and its two figures as SVG files."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from sfumato.io.files import write_bytes
from sfumato.recipes.compression import FACTORS
from sfumato.studies.compression.chart import Axis, Dot, Line, chart
from sfumato.studies.compression.results import LEAST_STEPS, Distance, Result, Settings, load_all, recommend
from sfumato.studies.embed import embedded_file

QUALITY = "FD-MobileNetV2, lower is better"
NOTHING = f"Nothing to recommend: no factor is finished with a prior of {LEAST_STEPS} steps or more."
STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-size:14px}td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right}"
    "img{max-width:100%;image-rendering:auto}svg{width:100%;height:auto}code{background:#f4f4f4;padding:.1rem .3rem}"
    ".box{border-left:4px solid #2f8f5b;padding:.3rem 1rem;background:#f4faf6}"
)


def write_page(out: Path) -> Path:
    """OUT/index.html, time.svg and speed.svg of all results in OUT; returns the page. Raises `InputError` for none."""
    results = load_all(out)
    over_time, over_speed = time_figure(results), speed_figure(results)
    write_bytes(out / "time.svg", over_time.encode())
    write_bytes(out / "speed.svg", over_speed.encode())
    page = out / "index.html"
    write_bytes(page, _page(out, results, over_time, over_speed).encode())
    return page


def time_figure(results: Sequence[Result]) -> str:
    """The paper's Figure 6: quality against minutes of prior training, a line a factor."""
    lines = [
        Line(f"f = {one.factor}", tuple(_dot(moment.seconds / 60, moment.distance) for moment in one.curve)) for one in results
    ]
    title = f"Quality against training time ({results[0].settings.curve_steps} steps of DDIM)"
    return chart(title, lines, Axis("minutes of prior training"), Axis(QUALITY, log=True), _floor(results))


def speed_figure(results: Sequence[Result]) -> str:
    """The paper's Figure 7: quality against pictures a second, a dot for each number of steps."""
    lines = [
        Line(
            f"f = {one.factor}",
            tuple(_dot(speed.pictures_per_second, speed.distance, str(speed.num_steps)) for speed in one.speeds[::-1]),
        )
        for one in results
    ]
    across = Axis("pictures a second; the numbers are steps of DDIM", log=True)
    return chart("Quality against sampling speed", lines, across, Axis(QUALITY, log=True), _floor(results))


def _dot(x: float, distance: Distance, label: str = "") -> Dot:
    return Dot(x, distance.value, distance.low, distance.high, label)


def _floor(results: Sequence[Result]) -> tuple[str, float] | None:
    found = next((one.floor for one in results if one.floor is not None), None)
    return None if found is None else ("real pictures", found)


def table(results: Sequence[Result]) -> list[list[str]]:
    """A row a factor, the head first, as texts."""
    head = ["f", "latent", "first stage: PSNR, dB", "FD of its reconstructions", "prior: parameters", "steps", "FD", "95 %"]
    rows = [head]
    for one in results:
        last = one.curve[-1] if one.curve else None
        first = one.first_stage
        rows.append([
            str(one.factor),
            " x ".join(map(str, one.latent)),
            "" if first is None else f"{first.psnr:.2f}",
            "" if first is None or first.distance is None else f"{first.distance.value:.3g}",
            f"{one.prior_parameters / 1e6:.1f} M" if one.prior_parameters else "",
            "" if last is None else str(last.steps),
            "" if last is None else f"{last.distance.value:.3g}",
            "" if last is None else f"{last.distance.low:.3g} to {last.distance.high:.3g}",
        ])  # fmt: skip
    return rows


def speeds(results: Sequence[Result]) -> list[list[str]]:
    """Pictures a second and distance by number of steps, a row a factor, the head first, as texts."""
    steps = sorted({speed.num_steps for one in results for speed in one.speeds})
    rows = [["f", *(f"{n} steps: pictures/s, FD" for n in steps)]]
    for one in results:
        found = {speed.num_steps: f"{_rate(speed.pictures_per_second)}, {speed.distance.value:.3g}" for speed in one.speeds}
        rows.append([str(one.factor), *(found.get(n, "") for n in steps)])
    return rows


def _rate(pictures_per_second: float) -> str:
    return f"{pictures_per_second:,.0f}" if pictures_per_second >= 100 else f"{pictures_per_second:.3g}"


def _made_by(results: Sequence[Result]) -> list[str]:
    """Which factors were made by what, a line for each machine and version."""
    found: dict[str, list[str]] = {}
    for one in results:
        if one.device:
            found.setdefault(f"{one.device}; {one.made_by}", []).append(str(one.factor))
    return [f"f = {', '.join(factors)}: {words}" for words, factors in found.items()]


def _page(out: Path, results: Sequence[Result], over_time: str, over_speed: str) -> str:
    settings, chosen = results[0].settings, recommend(results)
    words = NOTHING if chosen is None else f"For this data: {chosen.words}"
    notes = [f"f = {one.factor} has no more: {one.failed}" for one in results if one.failed]
    missing = [str(f) for f in FACTORS if f not in {one.factor for one in results}]
    notes += [f"Not in this study: f = {', '.join(missing)}."] if missing else []
    notes += _made_by(results)
    parts = [
        "<h1>How much should the first stage compress?</h1>",
        f'<p class="box">{escape(words)}</p>',
        f"<p>{escape(_about(settings, max(one.num_pictures for one in results)))}</p>",
        over_time,
        over_speed,
        _html_table(table(results)),
        "<p></p>",
        _html_table(speeds(results)),
        *(f"<p>{escape(note)}</p>" for note in notes),
        *_samples(out, results),
        f"<p>Made by <code>{escape(command(settings))}</code>; this page again by "
        "<code>sfumato study compression --out OUT --page-only</code>.</p>",
    ]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Compression study</title><style>{STYLE}</style>'
    return "\n".join([head, *parts, "</html>", ""])


def command(settings: Settings) -> str:
    """What makes these results, but for the data and the factors."""
    return (
        f"sfumato study compression --data DIR --out OUT --minutes-per-stage {settings.minutes:g} --size {settings.size} "
        f"--samples {settings.samples} --steps {','.join(map(str, settings.num_steps))}"
    )


def _about(settings: Settings, num_pictures: int) -> str:
    counted = f"{num_pictures:,} pictures" if num_pictures else "Pictures"
    return (
        f"Every first stage and every prior was trained for {settings.minutes:g} minutes of steps; compilation, checkpoints "
        f"and measurements do not count. f = 1 has no first stage, and its prior got both times. {counted} of {settings.size} "
        f"px without prompts; {settings.samples} samples a distance, from averaged weights; bars are 95 % intervals. "
        f"The distance is between features of MobileNetV2 and is no FID. The dashed line is that of held-out real pictures."
    )


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(rows[0], "th") + "".join(line(row, "td") for row in rows[1:]) + "</table>"


def _samples(out: Path, results: Sequence[Result]) -> list[str]:
    parts = []
    for one in results:
        path = out / f"f{one.factor}" / "samples.png"
        if path.is_file():
            parts.append(f"<h2>f = {one.factor}</h2>{embedded_file(path, 'samples')}")
    return parts
