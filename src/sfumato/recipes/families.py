"""The whole family tree at 32 pixels: each family a first stage and a prior, all told nothing, for `sfumato compare`.

A family has 8 to 37 million parameters, the GAN's generator 1.7, and all are trained alike, so that what is compared is the
factorisation.
None is compiled: a short run would spend its time on that, and CUDA graphs spare the launches. Priors that are judged by a
likelihood keep the weights with the best one of held-out pictures, since in minutes they learn small data by heart. Every
`-tiny` variant runs in seconds on a CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from sfumato.build import FirstStageConfig, PriorConfig
from sfumato.conditioners.none import NoneConfig
from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName
from sfumato.diffusion.weighting import TimeSampling
from sfumato.first_stages.identity import IdentityConfig
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.first_stages.vq2 import VQ2Config
from sfumato.io.pretrained import SamplingDefaults
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.coupling import CouplingConfig
from sfumato.networks.discriminator import DiscriminatorConfig
from sfumato.networks.generator import GeneratorConfig
from sfumato.networks.gpt import GPTConfig
from sfumato.networks.hourglass import HourglassConfig
from sfumato.networks.pixelcnn import PixelCNNConfig
from sfumato.networks.pixelcnn_pp import PixelCNNPPConfig
from sfumato.networks.unet import UNetConfig
from sfumato.priors.autoregressive import AutoregressiveConfig
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.priors.flow import FlowConfig
from sfumato.priors.hierarchical import HierarchicalConfig
from sfumato.priors.normal import NormalConfig
from sfumato.training.config import (
    DataConfig,
    FirstStageLossConfig,
    FirstStageRun,
    GanConfig,
    OptimConfig,
    PriorRun,
    RunConfig,
)

SIDE = 32
"""Pixels of a picture's side."""

_PLAIN = FirstStageLossConfig(pixel="l2", perceptual="none", gan_start="never")  # the papers' own, before perceptual losses
_GOOD = FirstStageLossConfig(perceptual_weight=0.3, kl_weight=0.5, gan_start="never")  # a latent diffusion's first stage
_UNET = UNetConfig(
    3, 3, channels=96, multipliers=(1, 2, 2), num_res_blocks=2, attention_factors=(2, 4), head_channels=32, qk_norm=True
)


def gan() -> RunConfig:
    """A generator of pictures against a discriminator (Goodfellow et al. 2014, arXiv 1406.2661).

    The relativistic game with penalties at real and generated pictures, which converges (Huang et al. 2024, arXiv 2501.05441).
    Wider networks need a smaller rate and learn slower; penalties of 0.2 collapse within a hundred steps (docs/lab-log.md).
    Command: `sfumato train family-gan --data DIR --out RUN`. Hardware: one GPU.
    """
    model = GeneratorConfig(3, dim=128, widths=(128, 128, 96, 48), mapping_width=256)
    train = _optim(20_000, 128, learning_rate=5e-4, betas=(0.0, 0.99), precision="fp32", grad_clip=0.0, ema_decay=0.999)
    first = FirstStageRun(
        model=model,
        train=train,
        gan=GanConfig(game="relativistic", r1=2.0, r2=2.0),
        discriminator=DiscriminatorConfig(widths=(48, 96, 128, 128)),
    )
    return _family("gan", first, NormalConfig())


def vae() -> RunConfig:
    """A Gaussian decoder of one vector, the whole weight of the divergence (Kingma & Welling 2013, arXiv 1312.6114).

    Squared error and a learned variance: a Gaussian's log-likelihood is half of what the loss sums, hence 2.
    Command: `sfumato train family-vae --data DIR --out RUN`. Hardware: one GPU.
    """
    network = _autoencoder(64, (1, 2, 2, 4, 4, 4), 128)
    loss = dataclasses.replace(_PLAIN, kl_weight=2.0)
    first = FirstStageRun(model=KLConfig(network=network), loss=loss, train=_optim(20_000, 128))
    return _family("vae", first, NormalConfig())


def vqvae() -> RunConfig:
    """Codes of averaged vectors, and a PixelCNN over them (van den Oord et al. 2017, arXiv 1711.00937).

    Command: `sfumato train family-vqvae --data DIR --out RUN`. Hardware: one GPU.
    """
    loss = dataclasses.replace(_PLAIN, codebook_decay=0.99, codebook_revive=0.1)
    first = FirstStageRun(model=VQConfig(_quantized(), codebook_size=512), loss=loss, train=_optim(10_000, 128))
    prior = AutoregressiveConfig(PixelCNNConfig(512, dim=192, depth=12, first_kernel=5, dropout=0.1))
    return _family("vqvae", first, prior, _optim(20_000, 256, keep="best"))


def vqvae2() -> RunConfig:
    """Codes of two sizes, the coarse ones first (Razavi et al. 2019, arXiv 1906.00446).

    Command: `sfumato train family-vqvae2 --data DIR --out RUN`. Hardware: one GPU.
    """
    network = dataclasses.replace(_quantized(), latent_channels=64)
    loss = dataclasses.replace(_PLAIN, codebook_decay=0.99, codebook_revive=0.1)
    model = VQ2Config(network, codebook_size=512, embed_channels=16)
    first = FirstStageRun(model=model, loss=loss, train=_optim(10_000, 128))
    top = PixelCNNConfig(512, dim=128, depth=8, first_kernel=5, dropout=0.1)
    bottom = PixelCNNConfig(512, dim=192, depth=10, first_kernel=5, concat_channels=64, dropout=0.1)
    return _family("vqvae2", first, HierarchicalConfig(top, bottom), _optim(20_000, 256, keep="best"))


def vqgan() -> RunConfig:
    """Codes that please a discriminator of patches, and a transformer over them (Esser et al. 2020, arXiv 2012.09841).

    Command: `sfumato train family-vqgan --data DIR --out RUN`. Hardware: one GPU.
    """
    loss = FirstStageLossConfig(
        gan_start=3_000, gan_weight=0.1, discriminator_channels=64, discriminator_layers=2, codebook_decay=0.99,
        codebook_revive=0.1,
    )  # fmt: skip
    first = FirstStageRun(model=VQConfig(_quantized(), codebook_size=1024), loss=loss, train=_optim(10_000, 128))
    prior = AutoregressiveConfig(GPTConfig(1024, 8, 8, dim=320, depth=8, heads=5, dropout=0.1))
    return _family("vqgan", first, prior, _optim(20_000, 256, keep="best"))


def autoregressive() -> RunConfig:
    """PixelCNN++ over 8-bit pixels, the likelihood exact (Salimans et al. 2017, arXiv 1701.05517).

    Command: `sfumato train family-autoregressive --data DIR --out RUN`. Hardware: one GPU.
    """
    prior = AutoregressiveConfig(PixelCNNPPConfig(dim=96, depth=3, mixtures=10, dropout=0.1))
    return _family("autoregressive", FirstStageRun(model=IdentityConfig()), prior, _optim(10_000, 64, keep="best"))


def flow() -> RunConfig:
    """An invertible map of dequantized pixels to noise (Kingma & Dhariwal 2018, arXiv 1807.03039).

    Command: `sfumato train family-flow --data DIR --out RUN`. Hardware: one GPU.
    """
    prior = FlowConfig(CouplingConfig(3, num_scales=3, num_steps=16, width=256), dequantize=True)
    train = _optim(20_000, 64, learning_rate=3e-4, precision="fp32", grad_clip=100.0, keep="best")
    return _family("flow", FirstStageRun(model=IdentityConfig()), prior, train)


def ddpm() -> RunConfig:
    """Diffusion of pixels (Ho et al. 2020, arXiv 2006.11239).

    Command: `sfumato train family-ddpm --data DIR --out RUN`. Hardware: one GPU.
    """
    return _family("ddpm", FirstStageRun(model=IdentityConfig()), DiffusionConfig(network=_UNET), _optim(20_000, 128))


def ldm() -> RunConfig:
    """Diffusion of latents, f = 4 (Rombach et al. 2021, arXiv 2112.10752).

    Command: `sfumato train family-ldm --data DIR --out RUN`. Hardware: one GPU.
    """
    return _family("ldm", _first_stage(), DiffusionConfig(network=_latent_unet()), _optim(20_000, 256))


def ldm_vq() -> RunConfig:
    """`ldm` over a VQ first stage, whose decoder quantizes (Rombach et al. 2021, Sec. 3.1).

    Command: `sfumato train family-ldm-vq --data DIR --out RUN`. Hardware: one GPU.
    """
    loss = dataclasses.replace(_GOOD, codebook_decay=0.99, codebook_revive=0.1)
    first = FirstStageRun(model=VQConfig(_quantized(), codebook_size=1024), loss=loss, train=_optim(10_000, 128))
    return _family("ldm-vq", first, DiffusionConfig(network=_latent_unet()), _optim(20_000, 256))


def dit() -> RunConfig:
    """`ldm` with a transformer for a denoiser (Peebles & Xie 2022, arXiv 2212.09748).

    Command: `sfumato train family-dit --data DIR --out RUN`. Hardware: one GPU.
    """
    network = HourglassConfig(8, 8, widths=(384,), depths=(6,), condition_channels=128)
    return _family("dit", _first_stage(), DiffusionConfig(network=network), _optim(20_000, 256))


def rectified() -> RunConfig:
    """`ldm` along straight paths (Liu et al. 2022, arXiv 2209.03003; Esser et al. 2024, arXiv 2403.03206).

    Command: `sfumato train family-rectified --data DIR --out RUN`. Hardware: one GPU.
    """
    prior = DiffusionConfig(
        network=_latent_unet(),
        schedule=ScheduleConfig(name=ScheduleName.rectified),
        prediction=Prediction.velocity,
        time_sampling=TimeSampling.logit_normal,
    )
    return _family("rectified", _first_stage(), prior, _optim(20_000, 256))


def tiny_family(name: str) -> Callable[[], RunConfig]:
    """The recipe of a family at 16 pixels with networks and steps for seconds on a CPU."""

    def recipe() -> RunConfig:
        return _tiny(FAMILIES[name]())

    recipe.__doc__ = (
        f"`family-{name}` in seconds. Command: `sfumato train family-{name}-tiny --data DIR --out RUN`. Hardware: any."
    )
    return recipe


def _tiny(base: RunConfig) -> RunConfig:
    first, prior = base.first_stage, base.prior
    start: int | Literal["never"] = 30 if first.loss.gan_start != "never" else "never"
    first = dataclasses.replace(
        first,
        model=_tiny_first_stage(first.model),
        loss=dataclasses.replace(first.loss, gan_start=start, discriminator_channels=8, discriminator_layers=1),
        train=_quick(first.train),
        discriminator=DiscriminatorConfig(widths=(8, 16, 16)),
    )
    prior = dataclasses.replace(prior, model=_tiny_prior(prior.model), train=_quick(prior.train))
    data = dataclasses.replace(base.data, size=16)
    sampling = dataclasses.replace(base.sampling, steps=5)
    return dataclasses.replace(base, name=f"{base.name}-tiny", data=data, first_stage=first, prior=prior, sampling=sampling)


def _quick(train: OptimConfig) -> OptimConfig:
    return dataclasses.replace(train, steps=40, batch_size=8, learning_rate=2e-3, warmup_steps=5, log_every=20, ema_decay=0.9)


def _tiny_first_stage(model: FirstStageConfig) -> FirstStageConfig:
    match model:
        case GeneratorConfig():
            return dataclasses.replace(model, dim=16, widths=(16, 16, 8), mapping_width=16)
        case VQConfig() | VQ2Config():
            network = dataclasses.replace(model.network, channels=8, multipliers=(1, 2, 2), num_res_blocks=1, norm_groups=4)
            return dataclasses.replace(model, network=network, codebook_size=32)
        case KLConfig():
            levels = (1, 2, 2) if len(model.network.multipliers) <= 3 else (1, 1, 2, 2, 2)
            network = dataclasses.replace(model.network, channels=8, multipliers=levels, num_res_blocks=1, norm_groups=4)
            return dataclasses.replace(model, network=network)
        case _:
            return model


def _tiny_prior(model: PriorConfig) -> PriorConfig:
    match model:
        case AutoregressiveConfig(network=GPTConfig() as gpt):
            codes = 256 if gpt.channels > 1 else 32
            return AutoregressiveConfig(dataclasses.replace(gpt, vocabulary=codes, dim=32, depth=1, heads=2))
        case AutoregressiveConfig(network=PixelCNNPPConfig() as cnn_pp):
            return AutoregressiveConfig(dataclasses.replace(cnn_pp, dim=8, depth=1, num_scales=2, mixtures=3))
        case HierarchicalConfig():
            top = dataclasses.replace(model.top, vocabulary=32, dim=16, depth=1)
            bottom = dataclasses.replace(model.bottom, vocabulary=32, dim=16, depth=1, concat_channels=8)
            return dataclasses.replace(model, top=top, bottom=bottom, told_depth=1)
        case AutoregressiveConfig(network=PixelCNNConfig() as cnn):
            return AutoregressiveConfig(dataclasses.replace(cnn, vocabulary=32, dim=16, depth=2, first_kernel=3))
        case FlowConfig():
            return dataclasses.replace(model, network=dataclasses.replace(model.network, num_scales=2, num_steps=2, width=16))
        case DiffusionConfig(network=UNetConfig() as unet):
            small = dataclasses.replace(unet, channels=16, multipliers=(1, 2), num_res_blocks=1, attention_factors=(2,))
            return dataclasses.replace(model, network=dataclasses.replace(small, head_channels=16))
        case DiffusionConfig(network=HourglassConfig() as hourglass):
            small_one = dataclasses.replace(hourglass, widths=(64,), depths=(1,), condition_channels=16)
            return dataclasses.replace(model, network=small_one)
        case _:
            return model


FAMILIES: dict[str, Callable[[], RunConfig]] = {
    "gan": gan,
    "vae": vae,
    "vqvae": vqvae,
    "vqvae2": vqvae2,
    "vqgan": vqgan,
    "autoregressive": autoregressive,
    "flow": flow,
    "ddpm": ddpm,
    "ldm": ldm,
    "ldm-vq": ldm_vq,
    "dit": dit,
    "rectified": rectified,
}
"""By name, in the order of the field's history."""


def _autoencoder(channels: int, multipliers: tuple[int, ...], latent_channels: int) -> AutoencoderConfig:
    return AutoencoderConfig(
        channels=channels, multipliers=multipliers, num_res_blocks=1, mid_attention=False, latent_channels=latent_channels,
        norm_groups=16,
    )  # fmt: skip


def _quantized() -> AutoencoderConfig:
    return dataclasses.replace(_autoencoder(64, (1, 2, 4), 8), double_moments=False)


def _first_stage() -> FirstStageRun:
    return FirstStageRun(model=KLConfig(network=_autoencoder(64, (1, 2, 4), 8)), loss=_GOOD, train=_optim(10_000, 128))


def _latent_unet() -> UNetConfig:
    return dataclasses.replace(_UNET, in_channels=8, out_channels=8, channels=128, multipliers=(1, 2), attention_factors=(1, 2))


def _optim(steps: int, batch_size: int, **other: object) -> OptimConfig:
    base = OptimConfig(
        steps=steps, batch_size=batch_size, learning_rate=5e-4, warmup_steps=200, decay="cosine", decay_fraction=0.5,
        ema_decay=0.999, grad_clip=1.0, checkpoint_every=5_000, sample_every=5_000, log_every=100, cuda_graphs=True,
    )  # fmt: skip
    return dataclasses.replace(base, **other)  # type: ignore[arg-type]


def _family(name: str, first: FirstStageRun, prior: PriorConfig, train: OptimConfig | None = None) -> RunConfig:
    run = PriorRun(model=prior, conditioner=NoneConfig(), condition="given", train=train or OptimConfig(), dropout=0.0)
    sampling = SamplingDefaults(sampler="dpmpp_2m", spacing="trailing", steps=50, guidance=1.0)
    return RunConfig(f"family-{name}", DataConfig(size=SIDE), first, run, sampling)
