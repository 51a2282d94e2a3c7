"""What the page says of each family, in the order in which it tells it: sentences, formulas, and where the code is.

A link is (path below src/sfumato, name in that file). Formulas are in the notation of `formula.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

Link = tuple[str, str]


@dataclass(frozen=True)
class Chapter:
    """One family: its name in the study, what it is in a line, the story in
    paragraphs between empty lines, formulas, links."""

    name: str
    title: str
    kind: str
    first_stage: str
    prior: str
    story: str
    formulas: tuple[str, ...]
    links: tuple[Link, ...]

    @property
    def paragraphs(self) -> list[str]:
        """Of the story, each on one line."""
        return [" ".join(text.split()) for text in self.story.strip().split("\n\n")]


CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "autoregressive",
        "Autoregressive",
        "exact",
        "identity, 256 codes a coordinate",
        "transformer over codes",
        """
            One number after the other, each from those before it. Nothing is approximated, so the likelihood is
            exact; the price is paid when sampling, which takes one call of the network a number: two here, 3,072
            for a picture of 32 pixels.

            The plane is cut into cells as 8-bit pixels cut colours, and a point is uniform in its cell; dividing by
            the cell's area makes the probability a density that can be compared with the others.
        """,
        (
            r"\log p(x) = \sum_i \log P(c_i \mid c_1, …, c_{i-1}) - 2 \log w",
            r"c_i = \floor(\frac{x_i \plus e}{w}), \; w = \frac{2e}{256}",
        ),
        (
            ("priors/autoregressive.py", "AutoregressivePrior.log_prob"),
            ("priors/autoregressive.py", "draw"),
            ("networks/gpt.py", "SelfAttention.forward"),
            ("networks/gpt.py", "CachedPredictor"),
            ("studies/mixture/autoregressive.py", "Autoregressive"),
        ),
    ),
    Chapter(
        "flow",
        "Flow",
        "exact",
        "identity",
        "coupling layers of splines",
        """
            A bijection carries the data to standard normal noise, and the change of variables gives the likelihood.
            Everything has to be invertible and as wide as the data, and a continuous map cannot tear one disc of
            noise into eight: what it cannot tear it stretches thin, and the threads between the modes are points
            that the data do not have.

            How thin depends on the coupling. One half of the numbers is kept and says how each of the other half is
            mapped, by a monotonic spline g: fractions of quadratics through knots, 16 bins between −4 and 4, with
            a slope d of its own at each knot. It can be steep inside a mode and flat in the gap beside it, and
            again for the next mode. The affine coupling of earlier flows has one slope for all: in a run of its
            own, with eight layers in place of these four and 2,000 steps of training, affine couplings reached
            0.531 of the points near a mode, and a divergence from the data of 1.0 nats.
        """,
        (
            r"\log p(x) = \log \N(f(x); 0, 1) + \log |\det \frac{\partial f}{\partial x}|",
            r"y_a = x_a, \; y_b = g(x_b; \theta(x_a))",
            r"g(x) = g_k + \frac{(g_{k \plus 1} - g_k) (s_k \xi^2 + d_k \xi (1 - \xi))}"
            r"{s_k + (d_k + d_{k \plus 1} - 2 s_k) \xi (1 - \xi)}",
            r"\xi = \frac{x - x_k}{x_{k \plus 1} - x_k}, \; s_k = \frac{g_{k \plus 1} - g_k}{x_{k \plus 1} - x_k}",
            r"\text{where affine:} \; g(x) = \exp(s) x + t",
        ),
        (
            ("priors/flow.py", "FlowPrior.log_prob"),
            ("networks/coupling.py", "CouplingFlow.forward"),
            ("nn/splines.py", "SplineCoupling"),
            ("nn/splines.py", "inverse_spline"),
            ("nn/invertible.py", "AffineCoupling"),
            ("nn/invertible.py", "Conv1x1"),
            ("studies/mixture/coupling.py", "Flow"),
        ),
    ),
    Chapter(
        "vqvae",
        "VQ-VAE",
        "exact by counting",
        "VQ codes",
        "categorical, learned afterwards",
        """
            An encoder snaps each point to the nearest of 64 codes; the gradient passes as if it had not. In a
            second stage a prior learns how often each code occurs. It is the first of the two-stage models: the
            first stage says what exists, the prior how likely it is.

            With one code a point the sum over all codes can be carried out, and the likelihood is exact. A picture
            has hundreds of codes and far too many sums: there only the encoder's own term is left, which is a
            bound.
        """,
        (
            r"z_q = e_k, \; k = \argmin_j \norm z - e_j \norm, \; \frac{\partial z_q}{\partial z} ≔ 1",
            r"L = -\log p(x \mid z_q) + \beta \norm z - \sg(e_k) \norm^2",
            r"p(x) = \sum_k P(k) \N(x; D(e_k), s^2) \ge P(k(x)) \N(x; D(e_{k(x)}), s^2)",
        ),
        (
            ("nn/quantizers.py", "Codebook.indices"),
            ("nn/quantizers.py", "straight_through"),
            ("nn/quantizers.py", "CodebookAverage.update"),
            ("first_stages/vq.py", "VQCodes"),
            ("studies/mixture/quantized.py", "Quantizing"),
        ),
    ),
    Chapter(
        "vae",
        "VAE",
        "bounded",
        "KL, weight 1",
        "normal",
        """
            A latent z is drawn, a decoder turns it into a point. The likelihood is an integral over z that nobody
            can do in general, so a second network guesses which z a point came from, and the guess gives a bound
            from below. What the bound loses is exactly how wrong the guess is.

            Here z has two numbers and the integral can be done on a grid, so the loss can be measured. The guess is
            a Gaussian with upright axes, the truth is a piece of a cake: eight of them do not tile the normal
            prior, and what is drawn from the seams is decoded to points between the modes.
        """,
        (
            r"\log p(x) = \L(x) + \KL(q(z \mid x) \norm p(z \mid x))",
            r"\L(x) = \E_q \log p(x \mid z) - \KL(q(z \mid x) \norm p(z))",
            r"\L(x) \le \E \log \frac{1}{K} \sum_k \frac{p(x \mid z_k) p(z_k)}{q(z_k \mid x)} \le \log p(x)",
        ),
        (
            ("posterior.py", "DiagonalGaussian.kl"),
            ("losses/likelihood.py", "GaussianLikelihood"),
            ("evaluation/importance.py", "importance_bound"),
            ("priors/normal.py", "NormalPrior.log_prob"),
            ("studies/mixture/variational.py", "Variational.integral"),
        ),
    ),
    Chapter(
        "ddpm",
        "DDPM",
        "bounded",
        "identity",
        "diffusion",
        """
            Noise is added in a thousand small steps, and a network learns to take it away. The latents are as large
            as the data and the encoder has nothing to learn, so this is a VAE whose guess is right by construction;
            only the way back is learned.

            The bound is a sum over the steps, and each can be weighed. Training usually does not weigh them as the
            bound does, but all alike, which sharpens what is seen and spends less on the last, imperceptible
            digits.
        """,
        (
            r"q(x_t \mid x_0) = \N(\alpha_t x_0, \sigma_t^2)",
            r"L_{\text{simple}} = \E \norm \eps - \eps(\alpha_t x_0 + \sigma_t \eps, t) \norm^2",
            r"-\log p(x_0) \le L_T + \sum_{t > 1} L_{t-1} + L_0",
            r"L_{t-1} = \frac{1}{2} (\SNR_{t-1} - \SNR_t) \norm x_0 - \hat{x}_0(x_t) \norm^2",
        ),
        (
            ("diffusion/forward.py", "marginal"),
            ("diffusion/forward.py", "posterior"),
            ("diffusion/bounds.py", "terms"),
            ("diffusion/weighting.py", "weight"),
            ("samplers/ddpm.py", "DDPM"),
            ("priors/diffusion.py", "DiffusionPrior.loss"),
            ("studies/mixture/diffusion.py", "Diffusion"),
        ),
    ),
    Chapter(
        "rectified",
        "Rectified flow",
        "exact by integration",
        "identity",
        "diffusion, straight paths",
        """
            The same denoiser, told to point along the straight line from the data to the noise. Following its
            velocity is an ordinary differential equation, which is a bijection: diffusion becomes a flow without
            coupling layers, and its likelihood is the integral of the divergence.
        """,
        (
            r"x_t = (1 - t) x_0 + t \eps, \; v = \E[\eps - x_0 \mid x_t]",
            r"\log p(x_0) = \log \N(x_1; 0, 1) + \int_0^1 \div v(x_t, t) dt",
        ),
        (
            ("diffusion/schedule.py", "Rectified"),
            ("diffusion/prediction.py", "target"),
            ("samplers/ddim.py", "Euler"),
            ("studies/mixture/diffusion.py", "Rectified.log_prob"),
        ),
    ),
    Chapter(
        "ldm",
        "LDM",
        "bounded",
        "KL, slight weight",
        "diffusion",
        """
            The first stage of the VAE with its KL term turned down, so that it may lay its latents wherever it can
            decode them from; then diffusion learns where that is. On pictures the first stage also makes the
            latents forty-eight times fewer, at f = 8, which is why this is the affordable one. On a plane there is nothing to
            make fewer, and only the other half shows: the prior no longer has to be normal.
        """,
        (
            r"\log p(x) \ge \E_q [\log p(x \mid z) - \log q(z \mid x) + \log p(z)]",
            r"\log p(z) \ge - L_T - \sum_{t > 1} L_{t-1} - L_0",
        ),
        (
            ("first_stages/kl.py", "KLFirstStage.posterior"),
            ("model.py", "LatentModel"),
            ("priors/diffusion.py", "DiffusionPrior"),
            ("studies/mixture/latent.py", "LatentDiffusion"),
        ),
    ),
    Chapter(
        "gan",
        "GAN",
        "implicit",
        "generator, decodes only",
        "normal",
        """
            No likelihood at all: a generator is right when a discriminator cannot tell its points from the data.
            The gradient comes from where the generator already is, so a mode that it never visits is never missed.
            Penalties on the discriminator's slope keep the game from running in circles.
        """,
        (
            r"L_D = \E \softplus(D(\hat{x}) - D(x)) + r (R(x) + R(\hat{x}))",
            r"R(x) = \frac{1}{2} \E \norm \nabla D(x) \norm^2",
            r"L_G = \E \softplus(D(x) - D(\hat{x})), \; \hat{x} = G(z), \; z \sim \N(0, 1)",
        ),
        (
            ("losses/adversarial.py", "Game.d"),
            ("losses/adversarial.py", "gradient_penalty"),
            ("training/tasks/gan.py", "GanTask.loss"),
            ("networks/generator.py", "Generator"),
            ("studies/mixture/adversarial.py", "Adversarial"),
        ),
    ),
)

ATTENTION_LINKS: tuple[Link, ...] = (
    ("nn/attention.py", "Attention.forward"),
    ("nn/attention.py", "TransformerBlock"),
    ("studies/taxonomy/attention.py", "worked"),
)

MIXTURE_LINKS: tuple[Link, ...] = (
    ("studies/mixture/density.py", "Mixture.log_prob"),
    ("studies/mixture/modes.py", "judge"),
    ("studies/mixture/run.py", "FAMILIES"),
)


def links() -> list[Link]:
    """All of the page."""
    return [*MIXTURE_LINKS, *(link for chapter in CHAPTERS for link in chapter.links), *ATTENTION_LINKS]
