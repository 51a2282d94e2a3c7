"""Networks without memory: names and shapes on the meta device, where filling them with initial values would be lost work.

with hollow():
    model = build_model(config)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode


@contextmanager
def hollow() -> Iterator[None]:
    """What is built inside is on the meta device, and `torch.nn.init` leaves it alone."""
    with torch.device("meta"), _Uninitialised():
        yield


class _Uninitialised(TorchFunctionMode):
    """Initialisation on the meta device runs through decompositions in Python: half the time that building takes."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == init.__name__:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)
