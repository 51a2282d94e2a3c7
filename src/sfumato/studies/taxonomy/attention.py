"""Queries, keys and values on a caption of three words, in numbers that can be followed by hand.

    q = W_q h,   k_i = W_k e_i,   v_i = W_v e_i,   a = softmax(q . k_i / sqrt(d)),   out = sum_i a_i v_i

(Vaswani et al. 2017, arXiv 1706.03762, eq. 1; of a picture to its caption: Rombach et al. 2021, arXiv 2112.10752, Sec. 3.3.)
The numbers are those of `nn.attention.Attention` with these weights, one head and d = 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.nn.attention import Attention

WORDS = ("a", "red", "fox")
TOKENS = ((0.1, 0.1), (1.0, 0.2), (0.3, 1.0))  # one row a word: how much of a colour, how much of a thing
PLACES = {"a place of fur": (1.0, 0.2), "the outline": (0.1, 1.0)}
W_Q = ((3.0, 0.0), (0.0, 3.0))
W_K = ((1.0, 0.0), (0.0, 1.0))
W_V = ((2.0, 0.0), (-1.0, 1.0))


@dataclass(frozen=True)
class Place:
    """What one place of the picture asks, and what it is told: query (2,), scores and weights (3,), out (2,)."""

    name: str
    feature: tuple[float, ...]
    query: tuple[float, ...]
    scores: tuple[float, ...]
    weights: tuple[float, ...]
    out: tuple[float, ...]


@dataclass(frozen=True)
class Worked:
    """keys, values: (3, 2), one row a word, the same for every place."""

    keys: tuple[tuple[float, ...], ...]
    values: tuple[tuple[float, ...], ...]
    places: tuple[Place, ...]


def attention() -> Attention:
    """The module with the weights above; its last map is the identity."""
    module = Attention(2, heads=1, head_dim=2, context_dim=2)
    with torch.no_grad():
        for layer, weight in ((module.to_q, W_Q), (module.to_k, W_K), (module.to_v, W_V)):
            layer.weight.copy_(torch.tensor(weight))
        module.to_out.weight.copy_(torch.eye(2))
        module.to_out.bias.zero_()
    return module


@torch.no_grad()
def worked() -> Worked:
    """The example; `out` is what the module answers, the rest are its own maps on the way."""
    module, tokens = attention(), torch.tensor(TOKENS)
    keys, values = module.to_k(tokens), module.to_v(tokens)  # (3, 2)
    places = []
    for name, feature in PLACES.items():
        h = torch.tensor([feature])
        query = module.to_q(h)
        scores = (query @ keys.T)[0] / math.sqrt(2)
        out = module(h[None], tokens[None])[0, 0]
        places.append(Place(name, feature, _row(query[0]), _row(scores), _row(scores.softmax(0)), _row(out)))
    return Worked(tuple(_row(k) for k in keys), tuple(_row(v) for v in values), tuple(places))


def _row(x: Tensor) -> tuple[float, ...]:
    return tuple(float(v) for v in x)
