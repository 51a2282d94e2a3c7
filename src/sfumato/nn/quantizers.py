"""Vector quantization that trains: a latent is replaced by one of K codes, and gradients pass as if it were not.

    z_q = e_k,  k = argmin_j ||z - e_j||,      d z_q / d z := 1                         (straight through)
    L = ||sg[z] - e_k||^2 + beta ||z - sg[e_k]||^2         (van den Oord et al. 2017, arXiv 1711.00937, eq. 1-3)

Both terms are summed over channels and positions, as the other losses of a first stage are; the paper averages over the N
positions, which is a weight of 1 / N. How well codes are used is told by the perplexity of their frequencies, exp(H(p)).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfumato.errors import InputError

ROWS = 4096  # vectors that are compared with the codebook at a time: bounds the table of distances


@dataclass(frozen=True)
class Quantized:
    """What quantizing gives.

    z_q: (B, C, h, w), exactly codes, through which gradients reach z unchanged. codes: (B, h, w) whole numbers.
    codebook, commitment: (B,), the two squared distances, the first moving codes and the second moving z; 0 without a codebook.
    perplexity: (), from 1 to K, of the codes in this batch; used: (), share of the K codes that are in this batch.
    """

    z_q: Tensor
    codes: Tensor
    codebook: Tensor
    commitment: Tensor
    perplexity: Tensor
    used: Tensor

    def loss(self, beta: float) -> Tensor:
        """(B,): eq. 3 without its first term."""
        return self.codebook + beta * self.commitment


class Quantizer(nn.Module, ABC):
    """(B, C, h, w) <-> (B, h, w) indices of `num_codes` codes of `channels` channels; (B, depth, h, w) where depth is not 1.

    `reset`, any number of `observe`, `update` are one step of training, for codes that move by what they stand for and not by
    gradients; others do nothing. capturable: whether a CUDA graph may hold it.
    """

    num_codes: int
    channels: int
    depth: int = 1
    capturable: bool = True

    @abstractmethod
    def indices(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h, w) whole numbers: which code, found in fp32 whatever type z has."""

    @abstractmethod
    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) whole numbers -> (B, C, h, w) codes."""

    @abstractmethod
    def quantize(self, z: Tensor) -> Quantized:
        """(B, C, h, w) -> its codes with gradients, losses and gauges, in fp32."""

    def reset(self) -> None:
        """Forget what was observed since the last update."""

    def observe(self, z: Tensor, codes: Tensor, rng: torch.Generator | None = None) -> None:
        """(B, C, h, w) latents and their codes, a part of a step. `rng` draws what dead codes may become."""

    def update(self) -> None:
        """Move the codes, after an applied step."""

    def forward(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> the codes, the same shape and type."""
        return self.lookup(self.indices(z)).to(z.dtype)


class Codebook(Quantizer):
    """K codes e_k of C channels, in `embedding`: the nearest is taken (arXiv 1711.00937, eq. 1-2)."""

    def __init__(self, size: int, channels: int):
        super().__init__()
        self.num_codes, self.channels = size, channels
        self.embedding = nn.Embedding(size, channels)
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)

    def indices(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h, w) whole numbers: k of the nearest code, compared in fp32 whatever type z has."""
        batch, _, height, width = z.shape
        with torch.autocast(z.device.type, enabled=False):
            codes = self.embedding.weight.float()  # (K, C)
            half = 0.5 * codes.square().sum(1)
            # ||z - e||^2 / 2 less ||z||^2 / 2, which is the same for every code
            found = [(half - rows @ codes.T).argmin(1) for rows in vectors(z).split(ROWS)]
        return torch.cat(found).unflatten(0, (batch, height, width))

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) whole numbers -> (B, C, h, w) codes."""
        return self.embedding(indices).permute(0, 3, 1, 2).contiguous()

    def quantize(self, z: Tensor) -> Quantized:
        """(B, C, h, w) -> the nearest codes, with both losses of eq. 3."""
        z = z.float()
        with torch.no_grad():
            found = self.indices(z)
        e = self.lookup(found).float()
        codebook = (z.detach() - e).square().flatten(1).sum(1)
        commitment = (z - e.detach()).square().flatten(1).sum(1)
        return Quantized(straight_through(z, e), found, codebook, commitment, *usage(found, self.num_codes))


class FSQ(Quantizer):
    """Finite scalar quantization: each channel is bounded and rounded to one of L_i levels; no codebook, no loss.

        b(z) = tanh(z + s) (L - 1)(1 + eps) / 2 - o,   o = 1/2 for even L else 0,   s = atanh(2 o / ((L - 1)(1 + eps)))
        z_q = round(b(z)) / floor(L / 2)             (Mentzer et al. 2023, arXiv 2309.15505, Sec. 3.1, App. A.1)

    An index is the number whose digits, the first channel's the lowest, are the levels counted from 0.
    `levels`: of each channel, 3 or more, since of two levels one is reached by z < -3.8 only.
    """

    levels: Tensor

    def __init__(self, levels: Sequence[int], eps: float = 1e-3):
        super().__init__()
        if not levels or min(levels) < 3:
            raise InputError(f"FSQ levels are {list(levels)}: expected one or more numbers from 3, such as 8, 5, 5, 5.")
        self.num_codes, self.channels, self.eps = math.prod(levels), len(levels), eps
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("digits", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]), persistent=False)

    def bounded(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> b(z), fp32, whose rounding is one of L_i whole numbers around 0."""
        levels = self.levels.float().view(-1, 1, 1)
        reach = (levels - 1) * (1 + self.eps) / 2
        offset = 0.5 * (self.levels.view(-1, 1, 1) % 2 == 0)
        return torch.tanh(z.float() + torch.atanh(offset / reach)) * reach - offset

    def indices(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h, w) whole numbers."""
        return self._indices(self.bounded(z).round())

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) whole numbers -> (B, C, h, w) codes, each channel within [-1, 1]."""
        levels, digits = self.levels.view(-1, 1, 1), self.get_buffer("digits").view(-1, 1, 1)
        half = levels // 2
        return (indices[:, None] // digits % levels - half) / half

    def quantize(self, z: Tensor) -> Quantized:
        """(B, C, h, w) -> codes; gradients pass the rounding and not the tanh, which they see."""
        b = self.bounded(z)
        rounded = b.round()
        found = self._indices(rounded.detach())
        nothing = b.new_zeros(len(b))
        z_q = straight_through(b, rounded) / (self.levels // 2).view(-1, 1, 1)
        return Quantized(z_q, found, nothing, nothing, *usage(found, self.num_codes))

    def _indices(self, rounded: Tensor) -> Tensor:
        counted = rounded.long() + (self.levels // 2).view(-1, 1, 1)
        return (counted * self.get_buffer("digits").view(-1, 1, 1)).sum(1)


class CodebookAverage(nn.Module):
    """Codes as moving averages of the latents they stand for, instead of the codebook loss (arXiv 1711.00937, App. A.1).

        N_k <- g N_k + (1 - g) n_k,   m_k <- g m_k + (1 - g) sum of the n_k latents,   e_k = m_k / N_k

    It begins as if each code had been seen once, N = 1 and m = e. A code with N_k < `revive` sum(N) / K is dead: it becomes
    a random latent of the batch (random restarts; Dhariwal et al. 2020, arXiv 2005.00341, Sec. 3.1) with a mean code's N;
    0 never revives. `reset`, any number of `observe`, `update` are one step; only `update` moves the codes.
    """

    size: Tensor
    total: Tensor
    counts: Tensor
    sums: Tensor
    drawn: Tensor
    revived: Tensor

    def __init__(self, book: Codebook, decay: float, revive: float):
        super().__init__()
        if not 0 <= decay < 1:
            raise InputError(f"codebook decay is {decay}: expected from 0 to below 1, such as 0.99.")
        if not 0 <= revive < 1:
            raise InputError(
                f"codebook revive is {revive}: expected from 0 (never) to below 1, a share of the mean code's use."
            )
        self.decay, self.revive = decay, revive
        self._weight = [book.embedding.weight.requires_grad_(False)]  # in a list: the codebook owns it, and it is saved once
        weight = book.embedding.weight.detach().float()
        self.register_buffer("size", torch.ones(len(weight), device=weight.device))
        self.register_buffer("total", weight.clone())
        for name, value in (("counts", self.size), ("sums", weight), ("drawn", weight)):
            self.register_buffer(name, torch.zeros_like(value), persistent=False)
        self.register_buffer("revived", torch.zeros((), device=weight.device), persistent=False)

    def reset(self) -> None:
        """Forget what was observed since the last update."""
        self.counts.zero_()
        self.sums.zero_()

    @torch.no_grad()
    def observe(self, z: Tensor, codes: Tensor, rng: torch.Generator | None = None) -> None:
        """(B, C, h, w) latents and their (B, h, w) codes, a part of a step. `rng` draws what dead codes may become."""
        rows, index = vectors(z), codes.flatten()
        self.counts.index_add_(0, index, torch.ones_like(index, dtype=self.counts.dtype))
        self.sums.index_add_(0, index, rows)
        chosen = torch.randint(len(rows), (len(self.counts),), generator=rng, device=rows.device)
        self.drawn.copy_(rows[chosen])

    @torch.no_grad()
    def update(self) -> None:
        """Move the codes; `revived`, (), is how many were dead."""
        self.size.lerp_(self.counts, 1 - self.decay)
        self.total.lerp_(self.sums, 1 - self.decay)
        mean = self.size.mean()
        dead = self.size < self.revive * mean
        self.size.copy_(torch.where(dead, mean, self.size))
        self.total.copy_(torch.where(dead[:, None], self.drawn * mean, self.total))
        seen = self.size[:, None] > TINY  # what was never seen again fades to 0 / 0: those codes stay where they are
        weight = self._weight[0]
        weight.copy_(torch.where(seen, self.total / self.size[:, None].clamp_min(TINY), weight))
        self.revived.copy_(dead.sum())


TINY = 1e-20


def vectors(z: Tensor) -> Tensor:
    """(B, C, h, w) -> (B h w, C), fp32."""
    return z.float().permute(0, 2, 3, 1).flatten(0, 2)


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """e, exactly, with the gradient of z."""
    return e.detach() + (z - z.detach())


@torch.no_grad()
def usage(codes: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """Perplexity exp(-sum p log p) of the frequencies of `codes`, any shape, and the share of `num_codes` that occurs; ()."""
    counts = torch.zeros(num_codes, device=codes.device)
    counts.index_add_(0, codes.flatten(), torch.ones_like(codes.flatten(), dtype=counts.dtype))
    p = counts / codes.numel()
    return torch.special.entr(p).sum().exp(), (counts > 0).float().mean()
