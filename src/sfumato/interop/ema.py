"""The authors' averaged weights (LitEma of CompVis/latent-diffusion): stored under names without their dots.

    P "model_ema." squeeze(name)  =  average of  P S name,    squeeze(name) = name without "."

P is where the averaged model stands in the checkpoint, S is "model." for a diffusion model (it averages its network only)
and nothing for an autoencoder that averages itself. Buffers and frozen parameters have no average, and two counters
("decay", "num_updates") have no parameter. The authors sample from the averages, so they are the default.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from sfumato.errors import InputError
from sfumato.interop.assign import MOST_SHOWN
from sfumato.interop.index import TensorIndex

EMA = "model_ema."
COUNTERS = ("decay", "num_updates")


class Weights(enum.Enum):
    """Which of a checkpoint's weights are used. `ema`: averages where there are any, what was trained otherwise."""

    ema = "ema"
    raw = "raw"


@dataclass(frozen=True)
class Averages:
    """`names`: parameter -> its average. `counters`: the two that belong to no parameter. Full names of the file."""

    names: dict[str, str]
    counters: tuple[str, ...]


def averages(names: Iterable[str]) -> Averages:
    """Pair averages with parameters. Raises `InputError` for averages of nothing, and where two names squeeze into one."""
    names = list(names)
    stored = [name for name in names if name.startswith(EMA) or f".{EMA}" in name]
    found: dict[str, str] = {}
    counters: list[str] = []
    orphans: list[str] = []
    for owner in sorted({name[: name.index(EMA)] for name in stored}):
        prefix = owner + EMA
        raw = _squeezed(owner, [name for name in names if name.startswith(owner) and name not in stored])
        for name in stored:
            if not name.startswith(prefix):
                continue
            squeezed = name.removeprefix(prefix)
            if squeezed in raw:
                if len(raw[squeezed]) > 1:
                    raise InputError(f"{name} may be the average of {' or of '.join(raw[squeezed][:2])}; read the raw weights.")
                found[raw[squeezed][0]] = name
            elif squeezed in COUNTERS:
                counters.append(name)
            else:
                orphans.append(name)
    if orphans:
        more = f"; and {len(orphans) - MOST_SHOWN} more" if orphans[MOST_SHOWN:] else ""
        shown = "; ".join(orphans[:MOST_SHOWN])
        raise InputError(f"averages of parameters that are not there: {shown}{more}. Read the raw weights.")
    return Averages(found, tuple(counters))


def _squeezed(owner: str, names: list[str]) -> dict[str, list[str]]:
    """Names by themselves without dots, below `owner` and its "model." if it has one."""
    scope = owner + "model." if any(name.startswith(owner + "model.") for name in names) else owner
    raw: dict[str, list[str]] = {}
    for name in names:
        if name.startswith(scope):
            raw.setdefault(name.removeprefix(scope).replace(".", ""), []).append(name)
    return raw


def choose(index: TensorIndex, weights: Weights = Weights.ema) -> TensorIndex:
    """The index without what `averages` pairs: parameters by their own names, averaged where `weights` says so.

    Raises `InputError` as `averages` does, except for raw weights, which need no pairs.
    """
    if weights is Weights.raw:
        return TensorIndex({n: e for n, e in index.items() if not (n.startswith(EMA) or f".{EMA}" in n)})
    paired = averages(index)
    gone = {*paired.names.values(), *paired.counters}
    odd = [n for n, average in paired.names.items() if index[n].shape != index[average].shape]
    if odd:
        raise InputError(f"{odd[0]} and its average differ in shape; read the raw weights, or restore the file.")
    return TensorIndex({n: index[paired.names.get(n, n)] for n in index if n not in gone})
