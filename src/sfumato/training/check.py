"""What can be known to fail before anything is trained: sizes that do not divide, unknown samplers, missing weights."""

from __future__ import annotations

import math
from pathlib import Path

from sfumato.diffusion.grids import times
from sfumato.diffusion.schedule import make_schedule
from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.first_stages.vq2 import VQ2Config
from sfumato.generation.settings import settings_of
from sfumato.io.pretrained import find_model
from sfumato.networks.generator import GeneratorConfig
from sfumato.networks.patchgan import PatchGANConfig
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.training.config import FirstStageLossConfig, RunConfig
from sfumato.training.fit import latent_factor
from sfumato.training.fit_prior import network_factor


def check(config: RunConfig) -> None:
    """Raises `InputError` for the first part of a resolved config that does not go with another."""
    size, first, prior = config.data.size, config.first_stage, config.prior.model
    factor, own = latent_factor(first.model), network_factor(prior)
    if isinstance(first.model, VQ2Config):
        own = math.lcm(own, first.model.top_factor)
    whole = factor * own
    if isinstance(first.model, GeneratorConfig) and first.model.size != size:
        raise InputError(
            f"data.size is {size}: expected {first.model.size}, which a generator of {len(first.model.widths)} widths draws; "
            "first_stage.model.widths and first_stage.discriminator.widths have one more for each doubling of 4."
        )
    if size % whole:
        raise InputError(
            f"data.size is {size}: expected a multiple of {whole}, since the first stage shrinks by {factor} and the "
            f"prior's network by {own} more; {max(whole, size // whole * whole)} would do."
        )
    if isinstance(prior, DiffusionConfig) and isinstance(prior.network, UNetConfig) and prior.network.num_classes is not None:
        raise InputError(
            f"prior.model.network.num_classes is {prior.network.num_classes}, and no conditioner gives such classes in "
            "training; set it to null."
        )
    if isinstance(first.model, KLConfig | VQConfig | VQ2Config) and not first.frozen:
        _check_loss(first.loss, size)
        averaged = isinstance(first.model, VQ2Config) or (
            isinstance(first.model, VQConfig) and not first.model.levels and not first.model.quantizer
        )
        if first.loss.codebook_decay > 0 and not averaged:
            raise InputError(
                f"first_stage.loss.codebook_decay is {first.loss.codebook_decay}, and this first stage has no codebook; "
                "set it to 0, and codebook_revive too."
            )
    if first.train.keep == "best":
        raise InputError(
            'first_stage.train.keep is "best", which needs a held-out loss, and a prior alone has one; set "last".'
        )
    for name, source in (("first_stage.init", first.init), ("prior.init", config.prior.init)):
        if source and not (name == "first_stage.init" and Path(source).is_file()):
            try:
                find_model(source)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
    settings = settings_of(config.sampling)
    if isinstance(prior, DiffusionConfig):
        times(settings.spacing or settings.sampler.spacing, make_schedule(prior.schedule), settings.num_steps)


def _check_loss(loss: FirstStageLossConfig, size: int) -> None:
    smallest = PatchGANConfig(num_layers=loss.discriminator_layers).smallest
    if loss.gan_start != "never" and loss.gan_weight > 0 and size < smallest:
        raise InputError(
            f"first_stage.loss.discriminator_layers is {loss.discriminator_layers}, which needs pictures of {smallest} or more "
            f"pixels a side, and data.size is {size}; set fewer layers, or first_stage.loss.gan_start=never."
        )
    if loss.perceptual == "lpips":
        for name in ("lpips_vgg", "lpips_heads"):
            path = getattr(loss, name)
            if not path or not Path(path).is_file():
                raise InputError(f"first_stage.loss.{name} is {path!r}: expected the path of a weights file.")
