"""The families of image generators as pairs of a first stage and a prior, and what an equal budget is to each of them.

A budget is of time or of floating-point operations. One stage to train gets all of it. Two share it: 40 % to the first stage,
60 % to the prior, which has the harder task. Data, picture size and the absence of conditions are the same for all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.conditioners.none import NoneConfig
from sfumato.errors import InputError, unknown
from sfumato.first_stages.identity import IdentityConfig
from sfumato.io.storage import Storage
from sfumato.networks.generator import BASE, GeneratorConfig
from sfumato.priors.normal import NormalConfig
from sfumato.recipes import RECIPES
from sfumato.training.config import DataConfig, OptimConfig, RunConfig

FIRST_STAGE_SHARE = 0.4
"""Of the budget of a family with two stages to train."""
ENDLESS = 10**8
"""Steps of a stage that its budget ends."""
LOG_EVERY, HELD_OUT_EVERY = 20, 250
"""Steps between points of a curve of the loss, and of that of held-out pictures, at most."""


@dataclass(frozen=True)
class Family:
    """A family. name: on the command line; recipe: of `sfumato.recipes`; formula: what it is, as its paper writes it.

    latent: it diffuses in a learned latent space, which the paper argues for. likelihood: it is trained to explain the data,
    exactly or by a bound, rather than to please a critic.
    """

    name: str
    title: str
    recipe: str
    formula: str
    source: str
    latent: bool = False
    likelihood: bool = True


FAMILIES = {
    family.name: family
    for family in (
        Family("gan", "GAN", "family-gan", "x = G(z),  z ~ N(0, 1),  D tells x from data", "1406.2661", likelihood=False),
        Family("vae", "VAE", "family-vae", "log p(x) ≥ E log p(x | z) − KL(q(z | x) ‖ N(0, 1))", "1312.6114"),
        Family("vqvae", "VQ-VAE + PixelCNN", "family-vqvae", "x = D(e(c)),  p(c) = ∏ p(c_i | c_<i)", "1711.00937"),
        Family("vqvae2", "VQ-VAE-2", "family-vqvae2", "x = D(e(c_top), e(c_bottom)),  p(c_top) p(c_bottom | c_top)",
               "1906.00446"),
        Family("vqgan", "VQGAN + transformer", "family-vqgan", "x = D(e(c)),  D also against a critic,  p(c) = ∏ p(c_i | c_<i)",
               "2012.09841"),
        Family("autoregressive", "PixelCNN++", "family-autoregressive", "p(x) = ∏ p(x_i | x_<i)", "1701.05517"),
        Family("flow", "flow", "family-flow", "log p(x) = log N(f(x); 0, 1) + log |det ∂f/∂x|", "1807.03039"),
        Family("ddpm", "pixel DDPM", "family-ddpm", "x_t = α_t x + σ_t ε,  ‖ε − ε_θ(x_t, t)‖²", "2006.11239"),
        Family("ldm", "LDM (KL)", "family-ldm", "z = E(x),  ‖ε − ε_θ(z_t, t)‖²,  x = D(z)", "2112.10752", latent=True),
        Family("ldm-vq", "LDM (VQ)", "family-ldm-vq", "z = E(x),  ‖ε − ε_θ(z_t, t)‖²,  x = D(quantize(z))", "2112.10752",
               latent=True),
        Family("dit", "LDM, transformer", "family-dit", "z = E(x),  ‖ε − ε_θ(z_t, t)‖²,  ε_θ a transformer", "2212.09748",
               latent=True),
        Family("rectified", "LDM, rectified flow", "family-rectified", "z_t = (1 − t) z + t ε,  ‖ε − z − v_θ(z_t, t)‖²",
               "2209.03003", latent=True),
    )
}  # fmt: skip
"""By name, in the order of the field's history."""


def choose(names: Sequence[str] | None) -> list[Family]:
    """The families of those names; None: all whose recipes there are. A recipe's own name is a family of its own.

    Raises `InputError` for names that are neither, and for none at all.
    """
    if names is None:
        found = [family for family in FAMILIES.values() if family.recipe in RECIPES]
        if not found:
            raise InputError("families: no family's recipe is in this release; give recipes' names, such as tiny,vq-tiny.")
        return found
    chosen: dict[str, Family] = {}
    for name in names:
        family = FAMILIES.get(name)
        if (family is None and name not in RECIPES) or (family is not None and family.recipe not in RECIPES):
            raise unknown("family", name[:80], [*(n for n, f in FAMILIES.items() if f.recipe in RECIPES), *RECIPES])
        chosen[name] = family or _recipe(name)
    if not chosen:
        raise InputError("families: got none, expected names such as gan,vae,ldm.")
    return list(chosen.values())


def _recipe(name: str) -> Family:
    """A recipe as a family; one of a family, such as its `-tiny`, is of that family's kind."""
    kind = FAMILIES.get(name.removeprefix("family-").removesuffix("-tiny"))
    plain = Family(name, name, name, "", "")
    return plain if kind is None else dataclasses.replace(kind, name=name, title=f"{kind.title} ({name})", recipe=name)


def shares(config: RunConfig) -> tuple[float, float]:
    """What parts of the budget the first stage and the prior get; they sum to 1."""
    if isinstance(config.first_stage.model, IdentityConfig) or config.first_stage.frozen:
        return 0.0, 1.0
    if isinstance(config.prior.model, NormalConfig):  # nothing to learn
        return 1.0, 0.0
    return FIRST_STAGE_SHARE, 1 - FIRST_STAGE_SHARE


def budgeted(family: Family, seconds: float, size: int, seed: int = 0, flops: float = 0.0) -> RunConfig:
    """The family's recipe for pictures of `size` pixels, told nothing, ended by its budget: `seconds`, `flops`, or what of both
    is spent first; 0 is none.

    Weights are kept as they were trained, in fp32, since a flow's inverse is not one of rounded weights.
    """
    config = sized(RECIPES[family.recipe](), size)
    stages = config.first_stage.train, config.prior.train
    first_train, prior_train = (
        _within(train, share * seconds, share * flops) for train, share in zip(stages, shares(config), strict=True)
    )
    return dataclasses.replace(
        config,
        name=family.name,
        data=DataConfig(size=size),
        first_stage=dataclasses.replace(config.first_stage, train=first_train),
        prior=dataclasses.replace(
            config.prior,
            condition="none",
            conditioner=NoneConfig(),
            dropout=0.0,
            train=prior_train,
        ),
        seed=seed,
        storage=Storage.fp32,
    )


def sized(config: RunConfig, size: int) -> RunConfig:
    """The recipe for pictures of `size` pixels: a generator, whose levels are its size, gets or loses some at the fine end.

    A new level is half as wide as the one before it, as is the discriminator's. Sizes that no generator has are left to the
    check of the run.
    """
    first = config.first_stage
    if not isinstance(first.model, GeneratorConfig) or size < BASE:
        return config
    wanted = (size // BASE).bit_length()
    widths = first.model.widths[:wanted]
    while len(widths) < wanted:
        widths = (*widths, max(16, widths[-1] // 2))
    other = first.discriminator.widths[-wanted:]
    while len(other) < wanted:
        other = (max(16, other[0] // 2), *other)
    model = dataclasses.replace(first.model, widths=widths)
    critic = dataclasses.replace(first.discriminator, widths=other)
    return dataclasses.replace(config, first_stage=dataclasses.replace(first, model=model, discriminator=critic))


def _within(train: OptimConfig, seconds: float, flops: float) -> OptimConfig:
    """The stage without an end but its budget, its loss logged often and samples drawn at the end alone.

    One that has no share of the budget is not trained at all.
    """
    if seconds <= 0 and flops <= 0:
        return train
    return dataclasses.replace(
        train,
        steps=ENDLESS,
        seconds=seconds,
        flops=flops,
        log_every=min(train.log_every, LOG_EVERY),
        held_out_every=min(train.held_out_every, HELD_OUT_EVERY),
        sample_every=ENDLESS,
    )
