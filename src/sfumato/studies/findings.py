"""What the numbers say, in sentences: who won, whether latents win, what a GAN leaves out, who remembers.

Nothing is said that the intervals do not carry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sfumato.studies.results import Result, Score

RIVALS = ("ddpm", "vae", "flow", "autoregressive")
"""The families that the paper's argument is about, beside GANs."""
MEMORISED, COPIED, COLLAPSED = 0.9, 0.1, 0.01


def findings(results: Sequence[Result]) -> list[str]:
    """Sentences, the most important first; warnings about unequal conditions last."""
    done = [result for result in results if result.done]
    said = [
        *_winner(done),
        *_latents(done),
        *_modes(done),
        *_likelihood(done),
        *_memory(done),
        *_collapses(done),
        *_failures(results),
    ]
    return said + warnings(results)


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def millions(count: int) -> str:
    """Parameters: of small networks all digits, so that none has 0.0 million."""
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"


def span(score: Score) -> str:
    """A value with its interval."""
    if score.low is None or score.high is None:
        return number(score.value)
    return f"{number(score.value)} ({number(score.low)} to {number(score.high)})"


def names(items: Sequence[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def ranked(results: Sequence[Result], score: str = "fd") -> list[Result]:
    """Those that have the score, smallest first."""
    return sorted((r for r in results if score in r.scores), key=lambda r: r.scores[score].value)


def _winner(done: Sequence[Result]) -> list[str]:
    order = ranked(done)
    if not order:
        return ["No family has a Fréchet distance yet."]
    if all(collapsed(r) for r in order):
        return ["No family has been trained enough to be compared: none covers the real pictures."]
    best = order[0].scores["fd"]
    text = f"{order[0].title} has the lowest Fréchet distance, {span(best)}"
    if best.real is not None:
        text += f", where other real pictures have {number(best.real)}"
    level = [r.title for r in order[1:] if not best.below(r.scores["fd"])]
    if level:
        text += f". By the intervals {names(level)} cannot be told from it"
    elif len(order) > 1:
        text += f"; the next, {order[1].title}, has {span(order[1].scores['fd'])}"
    fresh = [r for r in order if not _remembers(r)]
    if fresh and fresh[0] is not order[0]:
        text += f". But {order[0].title} draws nearer to its training pictures than new ones lie; the best that does not is"
        text += f" {fresh[0].title} with {span(fresh[0].scores['fd'])}"
    return [f"{text}."]


def _latents(done: Sequence[Result]) -> list[str]:
    """Whether the best latent diffusion model beats the families it is argued against."""
    latents, rivals = ranked([r for r in done if r.latent]), [r for r in ranked(done) if r.family in RIVALS]
    if not latents or not rivals:
        return []
    best = latents[0]
    own = best.scores["fd"]
    won = [r for r in rivals if own.below(r.scores["fd"])]
    lost = [r for r in rivals if r.scores["fd"].below(own)]
    open_ = [r for r in rivals if r not in won and r not in lost]

    def listed(some: Sequence[Result]) -> str:
        return names([f"{r.title} ({span(r.scores['fd'])})" for r in some])

    parts = []
    if won:
        parts.append(f"is better than {listed(won)}")
    if lost:
        parts.append(f"is worse than {listed(lost)}")
    if open_:
        parts.append(f"cannot be told from {listed(open_)}")
    verdict = _equal([best, *rivals]) + (" the latent model wins" if not lost and not open_ else "")
    return [f"{verdict}: {best.title}, {span(own)}, {'; it '.join(parts)}."]


def _equal(results: Sequence[Result]) -> str:
    """What these had alike, at the beginning of a sentence."""
    kinds = {"operations" if result.flops > 0 else "time" for result in results}
    return f"At equal training {kinds.pop()}" if len(kinds) == 1 else "Within their budgets"


def _modes(done: Sequence[Result]) -> list[str]:
    """A GAN's recall against that of the models that are trained to explain all data."""
    gans = [r for r in done if not r.likelihood and "recall" in r.scores]
    others = sorted((r for r in done if r.likelihood and "recall" in r.scores), key=lambda r: -r.scores["recall"].value)
    said = []
    for gan in gans:
        if not others:
            continue
        own = gan.scores["recall"]
        above = [r for r in others if own.below(r.scores["recall"])]
        listed = ", ".join(f"{r.title} {number(r.scores['recall'].value)}" for r in others)
        count = "none" if not above else "all" if len(above) == len(others) else f"{len(above)} of {len(others)}"
        precise = f", at a precision of {number(gan.scores['precision'].value)}" if "precision" in gan.scores else ""
        said.append(
            f"Mode coverage: the recall of {gan.title} is {span(own)}{precise}; {count} of the models trained by likelihood or "
            f"a bound cover more of the real pictures ({listed})."
        )
    return said


def _likelihood(done: Sequence[Result]) -> list[str]:
    """Whether the family that explains held-out pictures best draws best too, of those that have bits."""
    order = [r for r in ranked(done, "bits") if "fd" in r.scores]
    if len(order) < 2:
        return []
    best = order[0]
    own = best.scores["bits"]
    better = [r for r in ranked(order[1:]) if own.below(r.scores["bits"]) and r.scores["fd"].below(best.scores["fd"])]
    if not better:
        return []
    shown = "" if best.bits_kind == "exact" and all(r.bits_kind == "exact" for r in better) else " that can be shown"
    listed = names([f"{r.title} ({number(r.scores['bits'].value)})" for r in better])
    return [
        f"Likelihood is not quality: {best.title} has the fewest bits per dimension{shown}, {span(own)}, and a Fréchet "
        f"distance of {span(best.scores['fd'])}; lower distances with more bits: {listed}."
    ]


def _memory(done: Sequence[Result]) -> list[str]:
    said = []
    for result in filter(_remembers, done):
        ratio, copies = result.scores["memorised"], result.scores["copies"]
        said.append(
            f"{result.title} draws nearer to its training pictures than held-out pictures lie: {number(ratio.value)} times "
            f"their distance; {100 * copies.value:.2g} % of its samples are nearer than the nearest 5 % of them."
        )
    if not said and any("memorised" in r.scores for r in done):
        said.append("No family draws clearly nearer to its training pictures than held-out pictures lie.")
    return said


def _remembers(result: Result) -> bool:
    """Whether its samples lie clearly nearer to training pictures than other real pictures do."""
    ratio, copies = result.scores.get("memorised"), result.scores.get("copies")
    if ratio is None or copies is None:
        return False
    near = ratio.high is not None and ratio.high < MEMORISED
    return near or (copies.low is not None and copies.low > COPIED)


def collapsed(result: Result) -> bool:
    """Whether its samples cover next to none of the real pictures, as those of a GAN that has collapsed do."""
    recall = result.scores.get("recall")
    return result.done and recall is not None and recall.high is not None and recall.high < COLLAPSED


def _collapses(done: Sequence[Result]) -> list[str]:
    found = [r for r in done if collapsed(r)]
    if not found:
        return []
    many = len(found) > 1
    recalls = names([number(r.scores["recall"].value) for r in found])
    curves = f"; the curves stand with the samples of {'each' if many else 'it'}" if all(r.curves for r in found) else ""
    return [
        f"{names([r.title for r in found])} {'have' if many else 'has'} collapsed, or {'have' if many else 'has'} hardly been "
        f"trained: recall {recalls}. That says something of this training and nothing of the family{curves}."
    ]


def _failures(results: Sequence[Result]) -> list[str]:
    return [f"{r.title} {'diverged' if r.status == 'diverged' else 'failed'}: {r.reason}" for r in results if not r.done]


def warnings(results: Sequence[Result]) -> list[str]:
    """What was not equal between the families."""
    said = []
    devices = _groups(results, lambda r: r.device)
    if len(devices) > 1:
        listed = "; ".join(f"{names(titles)} on {device}" for device, titles in devices.items())
        said.append(f"Not all families ran on the same device, so that times are not comparable: {listed}.")
    for what, groups in (
        ("budgets", _groups(results, lambda r: r.budget)),
        ("data", _groups(results, lambda r: f"{r.data.get('fingerprint', '?')} at {r.data.get('size', '?')} px")),
    ):
        if len(groups) > 1:
            said.append(f"The {what} differ: {'; '.join(f'{names(titles)}: {value}' for value, titles in groups.items())}.")
    counts = [r for r in results if r.done]
    most = max((r.num_samples for r in counts), default=0)
    for r in counts:
        if r.num_samples < most:
            said.append(
                f"{r.title} made {r.num_samples:,} samples in its time, others {most:,}: its distance is one of fewer "
                "pictures, which is larger for the same quality."
            )
    return said


def _groups(results: Sequence[Result], of: Callable[[Result], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for result in results:
        found.setdefault(of(result), []).append(result.title)
    return found
