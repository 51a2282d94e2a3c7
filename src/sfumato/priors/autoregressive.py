"""The autoregressive prior: codes one after the other, each from those before it.

    log p(c | y) = sum_i log p(c_i | c_1, ..., c_{i-1}, y),      L = -log p(c | y) / N
    c_i ~ softmax(l_i / temperature) over its top-k and top-p codes,   l_i = w l_i(y) + (1 - w) l_i(null)

(Van den Oord et al. 2016, arXiv 1601.06759 and 1606.05328; Esser et al. 2020, arXiv 2012.09841, eq. 9.) Top-k: Fan et al.
2018 (arXiv 1805.04833); top-p: Holtzman et al. 2019 (arXiv 1904.09751); guidance by logits: Gafni et al. 2022
(arXiv 2203.13131, eq. 8). The likelihood is exact; sampling settings do not enter it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.conditioning import Conditioning, Twins
from sfumato.errors import InputError
from sfumato.latent import Codes
from sfumato.networks.gpt import GPT, GPTConfig
from sfumato.networks.pixelcnn import PixelCNN, PixelCNNConfig
from sfumato.networks.pixelcnn_pp import PixelCNNPP, PixelCNNPPConfig
from sfumato.networks.raster import CodeNetwork, to_grid
from sfumato.noise import NoiseSource
from sfumato.priors.base import Loss, Prior, Step

CodeNetworkConfig = GPTConfig | PixelCNNConfig | PixelCNNPPConfig


@dataclass(frozen=True)
class AutoregressiveConfig:
    """Everything that training fixes: which network predicts the codes."""

    kind: ClassVar[str] = "autoregressive"
    network: CodeNetworkConfig


@dataclass(frozen=True)
class AutoregressiveSettings:
    """How to sample. Temperature 1 and no truncation draw from the model itself; top_k 1 takes the likeliest code."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(f"temperature {self.temperature}: expected above 0; for the likeliest codes set top_k to 1.")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k {self.top_k}: expected 1 or more, or none for all codes.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p}: expected above 0 to 1, or none for all codes.")


def build_code_network(config: CodeNetworkConfig) -> CodeNetwork:
    """The network with random weights."""
    match config:
        case GPTConfig():
            return GPT(config)
        case PixelCNNConfig():
            return PixelCNN(config)
        case PixelCNNPPConfig():
            return PixelCNNPP(config)


class AutoregressivePrior(Prior[AutoregressiveSettings]):
    """p(codes | cond) over one grid of codes, (B, C, h, w) int64, or (B, h, w) where a place has one code.

    Of several levels each has a prior of its own: the coarse grid is the `concat` or `context` of the finer one's.
    """

    latent: Codes

    def __init__(self, config: AutoregressiveConfig, latent: Codes):
        super().__init__()
        net = config.network
        if len(latent.factors) != 1:
            raise InputError(
                f"autoregressive prior: got {len(latent.factors)} grids of codes, expected one; build one for each."
            )
        for name in ("vocabulary", "channels"):
            given, wanted = getattr(net, name), getattr(latent, name)
            if given != wanted:
                raise InputError(f"autoregressive network {name} is {given}: the first stage's codes have {wanted}; set it so.")
        self.config = config
        self.latent = latent
        self.model = build_code_network(net)

    @property
    def network(self) -> CodeNetwork:
        """The network that predicts the codes."""
        return self.model

    def loss(self, z: Tensor, cond: Conditioning, rng: torch.Generator | None) -> Loss:
        """-log p(z | cond) in nats per code, averaged over the batch; the part `bits` is the same in bits per code."""
        total = self._surprise(z, cond).mean()
        return Loss(total, {"loss": total.detach(), "bits": total.detach() / math.log(2)})

    def log_prob(self, z: Tensor, cond: Conditioning) -> Tensor:
        """log p(z | cond), exact, summed over the codes: (B,) nats. `metrics.dequantization` converts it to bits."""
        return -self._surprise(z, cond).sum(1)

    def steps(self, shape: Sequence[int], twins: Twins, settings: AutoregressiveSettings, noise: NoiseSource) -> Iterator[Step]:
        """Codes of `shape`, (B, C, h, w) or (B, h, w), in raster order: one `Step` a code; codes to come are 0.

        Code i of a picture takes number i of the picture's noise, so that it does not depend on the batch.
        """
        batch, grid = shape[0], (self.latent.channels, shape[-2], shape[-1])
        assert len(shape) == 4 or self.latent.channels == 1
        total = math.prod(grid)
        device = next(self.parameters()).device
        uniform = torch.special.ndtr(noise(torch.empty(batch, total, device=device)).double())  # (B, N) in [0, 1]
        sequence = torch.zeros(batch, total, dtype=torch.int64, device=device)
        weights = [float(weight) for _, weight in twins]
        cond = Conditioning.cat([cond for cond, _ in twins]) if len(twins) > 1 else twins[0][0]
        predict = self.model.predictor(cond, batch * len(twins), grid)
        for index in range(total):
            with torch.no_grad():
                logits = predict(sequence.repeat(len(twins), 1), index).float().chunk(len(twins))
                guided = sum((w * x for w, x in zip(weights[1:], logits[1:], strict=True)), weights[0] * logits[0])
                sequence[:, index] = draw(truncated(guided, settings), uniform[:, index])
            z = to_grid(sequence, grid).reshape(tuple(shape)).clone()
            yield Step(index, total, z, z)

    def _surprise(self, z: Tensor, cond: Conditioning) -> Tensor:
        """-log p of each code: (B, N) nats, in the order of the grid's memory."""
        assert not z.is_floating_point(), f"codes are whole numbers, got {z.dtype}"
        codes = z[:, None] if z.ndim == 3 else z  # (B, C, h, w)
        return self.model.surprise(codes, cond).flatten(1)


def truncated(logits: Tensor, settings: AutoregressiveSettings) -> Tensor:
    """(B, K) logits -> divided by the temperature; -inf outside the top-k codes and the top-p codes among those.

    Top-p keeps the fewest likeliest codes whose probabilities sum to p or more, at least one.
    """
    logits = logits / settings.temperature
    if settings.top_k is not None and settings.top_k < logits.shape[1]:
        kept = logits.topk(settings.top_k, dim=1)
        logits = torch.full_like(logits, -math.inf).scatter(1, kept.indices, kept.values)
    if settings.top_p is not None and settings.top_p < 1:
        values, order = logits.sort(dim=1, descending=True, stable=True)
        probability = values.double().softmax(1)
        before = probability.cumsum(1) - probability
        values = values.masked_fill((before >= settings.top_p) & (before > 0), -math.inf)
        logits = torch.empty_like(logits).scatter(1, order, values)
    return logits


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """The code at which the cumulated probability passes `uniform`: (B, K), (B,) in [0, 1] -> (B,) int64."""
    cumulated = logits.double().softmax(1).cumsum(1)  # (B, K)
    below = torch.finfo(torch.float64).eps  # keeps a uniform of 1 from passing the last code that has a probability
    height = uniform.double()[:, None] * cumulated[:, -1:] * (1 - 4 * below)
    return torch.searchsorted(cumulated, height, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
