"""Stage 1: the first stage against its reconstruction, a little KL or a codebook's losses, and a patch discriminator.

    L = nll + kl_weight KL + factor(step) * weight * adaptive * g(D(x_hat))      (arXiv 2112.10752, eq. 25)
    L_D = d(D(x), D(x_hat))
    L with codebook_weight (||sg[z] - e||^2 + beta ||z - sg[e]||^2) for KL       (arXiv 1711.00937, eq. 3; a VQ first stage)
    L + half_size_weight nll(half(x), decode(half(z)))                          (arXiv 2502.14831; off by default)

Sums over dimensions, averages over the batch, as published: weights mean what they mean only under that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from sfumato.build import LearnedFirstStage
from sfumato.first_stages.vq import QuantizedFirstStage
from sfumato.losses.adversarial import Game, GanStart, GanStartConfig, adaptive_weight, gauges
from sfumato.losses.perceptual import PerceptualLoss
from sfumato.losses.reconstruction import PixelError, ReconstructionLoss
from sfumato.networks.patchgan import PatchGAN, PatchGANConfig
from sfumato.nn.layers import halve
from sfumato.nn.quantizers import Codebook, CodebookAverage, Quantizer
from sfumato.posterior import DiagonalGaussian
from sfumato.priors.base import Loss
from sfumato.training.config import FirstStageLossConfig, OptimConfig
from sfumato.training.pixels import PixelSource
from sfumato.training.tasks.base import Batch, Task


class AutoencoderTask(Task):
    """Optimizers "autoencoder" (encoder, decoder, log-variance) and, once the GAN term has begun, "discriminator"."""

    name = "first_stage"

    def __init__(self, first_stage: LearnedFirstStage, config: FirstStageLossConfig, source: PixelSource, device: torch.device):
        self.config, self.source = config, source
        self.first_stage = first_stage
        self.reconstruction = ReconstructionLoss(
            PixelError(config.pixel), perceptual_loss(config), config.perceptual_weight, learn=config.learn_log_variance
        ).to(device)
        self.game = Game(config.gan_loss.replace("_", "-"))
        self.start = GanStart(GanStartConfig(step=config.gan_start if isinstance(config.gan_start, int) else None, ramp=200))
        self.discriminator: PatchGAN | None = None
        if config.gan_start != "never" and config.gan_weight > 0:
            shape = PatchGANConfig(first_stage.channels, config.discriminator_channels, config.discriminator_layers, "group")
            self.discriminator = PatchGAN(shape).to(device)
        self.averages: dict[str, CodebookAverage] = {}  # by level
        if isinstance(first_stage, QuantizedFirstStage) and config.codebook_decay > 0:
            books = {level: book for level, book in first_stage.quantizers.items() if isinstance(book, Codebook)}
            self.averages = {
                level: CodebookAverage(book, config.codebook_decay, config.codebook_revive) for level, book in books.items()
            }
        self._pair: tuple[Tensor, Tensor] | None = None

    @property
    def codebook_average(self) -> CodebookAverage | None:
        """Of a first stage of one level."""
        return self.averages.get("")

    def modules(self) -> Mapping[str, nn.Module]:
        found: dict[str, nn.Module] = {"first_stage": self.first_stage, "reconstruction": self.reconstruction}
        found |= {f"codebook_average_{level}".rstrip("_"): average for level, average in self.averages.items()}
        return found | ({"discriminator": self.discriminator} if self.discriminator is not None else {})

    def averaged(self) -> Mapping[str, nn.Module]:
        return {"first_stage": self.first_stage}

    def parameters(self) -> Mapping[str, list[Parameter]]:
        own = [p for m in (self.first_stage, self.reconstruction) for p in m.parameters() if p.requires_grad]
        found = {"autoencoder": own}
        return found | ({"discriminator": list(self.discriminator.parameters())} if self.discriminator is not None else {})

    def compile(self) -> None:
        decoder = self.first_stage.decoder
        # each shape its own kernels (dynamic=False): there are two at most, the picture's and half of it
        self.first_stage.encoder.compile(dynamic=False)
        # all but the last layer, so that the adaptive weight's gradients stop there
        decoder.features = torch.compile(decoder.features, dynamic=False)  # type: ignore[method-assign]
        if self.discriminator is not None:
            self.discriminator.compile(dynamic=False)

    def _observers(self) -> list[Quantizer | CodebookAverage]:
        """What moves codes by what they stand for."""
        first = self.first_stage
        return [*self.averages.values(), *(first.quantizers.values() if isinstance(first, QuantizedFirstStage) else ())]

    def learning_rate(self, name: str, config: OptimConfig) -> float:
        other = self.config.discriminator_learning_rate
        return other if name == "discriminator" and other > 0 else config.learning_rate

    def active(self, name: str, step: int) -> bool:
        return name == "autoencoder" or self.start.factor(step) > 0

    def phase(self, step: int) -> float | None:
        if not all(observer.capturable for observer in self._observers() if isinstance(observer, Quantizer)):
            return None
        factor = 0.0 if self.discriminator is None else self.start.factor(step)
        return factor if factor in (0.0, 1.0) else None

    def batch(self, step: int, config: OptimConfig, rng: torch.Generator) -> Batch:
        for observer in self._observers():
            observer.reset()
        return {"x": self.source.batch(step, config.batch_size, rng)}

    def loss(self, name: str, batch: Batch, step: int, rng: torch.Generator) -> Loss:
        return self._discriminator_loss() if name == "discriminator" else self._autoencoder_loss(batch["x"], step, rng)

    def _autoencoder_loss(self, x: Tensor, step: int, rng: torch.Generator) -> Loss:
        posterior = self.first_stage.posterior(x)
        z = posterior.sample(rng)
        of_codes = isinstance(self.first_stage, QuantizedFirstStage)
        x_hat, penalty, gauged = self._vq(z, rng) if of_codes else self._kl(z, posterior)
        terms = self.reconstruction(x_hat, x)
        total = terms.nll + penalty
        parts = {
            "pixel": terms.error.mean(),
            "perceptual": terms.perceptual.mean(),
            **gauged,
            "first_stage/log_variance": self.reconstruction.log_variance.detach(),
        }
        if self.config.half_size_weight > 0:
            half = self.reconstruction(self._decode_half(halve(z)), halve(x))
            total = total + self.config.half_size_weight * half.nll
            parts["pixel/half_size"] = half.error.mean()
        factor = self.start.factor(step)
        if self.discriminator is not None and factor > 0:
            self.discriminator.requires_grad_(False)
            gan = self.game.g(self.discriminator(x_hat))
            adaptive = adaptive_weight(terms.nll, gan, self.first_stage.last_layer)
            total = total + factor * self.config.gan_weight * adaptive * gan
            parts |= {"gan": gan.detach(), "gan/adaptive_weight": adaptive, "gan/factor": torch.tensor(factor, device=x.device)}
            self._pair = (x, x_hat.detach())
        return Loss(total, parts)

    def _kl(self, z: Tensor, posterior: DiagonalGaussian) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Pixels, weighted divergence, gauges."""
        kl = posterior.kl().mean()
        return self.first_stage.decode(z), self.config.kl_weight * kl, {"kl": kl.detach() / posterior.mean[0].numel()}

    def _vq(self, z: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Pixels, weighted codebook losses, gauges; what codes are the average of is observed."""
        assert isinstance(self.first_stage, QuantizedFirstStage)
        config, levels = self.config, self.first_stage.levels(z)
        gauged: dict[str, Tensor] = {}
        penalty = z.new_zeros(())
        for name, level in levels.items():
            found, end = level.found, f"/{name}" if name else ""
            gauged |= {
                f"commitment{end}": found.commitment.detach().mean() / level.z[0].numel(),
                f"perplexity{end}": found.perplexity,
                f"codes/used{end}": found.used,
            }
            losses = found.loss(config.commitment_weight)
            if (average := self.averages.get(name)) is not None:
                average.observe(level.z.detach(), found.codes, rng)
                gauged[f"codes/revived{end}"] = average.revived.clone()  # in the step before
                losses = config.commitment_weight * found.commitment
            self.first_stage.quantizers[name].observe(level.z.detach(), found.codes, rng)
            penalty = penalty + config.codebook_weight * losses.mean()
        return self.first_stage.decode_levels(levels), penalty, gauged

    def _decode_half(self, z: Tensor) -> Tensor:
        if isinstance(self.first_stage, QuantizedFirstStage):
            return self.first_stage.decode_levels(self.first_stage.levels(z))
        return self.first_stage.decode(z)

    def _discriminator_loss(self) -> Loss:
        assert self.discriminator is not None
        assert self._pair is not None, "the autoencoder's loss comes first in a step"
        self.discriminator.requires_grad_(True)
        x, x_hat = self._pair
        real, fake = self.discriminator(x), self.discriminator(x_hat)
        total = self.game.d(real, fake)
        return Loss(total, {f"gan/{k}": v for k, v in gauges(real, fake).items()})

    def after_step(self, step: int, values: Mapping[str, float]) -> None:
        for observer in self._observers():
            observer.update()
        if self.discriminator is not None:
            self.start.update(step, values["pixel"])

    def state_dict(self) -> dict[str, Any]:
        return {"gan_start": self.start.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.start.load_state_dict(state["gan_start"])


def perceptual_loss(config: FirstStageLossConfig) -> PerceptualLoss | None:
    """The perceptual term that a config asks for."""
    if config.perceptual == "none" or config.perceptual_weight == 0:
        return None
    if config.perceptual == "lpips":
        return PerceptualLoss.lpips(config.lpips_vgg, config.lpips_heads)
    return PerceptualLoss.embedded()
