"""What only one family has to show: the VAE's gap, the terms of the diffusion bound, the GAN's film."""

from __future__ import annotations

from sfumato.studies.mixture.outcome import Outcome, Study
from sfumato.studies.mixture.scatter import scatter
from sfumato.studies.taxonomy.figures import bars


def facts(one: Outcome) -> list[tuple[str, str]]:
    """Rows of the family's list of numbers, beyond those that all have."""
    d = one.details
    match one.name:
        case "autoregressive":
            return [("side of a cell", f"{d['cell']:.4f}")]
        case "vqvae":
            return [
                ("codes in use", f"{d['used'] * d['num_codes']:.0f} of {d['num_codes']}, perplexity {d['perplexity']:.1f}"),
                ("a code costs", f"{d['bits']:.2f} bits, and leaves an RMSE of {d['rmse']:.3f}"),
            ]
        case "ddpm" | "rectified":
            return [("calls of the network", f"{d['calls']} a sample")]
        case _:
            return []


def more(one: Outcome, study: Study) -> str:
    """The family's own figure and what it says, as HTML; empty where it has none."""
    match one.name:
        case "vae":
            return _gap(one, study)
        case "vqvae":
            return _counting(one)
        case "ddpm":
            return _terms(one)
        case "ldm":
            return _normal(one, study)
        case "gan":
            return _film(one, study)
        case _:
            return ""


def _gap(one: Outcome, study: Study) -> str:
    d = one.details
    rows = [
        ("entropy, negative", -study.mixture.entropy),
        ("log p(x)", d["integral"]),
        (f"bound, {d['num_samples']} draws", d["bound"]),
        ("ELBO", d["elbo"]),
    ]
    drawn = bars(rows, "Nats: the data's negative entropy, the model's log-likelihood, two bounds on it", ("ELBO",))
    return f"""<h3>The gap, measured</h3>
<figure>{drawn}<figcaption>Nats a point, means over {d["points"]} held-out points.</figcaption></figure>
<p>log p(x) by the integral over the plane of z is {_n(d["integral"])}, the evidence lower bound {_n(d["elbo"])}. Their
difference, {d["gap"]:.3f} ± {d["gap_error"]:.3f} nats, is KL(q(z|x) ‖ p(z|x)). With {d["num_samples"]} weighted draws the
bound is {_n(d["bound"])}, within {abs(d["integral"] - d["bound"]):.3f} of the truth. What then still lies between log p(x) and
the entropy is the model's fault and not the bound's.</p>"""


def _counting(one: Outcome) -> str:
    d = one.details
    assert one.score is not None
    return (
        f"<p>The sum over all codes gives {_n(one.score.log_prob)} nats, the encoder's own code alone {_n(d['bound'])}: "
        f"the bound of larger models would lose {one.score.log_prob - d['bound']:.3f} here.</p>"
    )


def _terms(one: Outcome) -> str:
    d = one.details
    count = len(d["steps"])
    names = [f"t from {1 - i / count:.1f} to {1 - (i + 1) / count:.1f}" for i in range(count)]
    drawn = bars([("prior, L_T", d["L_T"]), *zip(names, d["steps"], strict=True), ("decoder, L_0", d["L_0"])],
                 "Nats of each part of the bound", ("decoder, L_0",))  # fmt: skip
    return f"""<h3>The bound, term by term</h3>
<figure>{drawn}<figcaption>Nats a point, by tenths of the way from noise to data. L_0 is a log-density at the smallest noise,
and so it is negative; for 8-bit data it would be a probability.</figcaption></figure>
<p>The best denoiser that there is for these data, known on paper, would still be {d["best_excess"]:.3f} nats above the entropy
over these steps: that much is the price of a chain of finite length, and only the rest of the divergence is the network's.</p>
<p>Which mode a point belongs to is worth log 8 = 2.08 nats, and is settled between t = 0.7 and 0.1. Most of the bound is paid
at the end, for digits that nobody would see in a picture: this is what a latent space leaves to its first stage.</p>"""


def _normal(one: Outcome, study: Study) -> str:
    d = one.details
    assert one.modes is not None
    return (
        f"<p>Taken for normal, the latents of this first stage draw points of which {d['normal_near']:.3f} are near a mode, "
        f"with {d['normal_found']} of {study.mixture.num_modes} modes found; with the diffusion prior {one.modes.near:.3f} and "
        f"{one.modes.found}. The weight of its KL term is {d['kl_weight']:g}, and so q(z|x) is only "
        f"{d['posterior_sigma']:.3f} wide where the latents have width 1. The bound has to pay for z to that precision, over "
        "the steps of a chain that are coarse there: it is loose, and says less of this model than its points do.</p>"
    )


def _film(one: Outcome, study: Study) -> str:
    shots = ""
    for shot in one.details["film"]:
        picture = scatter(shot["points"], study.mixture, f"samples at step {shot['step']}")
        said = f"step {shot['step']:,}: {shot['found']} modes, {shot['near']:.2f} near"
        shots += f"<figure>{picture}<figcaption>{said}</figcaption></figure>"
    worst = min(shot["found"] for shot in one.details["film"][1:])
    return f"""<h3>The GAN over time</h3>
<div class="film">{shots}</div>
<p>The curve of its loss says little about any of this; the pictures do. After the first shot it had between {worst} and
{max(shot["found"] for shot in one.details["film"])} modes at the moments shown. Its settings are the best of
ten that were tried; the table stands at the head of its module.</p>"""


def _n(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")
