"""The quantizers of `vector-quantize-pytorch` behind the interface of `quantizers.py`; the package is optional.

    ema       k = argmin ||z - e_k||, codes are moving averages          van den Oord et al. 2017, arXiv 1711.00937, App. A.1
    cosine    k = argmax <z, e_k> / ||z||, codes on the unit sphere      Yu et al. 2021, arXiv 2110.04627, Sec. 3.2
    simvq     e_k = W c_k, c fixed, W learned                            Zhu et al. 2024, arXiv 2411.02038
    fsq       each channel rounded to one of its levels                  Mentzer et al. 2023, arXiv 2309.15505
    lfq       z_q = sign(z), k = the signs as bits; with the loss        Yu et al. 2023, arXiv 2310.05737, eq. 3-5
              w (E[H(p(k | z))] - H(E[p(k | z)])) a place
    residual  z_q = e_1 + e_2 + ..., each code of what those before      Lee et al. 2022, arXiv 2203.01941, Sec. 3.1
              leave of z: `depth` codes a place

Codes, search, averaging and the way of gradients are the package's. What it would do within a forward pass is done here as
the rest of the house does it: losses are sums over places, averages move once after each applied step, and what revives a
dead code is drawn from the step's own generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sfumato.errors import InputError
from sfumato.nn.quantizers import Quantized, Quantizer, straight_through, usage

AVERAGED = ("ema", "cosine", "residual")


@dataclass(frozen=True)
class PackagedConfig:
    """Which one. decay, revive: of the averages of ema, cosine and residual, as of `CodebookAverage`. depth: codes a place.

    entropy_weight: of the loss of lfq. rotation: gradients pass by the rotation of z to its code instead of straight through
    (Fifty et al. 2024, arXiv 2410.06424), for those with one code to rotate to: ema, cosine and simvq.
    """

    kind: ClassVar[str] = "vector_quantize_pytorch"
    method: Literal["ema", "cosine", "simvq", "fsq", "lfq", "residual"] = "ema"
    decay: float = 0.99
    revive: float = 0.0
    depth: int = 1
    entropy_weight: float = 0.1
    rotation: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise InputError(f"quantizer decay is {self.decay}: expected from 0 to below 1, such as 0.99.")
        if not 0 <= self.revive < 1:
            raise InputError(f"quantizer revive is {self.revive}: expected from 0 (never) to below 1, a share of the mean use.")
        if self.depth < 1 or (self.depth > 1) != (self.method == "residual"):
            raise InputError(f"quantizer depth is {self.depth}: expected 2 or more for residual, and 1 for {self.method}.")
        if self.entropy_weight < 0:
            raise InputError(f"quantizer entropy_weight is {self.entropy_weight}: expected 0 or more.")
        if self.rotation and self.method not in ("ema", "cosine", "simvq"):
            raise InputError(f"quantizer rotation is true: {self.method} has no one code to rotate to; set it to false.")


class Packaged(Quantizer):
    """A quantizer of the package; its state is that of the package's module, under `module`.

    Raises `InputError` where the package is missing.
    """

    capturable = False  # the package asks the device about itself as it runs
    counts: Tensor
    sums: Tensor
    drawn: Tensor

    def __init__(self, config: PackagedConfig, size: int, channels: int, levels: tuple[int, ...] = ()):
        super().__init__()
        self.config = config
        self.num_codes, self.channels, self.depth = size, channels, config.depth
        self.module: Any = _module(config, size, channels, levels)
        shape = (config.depth if config.method in AVERAGED else 0, size, channels)
        self.register_buffer("counts", torch.zeros(shape[:2]), persistent=False)
        self.register_buffer("sums", torch.zeros(shape), persistent=False)
        self.register_buffer("drawn", torch.zeros(shape), persistent=False)

    @torch.no_grad()
    def indices(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h, w) whole numbers, or (B, depth, h, w) of residual codes."""
        return self._run(z)[1]

    def lookup(self, indices: Tensor) -> Tensor:
        """Whole numbers -> (B, C, h, w) codes."""
        height, width = indices.shape[-2:]
        rows = indices.flatten(2).transpose(1, 2) if self.depth > 1 else indices.flatten(1)  # (B, N[, depth])
        ask = {"ema": "get_codes_from_indices", "cosine": "get_codes_from_indices", "residual": "get_output_from_indices"}
        found: Tensor = getattr(self.module, ask.get(self.config.method, "indices_to_codes"))(rows)
        return found.transpose(1, 2).unflatten(2, (height, width)).contiguous()

    def quantize(self, z: Tensor) -> Quantized:
        """(B, C, h, w) -> its codes with the package's gradients, losses and gauges, in fp32."""
        z = z.float()
        z_q, found, loss = self._run(z)
        nothing = z.new_zeros(len(z))
        codebook, commitment = nothing, nothing
        match self.config.method:
            case "ema" | "cosine" | "residual":
                commitment = sum((_sizes(x - e) for x, e in self._chain(z, found)), nothing)
            case "simvq":
                e = self.lookup(found).float()
                codebook, commitment = _sizes(z.detach() - e), _sizes(z - e.detach())
            case "lfq":
                codebook, commitment = loss * z[0, 0].numel() + nothing, _sizes(z - z_q.detach())
        grids = found.unbind(1) if self.depth > 1 else (found,)
        gauges = [torch.stack(each).mean() for each in zip(*(usage(grid, self.num_codes) for grid in grids), strict=True)]
        return Quantized(z_q, found, codebook, commitment, *gauges)

    def reset(self) -> None:
        self.counts.zero_()
        self.sums.zero_()

    @torch.no_grad()
    def observe(self, z: Tensor, codes: Tensor, rng: torch.Generator | None = None) -> None:
        if self.config.method not in AVERAGED:
            return
        grids = codes.unbind(1) if self.depth > 1 else (codes,)
        for level, ((x, _), grid) in enumerate(zip(self._chain(z.float(), codes), grids, strict=True)):
            rows, index = x.permute(0, 2, 3, 1).flatten(0, 2), grid.flatten()
            self.counts[level].index_add_(0, index, torch.ones_like(index, dtype=self.counts.dtype))
            self.sums[level].index_add_(0, index, rows)
            chosen = torch.randint(len(rows), (self.num_codes,), generator=rng, device=rows.device)
            self.drawn[level] = rows[chosen]

    @torch.no_grad()
    def update(self) -> None:
        if self.config.method not in AVERAGED:
            return
        books = [layer._codebook for layer in getattr(self.module, "layers", [self.module])]
        for book, counts, sums, drawn in zip(books, self.counts, self.sums, self.drawn, strict=True):
            book.cluster_size[0].lerp_(counts, 1 - self.config.decay)
            book.embed_avg[0].lerp_(sums, 1 - self.config.decay)
            book.update_ema()
            mean = book.cluster_size[0].mean()
            dead = (book.cluster_size[0] < self.config.revive * mean)[:, None]
            book.embed[0] = torch.where(dead, drawn, book.embed[0])
            book.embed_avg[0] = torch.where(dead, drawn * mean, book.embed_avg[0])
            book.cluster_size[0] = torch.where(dead[:, 0], mean, book.cluster_size[0])

    def _run(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, h, w) -> z_q of the same shape, indices, and the package's own loss, all by the package in fp32."""
        height, width = z.shape[-2:]
        rows = z.float().flatten(2).transpose(1, 2)  # (B, N, C)
        frozen = {"freeze_codebook": True} if self.config.method in AVERAGED else {}
        own = [*self.module.named_parameters(), *self.module.named_buffers()]
        halves = {name: value.float() for name, value in own if value.dtype in (torch.float16, torch.bfloat16)}
        with torch.autocast(z.device.type, enabled=False):
            if halves:
                result = functional_call(self.module, halves, (rows,), frozen)
            else:
                result = self.module(rows, **frozen)
        z_q, found = result[:2]
        found = found.long().transpose(1, 2) if self.depth > 1 else found.long()
        if self.depth > 1:  # the package adds the gradients of all levels, as if z counted `depth` times
            z_q = straight_through(rows, z_q)
        loss = result[2] if self.config.method == "lfq" else z.new_zeros(())
        return z_q.transpose(1, 2).unflatten(2, (height, width)), found.unflatten(-1, (height, width)), loss

    def _chain(self, z: Tensor, codes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each level, what is quantized and its code, (B, C, h, w) each; z on the unit sphere where codes are."""
        if self.config.method != "residual":
            return [(F.normalize(z, dim=1) if self.config.method == "cosine" else z, self.lookup(codes).float())]
        chain = []
        for layer, grid in zip(self.module.layers, codes.unbind(1), strict=True):
            e = layer.get_codes_from_indices(grid).float().permute(0, 3, 1, 2)
            chain.append((z, e))
            z = z - e
        return chain


def _module(config: PackagedConfig, size: int, channels: int, levels: tuple[int, ...]) -> nn.Module:
    try:
        import vector_quantize_pytorch as package
    except ImportError as error:
        raise InputError(
            f"the quantizer {config.method} needs vector-quantize-pytorch ({error}): pip install 'sfumato[quantizers]'."
        ) from None
    turned = {"rotation_trick": config.rotation}
    averaged = {"decay": config.decay, "commitment_weight": 0.0, "threshold_ema_dead_code": 0, **turned}
    match config.method:
        case "ema" | "cosine":
            cosine = config.method == "cosine"
            return package.VectorQuantize(dim=channels, codebook_size=size, use_cosine_sim=cosine, **averaged)
        case "residual":
            return package.ResidualVQ(dim=channels, codebook_size=size, num_quantizers=config.depth, **averaged)
        case "simvq":
            return package.SimVQ(dim=channels, codebook_size=size, **turned)
        case "fsq":
            return package.FSQ(list(levels))
        case "lfq":
            return package.LFQ(dim=channels, codebook_size=size, entropy_loss_weight=config.entropy_weight)


def _sizes(x: Tensor) -> Tensor:
    """(B, ...) -> (B,) sums of squares."""
    return x.square().flatten(1).sum(1)
