"""Inception score: how sure a classifier is of each picture, and how various its answers are over all.

    IS = exp( E_x KL(p(y | x) || p(y)) ),    p(y) = E_x p(y | x)

(Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen 2016, arXiv 1606.03498, section 4.) From 1, where all pictures get the same
answer, to the number of classes, where each gets one for sure and all are equally frequent. It never looks at real pictures.
The published number is the mean over ten parts of the set, which is lower than that of the whole: a part knows p(y) less well
(Barratt & Sharma 2018, arXiv 1801.01973, section 3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.metrics.bootstrap import Interval

SPLITS = 10


def inception_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """(N, C) logits of a classifier -> mean and standard deviation (divided by `splits`) of the score over consecutive parts.

    Parts are as equal as can be; shuffle the pictures beforehand where their order says something. Needs N >= splits.
    """
    if logits.ndim != 2 or splits < 1 or len(logits) < splits:
        raise ValueError(f"{splits} inception scores need (N, C) logits with N of at least that, not {tuple(logits.shape)}.")
    bounds = [i * len(logits) // splits for i in range(splits + 1)]
    scores = torch.stack([_score(logits[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)])
    return scores.mean().item(), scores.std(unbiased=False).item()


def inception_interval(
    logits: Tensor, rng: torch.Generator, *, splits: int = SPLITS, num_resamples: int = 200, level: float = 0.95
) -> Interval:
    """The score of (N, C) logits with its bootstrap interval, moved by the resamples' mean excess: p(y) of a resample has
    fewer different pictures, which biases the score once more."""
    value, _ = inception_score(logits, splits)
    draws = []
    for _ in range(num_resamples):
        index = torch.randint(len(logits), (len(logits),), generator=rng)
        draws.append(inception_score(logits[index], splits)[0])
    spread = torch.tensor(draws, dtype=torch.float64)
    spread = spread - spread.mean() + value
    low, high = torch.quantile(spread, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Interval(value, low, high, level)


def _score(logits: Tensor) -> Tensor:
    """log IS = E sum_y p(y | x) log p(y | x) - sum_y p(y) log p(y): the entropy of the mean less the mean entropy."""
    log_p = logits.double().log_softmax(1)
    marginal = log_p.exp().mean(0)
    sure = (log_p.exp() * log_p).sum(1).mean()
    return (sure - torch.special.xlogy(marginal, marginal).sum()).exp()
