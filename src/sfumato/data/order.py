"""The order in which a training run sees its pictures: a function of (count, seed, epoch) and nothing else.

The epochs' permutations are laid end to end to one endless stream; step s of a run with batch size B takes the
positions [s B, (s + 1) B). To resume needs only the step, every sample comes exactly once an epoch, and neither
the number of workers nor of machines changes the stream. A permutation is the argsort of SplitMix64 hashes
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), which are distinct for
distinct inputs, so that no library's random numbers are part of it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sfumato.errors import InputError

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def order(count: int, epoch: int, seed: int) -> Tensor:
    """(count,) int64 permutation of 0 ... count - 1 for one epoch."""
    return torch.from_numpy(_order(count, epoch, seed).copy())


def batch_indices(count: int, batch_size: int, seed: int, step: int) -> Tensor:
    """(batch_size,) int64 sample indices of step `step` (from 0); a batch may cross into the next epoch.

    Raises `InputError` for an empty data set or a batch size below 1.
    """
    if count < 1:
        raise InputError("0 pictures to draw a batch from; give a folder with pictures.")
    if batch_size < 1 or step < 0:
        raise InputError(f"batch size {batch_size}, step {step}; expected at least 1 and 0.")
    parts, position, end = [], step * batch_size, (step + 1) * batch_size
    while position < end:
        epoch, start = divmod(position, count)
        stop = min(count, start + end - position)
        parts.append(_order(count, epoch, seed)[start:stop])
        position += stop - start
    return torch.from_numpy(np.concatenate(parts))


@lru_cache(maxsize=4)
def _order(count: int, epoch: int, seed: int) -> npt.NDArray[np.int64]:
    start = _splitmix(np.array([(seed & _MASK)], dtype=np.uint64))
    start = _splitmix(start + np.array([epoch & _MASK], dtype=np.uint64))
    index = np.arange(count, dtype=np.uint64)
    permutation = np.argsort(_splitmix(start + index * _GAMMA), kind="stable").astype(np.int64)
    permutation.setflags(write=False)  # it is shared by all callers
    return permutation


def _splitmix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The SplitMix64 step: a bijection of 64-bit integers, arithmetic modulo 2^64."""
    x = x + _GAMMA
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
