"""Cross-attention maps: how much each position of a feature map draws from each word.

    M = softmax(Q K^T / sqrt(d)),  Q from the latent's positions, K from the tokens tau(y),  rows of M sum to 1

(Rombach et al. 2021, arXiv 2112.10752, Sec. 3.3.) A word's map is the sum over its tokens; means over steps, layers and heads
are taken with every one of them counted alike, after maps of coarser layers are enlarged (as in Hertz et al. 2022,
arXiv 2208.01626, and Tang et al. 2022, arXiv 2210.04885, which sums them). A map says where a word was looked up, not what it
changed: tokens of a text encoder know of one another, and a pooled vector reaches every position without attention.

`recorded` watches a network: it computes the maps again beside the layer, so that what the network answers is the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.explain.words import Group
from sfumato.nn.attention import Attention

OnMaps = Callable[[int, Tensor], None]
"""(layer, from 0 in the order of the network's calls; maps (rows, H, N, L) fp32)."""


@contextmanager
def recorded(network: nn.Module, on_maps: OnMaps, rows: int = 1) -> Iterator[list[str]]:
    """While open, every cross-attention of `network` hands its maps for the first `rows` of its batch to `on_maps`.

    Yields the layers' names, filled as the network first comes to them. Guidance asks for the wanted condition first, so that
    these rows are told the prompt. Sampling costs what computing the maps costs, and nothing once the context is left.
    """
    names: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
            x, context, mask = (*given, None, None)[:3]
            if context is None:
                return  # self-attention
            if name not in names:
                names.append(name)
            assert isinstance(module, Attention)
            with torch.no_grad():
                found = module.maps(x[:rows], context[:rows], None if mask is None else mask[:rows])
            on_maps(names.index(name), found)

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in network.named_modules() if _attends(module)]
    try:
        yield names
    finally:
        for hook in hooks:
            hook.remove()


def _attends(module: nn.Module) -> bool:
    return isinstance(module, Attention)


def square(positions: int, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of a level with `positions` places in a network over latents of `size`, whose levels halve both sides."""
    factor = round(math.sqrt(size[0] * size[1] / positions))
    h, w = size[0] // max(factor, 1), size[1] // max(factor, 1)
    assert h * w == positions, f"{positions} positions are no level of latents of {size}"
    return h, w


@dataclass
class WordMaps:
    """Sums of the maps of one picture, by step and by layer and head, for groups of tokens; `add` is an `OnMaps` for 1 row.

    size: (h, w) of the latent. Call `next_step` before each call of the network.
    """

    groups: Sequence[Group]
    size: tuple[int, int]
    by_step: list[Tensor] = field(default_factory=list)  # (G, h, w): the sum over layers and heads
    by_layer: list[Tensor] = field(default_factory=list)  # (H, G, h', w'): the sum over steps
    counts: list[int] = field(default_factory=list)  # of heads that came in each step

    def next_step(self) -> None:
        """The network is about to be asked once more."""
        self.by_step.append(torch.zeros(len(self.groups), *self.size))
        self.counts.append(0)

    def add(self, layer: int, maps: Tensor) -> None:
        """Maps (1, H, N, L) of a layer."""
        one = maps[0].float()  # (H, N, L)
        grouped = torch.stack([one[..., list(group.tokens)].sum(2) for group in self.groups], 1)  # (H, G, N)
        grouped = grouped.unflatten(2, square(one.shape[1], self.size)).cpu()
        if layer == len(self.by_layer):
            self.by_layer.append(torch.zeros_like(grouped))
        self.by_layer[layer] += grouped
        self.by_step[-1] += enlarged(grouped, self.size).sum(0)
        self.counts[-1] += len(grouped)

    @property
    def num_steps(self) -> int:
        """Calls of the network so far."""
        return len(self.by_step)

    def steps(self) -> Tensor:
        """The mean map of each step, over layers and heads: (S, G, h, w), summing to 1 over groups. Raises `InputError`
        where the network has no cross-attention."""
        if not self.by_layer:
            raise InputError("this model's network has no cross-attention: what it is told reaches it as one vector.")
        return torch.stack([total / count for total, count in zip(self.by_step, self.counts, strict=True)])

    def layers(self) -> Tensor:
        """The mean map of each layer, over steps and heads: (K, G, h, w)."""
        return torch.stack([enlarged(total.mean(0) / self.num_steps, self.size) for total in self.by_layer])

    def heads(self, layer: int) -> Tensor:
        """The mean map of each head of a layer, over steps: (H, G, h, w)."""
        return enlarged(self.by_layer[layer] / self.num_steps, self.size)

    def mean(self) -> Tensor:
        """(G, h, w): over everything."""
        return self.steps().mean(0)

    def shares(self, maps: Tensor) -> Tensor:
        """What part of the attention each group got, over all positions: (..., G, h, w) -> (..., G), summing to 1."""
        return maps.mean((-2, -1))


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., h', w') -> (..., h, w), each place as often as it is larger: sums over groups stay 1."""
    h, w = maps.shape[-2:]
    if (h, w) == size:
        return maps
    flat = maps.reshape(-1, 1, h, w)
    return F.interpolate(flat, size=size, mode="nearest").reshape(*maps.shape[:-2], *size)
