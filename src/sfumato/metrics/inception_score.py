"""Inception score: how sure a classifier is of each picture, and how various its answers are over all.

    IS = exp( E_x KL(p(y | x) || p(y)) ),    p(y) = E_x p(y | x)

(Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen 2016, arXiv 1606.03498, section 4.) From 1, where all pictures get one
answer, to the number of classes, where each gets one for sure and all are equally frequent. It never looks at real pictures.
The published number is the mean over ten parts of the set, which is lower than that of the whole: a part knows p(y) less well
(Barratt & Sharma 2018, arXiv 1801.01973, section 3.2).
"""

from __future__ import annotations

from itertools import pairwise

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
    scores = _scores(*_answers(logits), splits)
    return scores.mean().item(), scores.std(unbiased=False).item()


def inception_interval(
    logits: Tensor, rng: torch.Generator, *, splits: int = SPLITS, num_resamples: int = 200, level: float = 0.95
) -> Interval:
    """The score of (N, C) logits with its bootstrap interval, moved by the resamples' mean excess: p(y) of a resample has
    fewer different pictures, which biases the score once more."""
    value, _ = inception_score(logits, splits)
    p, sure = _answers(logits)
    draws = []
    for _ in range(num_resamples):
        index = torch.randint(len(p), (len(p),), generator=rng)
        draws.append(_scores(p[index], sure[index], splits).mean().item())
    spread = torch.tensor(draws, dtype=torch.float64)
    spread = spread - spread.mean() + value
    low, high = torch.quantile(spread, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Interval(value, low, high, level)


def _answers(logits: Tensor) -> tuple[Tensor, Tensor]:
    """p(y | x) (N, C), and sum_y p(y | x) log p(y | x) (N,)."""
    log_p = logits.double().log_softmax(1)
    return log_p.exp(), (log_p.exp() * log_p).sum(1)


def _scores(p: Tensor, sure: Tensor, splits: int) -> Tensor:
    """(splits,): log IS is the entropy of the mean answer less the mean entropy of the answers."""
    parts = [slice(a, b) for a, b in pairwise(i * len(p) // splits for i in range(splits + 1))]
    marginals = torch.stack([p[part].mean(0) for part in parts])  # (splits, C)
    certain = torch.stack([sure[part].mean() for part in parts])
    return (certain - torch.special.xlogy(marginals, marginals).sum(1)).exp()
