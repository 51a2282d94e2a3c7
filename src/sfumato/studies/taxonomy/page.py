"""The taxonomy page: one HTML file that needs nothing else, built from a study of the mixture.

Links into the code are relative to docs/, where the page lives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from sfumato.studies.mixture.modes import FAIR, NEAR_OF_DATA, REACH
from sfumato.studies.mixture.outcome import Outcome, Score, Study
from sfumato.studies.mixture.scatter import scatter
from sfumato.studies.results import Result
from sfumato.studies.taxonomy import chapters
from sfumato.studies.taxonomy.attention import TOKENS, W_K, W_Q, W_V, WORDS, Worked, worked
from sfumato.studies.taxonomy.figures import tree
from sfumato.studies.taxonomy.formula import mathml
from sfumato.studies.taxonomy.pictures import COLUMNS as PICTURE_COLUMNS
from sfumato.studies.taxonomy.pictures import Pictures, on_pictures, table_rows, the_rest
from sfumato.studies.taxonomy.pictures import told as told_of_pictures
from sfumato.studies.taxonomy.story import ATTENTION_LINKS, CHAPTERS, MIXTURE_LINKS, Chapter, Link
from sfumato.studies.taxonomy.style import STYLE

SOURCE = "../src/sfumato"
DENSITY = mathml(r"p(x) = \frac{1}{8} \sum_{k = 1}^8 \N(x; m_k, \sigma^2), \; H(p) = \log 8 + 1 + \log(2 \pi \sigma^2)")
QUERIES = mathml(r"q = W_q h, \; k_i = W_k e_i, \; v_i = W_v e_i")
ANSWERS = mathml(r"a = \softmax(\frac{q \cdot k_i}{\sqrt{d}}), \; \text{out} = \sum_i a_i v_i")


def page(study: Study, pictures: Pictures | None = None) -> str:
    """The whole file; `pictures`: what the families made of pictures, shown beside."""
    told = [(chapter, study.outcome(chapter.name)) for chapter in CHAPTERS]
    body = [
        opening(study, told),
        overview(study, told),
        the_tree(told),
        *(section(chapter, outcome, study, pictures) for chapter, outcome in told if outcome is not None),
        *(
            []
            if pictures is None
            else [the_rest(pictures, [c.name for c, one in told if one is not None]), the_pictures(pictures, told)]
        ),
        the_attention(worked()),
        ending(study, pictures),
    ]
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{title(told)}</title>\n<style>{STYLE}</style>\n</head>\n"
    )
    return head + "<body>\n<main>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"


Told = Sequence[tuple[Chapter, Outcome | None]]
NUMBERS = ("no way", "one way", "two ways", "three ways", "four ways", "five ways", "six ways", "seven ways", "eight ways")


def title(told: Told) -> str:
    """Counts the families that are told."""
    return f"One density, {NUMBERS[sum(one is not None for _, one in told)]} to learn it"


def opening(study: Study, told: Told) -> str:
    """What the data are, and the pictures of all."""
    mixture = study.mixture
    tour = "".join(
        f'<a href="#{chapter.name}">{scatter(one.points, mixture, chapter.title)}{chapter.title}</a>'
        for chapter, one in told
        if one is not None and one.points
    )
    return f"""<header><h1>{title(told)}</h1>
<p>A generative model learns a distribution from examples of it. Families differ in what they are able to say about it: some
give the probability of every point, some a bound on it, one only draws. To see what that means, here is a distribution so
small that everything about it is known: {mixture.num_modes} Gaussians in a circle, which each family has learned in
seconds on one core of a processor.</p></header>
<div class="tour">{tour}</div>
<div class="formula">{DENSITY}</div>
<p>The circle has radius {mixture.radius:g}, σ is {mixture.sigma:g}, and so the entropy is {mixture.entropy:.4f} nats:
on average no model can give the data a log-likelihood above {_n(-mixture.entropy, 4)}. What a model lacks from there is its
divergence from the data.</p>
{_code(MIXTURE_LINKS)}"""


def overview(study: Study, told: Told) -> str:
    """The table, and the rules of counting."""
    rows = [_row(chapter, one) for chapter, one in told if one is not None]
    data = [
        "the data",
        "known",
        str(study.mixture.num_modes),
        f"{NEAR_OF_DATA:.3f}",
        _n(-study.mixture.entropy),
        "0",
        "",
        "",
        "",
    ]
    return f"""<h2 id="numbers">In numbers</h2>
{_table(COLUMNS, [*rows, _cells(data, words=2)], words=2)}
<p class="note">A point is near a mode within {REACH:g} σ of its centre. A mode is found when it has at least {FAIR:g} of
its fair share of {study.judged:,} samples near it. Log-likelihood and divergence are means over {study.held_out:,} held-out
points, the same for all, with the standard error of the mean; ≥ and ≤ mark a bound. Seconds are of processor time in one
thread: read them against one another, since they depend on the machine and on what else it does. Every family saw fresh points
at each step.</p>"""


def the_tree(told: Told) -> str:
    """The taxonomy itself."""
    rows = [_cells([_anchor(c), c.first_stage, c.prior], words=3) for c, one in told if one is not None]
    titles = {chapter.name: chapter.title for chapter, one in told if one is not None}
    return f"""<h2 id="tree">Explicit and implicit</h2>
<p>The first question to a model is whether it knows p(x) or only draws from it; the second, to those that know, whether
exactly. The rest of this page walks the tree from left to right; rectified flow waits for DDPM, which it is made of.</p>
<div class="wide">{tree(titles)}</div>
<p>In the code the same models are pairs: a <em>first stage</em>, which says what a latent is and how it becomes data, and a
<em>prior</em>, which says how likely a latent is.</p>
{_table(["family", "first stage", "prior"], rows, words=3)}"""


def section(chapter: Chapter, one: Outcome, study: Study, pictures: Pictures | None = None) -> str:
    """One family: story, formulas, picture, numbers, what only it has to show, what it makes of pictures, code."""
    beside = "" if pictures is None else on_pictures(pictures, chapter.name)
    story = "".join(f"<p>{escape(text)}</p>" for text in chapter.paragraphs)
    formulas = "".join(mathml(text) for text in chapter.formulas)
    head = (
        f'<h2 id="{chapter.name}">{chapter.title}</h2>\n<p class="kind">{chapter.kind} · first stage: {chapter.first_stage} · '
        f'prior: {chapter.prior}</p>\n{story}\n<div class="formula">{formulas}</div>'
    )
    if one.modes is None:
        return f"{head}\n<p>This training broke down: {escape(one.failed or '')}.</p>\n{beside}\n{_code(chapter.links)}"
    picture = scatter(one.points, study.mixture, f"{len(one.points)} samples of the {chapter.title}")
    facts = [("modes found", f"{one.modes.found} of {study.mixture.num_modes}"), ("near a mode", f"{one.modes.near:.3f}")]
    if one.score is not None:
        facts += [("log p(x)", f"{_score(one)} nats"), ("KL(data ‖ model)", f"{_excess(one)} nats")]
    facts += [("parameters", f"{one.num_parameters:,}"), ("training", f"{one.steps:,} steps, {one.train_seconds:.1f} s")]
    facts += chapters.facts(one)
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    figure = f"<figure>{picture}<figcaption>{len(one.points):,} samples</figcaption></figure>"
    pair = f'<div class="pair">{figure}<dl>{listed}</dl></div>'
    return f"{head}\n{pair}\n{chapters.more(one, study)}\n{beside}\n{_code(chapter.links)}"


def the_pictures(pictures: Pictures, told: Told) -> str:
    """All families on pictures, in one table and in sentences."""
    rows = [_cells(cells) for cells in table_rows(pictures, [chapter.name for chapter, one in told if one is not None])]
    first, *rest = told_of_pictures(pictures)
    said = "".join(f"<li>{escape(text)}</li>" for text in rest)
    return f"""<h2 id="pictures">The same families on pictures</h2>
<p>{escape(first)} Fréchet distances are between features of a small network, and no FID.</p>
{_table(PICTURE_COLUMNS, rows)}
<ul>{said}</ul>"""


def the_attention(example: Worked) -> str:
    """Queries, keys and values by hand."""
    words = [
        _cells([word, _vector(token), _vector(key), _vector(value)])
        for word, token, key, value in zip(WORDS, TOKENS, example.keys, example.values, strict=True)
    ]
    places = []
    for place in example.places:
        shares = [f"{_n(s, 2)} → {w:.2f}" for s, w in zip(place.scores, place.weights, strict=True)]
        places.append(_cells([place.name, _vector(place.query), *shares, _vector(place.out)]))
    first = example.places[0]
    sums = " + ".join(f"{_n(q * k, 2)}" for q, k in zip(first.query, example.keys[1], strict=True))
    return f"""<h2 id="attention">How a caption gets in: queries, keys, values</h2>
<p>None of the models above was told anything. On pictures a prior is told a caption, and the place where the words come in is
cross-attention: each place of the picture asks with a query, each word answers to a key and hands over a value.</p>
<div class="formula">{QUERIES}{ANSWERS}</div>
<p>Take the caption “{" ".join(WORDS)}” and vectors of two numbers, the first for how much of a colour, the second for how
much of a thing. The weights are W<sub>q</sub> = {_matrix(W_Q)}, W<sub>k</sub> = {_matrix(W_K)} and
W<sub>v</sub> = {_matrix(W_V)}.</p>
{_table(["word", "e", "key k", "value v"], words)}
<p>Now two places of the picture ask. For each word: q · k / √2, and what the softmax over the three words makes of it.</p>
{_table(["place", "query q", *WORDS, "out"], places)}
<p>By hand, for the first place and “{WORDS[1]}”: ({sums}) / √2 = {_n(first.scores[1], 2)}. The fur asks for a colour and is
told mostly “{WORDS[1]}”; the outline asks for a thing and is told mostly “{WORDS[2]}”. Nobody wrote that rule down: the
three matrices are trained, by the same loss as the rest.</p>
{_code(ATTENTION_LINKS)}"""


def ending(study: Study, pictures: Pictures | None) -> str:
    """How to make it again."""
    budget = "" if study.seconds is None else f" --seconds {study.seconds:g}"
    command, compared, runs = f"sfumato study mixture --out mixture --seed {study.seed}{budget}", "", "one run"
    if pictures is not None:
        results = [r for r in pictures.results.values() if r.done]
        compared, command, runs = f"{_compare(results)}\n", f"{command} --compare compare", "two runs"
    return f"""<footer><p>Made by sfumato {escape(study.version)}. All numbers and pictures on this page are of {runs}:</p>
<pre>{escape(compared)}{command} --page docs/taxonomy.html</pre>
<p>Two rows of the family tree are not on the plane. VQ-VAE-2 is a VQ-VAE of two grids, coarse and fine, and a point of the
plane has only one place. VQGAN adds a perceptual and an adversarial loss to the VQ-VAE's first stage, which are about
textures; its transformer is the one under <a href="#autoregressive">Autoregressive</a>.</p></footer>"""


COLUMNS = (
    "family", "density", "modes found", "near a mode", "log p(x), nats", "KL(data ‖ model)", "parameters", "training, s",
    "1,000 points, s",
)  # fmt: skip


def _compare(results: Sequence[Result]) -> str:
    """The command of a comparison."""
    first = results[0]
    budget = f"--budget-flops {first.flops:g}" if first.flops > 0 else f"--budget {first.minutes:g}"
    most = max(result.num_samples for result in results)
    return (
        f"sfumato compare --data {first.data.get('folder', 'DIR')} {budget} --samples {most} --batch-size {first.batch_size} "
        "--out compare"
    )


def _row(chapter: Chapter, one: Outcome) -> str:
    if one.modes is None:
        return _cells([_anchor(chapter), f"broke down: {escape(one.failed or '')}", *[""] * 7], words=2)
    counted = [str(one.modes.found), f"{one.modes.near:.3f}", _score(one), _excess(one), f"{one.num_parameters:,}"]
    return _cells(
        [_anchor(chapter), escape(chapter.kind), *counted, f"{one.train_seconds:.1f}", f"{one.sample_seconds:.3f}"], words=2
    )


def _anchor(chapter: Chapter) -> str:
    return f'<a href="#{chapter.name}">{chapter.title}</a>'


def _cells(values: Sequence[str], tag: str = "td", words: int = 1) -> str:
    """A row; the first `words` of its cells are text, the others numbers."""
    cells = (f"<{tag}{' class=words' if i < words else ''}>{value}</{tag}>" for i, value in enumerate(values))
    return f"<tr>{''.join(cells)}</tr>"


def _table(columns: Sequence[str], rows: Sequence[str], words: int = 1) -> str:
    head = f"<thead>{_cells(columns, 'th', words)}</thead>"
    return f'<div class="wide"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _score(one: Outcome) -> str:
    return _signed(one, lambda score: (score.log_prob, score.log_prob_error), "≥ ")


def _excess(one: Outcome) -> str:
    return _signed(one, lambda score: (score.excess, score.excess_error), "≤ ")


def _signed(one: Outcome, take: Callable[[Score], tuple[float, float]], sign: str) -> str:
    if one.score is None:
        return "—"
    value, error = take(one.score)
    return f"{sign if one.evidence == 'bound' else ''}{_n(value)} ± {error:.3f}"


def _n(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _vector(values: Sequence[float]) -> str:
    return "(" + ", ".join(_n(v, 2) for v in values) + ")"


def _matrix(rows: Sequence[Sequence[float]]) -> str:
    inside = "; ".join(" ".join(f"{v:g}".replace("-", "−") for v in row) for row in rows)
    return f'<span class="whole">[{inside}]</span>'


def _code(links: Sequence[Link]) -> str:
    items = "".join(f'<li><a href="{SOURCE}/{path}"><code>{path}</code></a> <code>{name}</code></li>' for path, name in links)
    return f'<ul class="code" aria-label="where it is in the code">{items}</ul>'
