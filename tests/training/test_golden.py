"""Twenty deterministic steps of each stage against a committed file: a refactor leaves them equal.

The tolerance is 1e-4 relative, not 0, because convolution and matrix kernels differ in their last bits between
releases of PyTorch and between processors, and twenty steps of Adam amplify that. A wrong factor, sign, order of random
draws or initial value is larger by orders of magnitude.
"""

from __future__ import annotations

import json
import math

import pytest
from make_golden import GOLDEN, SHOWN, STEPS, losses


@pytest.fixture(scope="module")
def golden() -> dict[str, list[dict[str, float]]]:
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def found() -> dict[str, list[dict[str, float]]]:
    return losses()


@pytest.mark.parametrize("stage", SHOWN)
def test_losses_are_those_of_the_file(golden: dict[str, object], found: dict[str, object], stage: str) -> None:
    assert len(found[stage]) == len(golden[stage]) == STEPS
    for step, (ours, theirs) in enumerate(zip(found[stage], golden[stage], strict=True)):
        assert ours.keys() == theirs.keys(), f"step {step}"
        for name, value in theirs.items():
            assert math.isclose(ours[name], value, rel_tol=1e-4, abs_tol=1e-6), f"step {step}, {name}: {ours[name]}, {value}"


def test_the_file_sees_the_gan_begin(golden: dict[str, list[dict[str, float]]]) -> None:
    begun = ["discriminator/total" in row for row in golden["first_stage"]]
    assert begun == [False] * 10 + [True] * 10
