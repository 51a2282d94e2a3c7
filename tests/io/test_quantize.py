"""Int8 by output channel: half a step of error and no more, exact where it can be, and damage said in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.io.quantize import quantize
from sfumato.io.storage import Storage
from sfumato.io.weights import pack, read_storage, read_weights, save_weights

SHAPES = [(64, 96, 3, 3), (300, 32), (5, 1), (1, 7), (16, 16, 1, 1)]  # convolution, table, tiny rows, one row


def weight(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Gaussian rows of very different size, down to 1e-20, as barely trained layers have them."""
    rng = torch.Generator().manual_seed(seed)
    size = 10 ** (torch.rand(shape[0], generator=rng) * 25 - 20)
    return torch.randn(shape, generator=rng) * size.view(-1, *[1] * (len(shape) - 1))


def rows(tensor: Tensor) -> Tensor:
    return tensor.double().flatten(1)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_weight_is_off_by_more_than_half_a_step(shape: tuple[int, ...]) -> None:
    w = weight(shape)
    made = quantize(w)
    assert (made.q.dtype, made.q.shape) == (torch.int8, shape)
    assert (made.scale.dtype, made.scale.shape) == (torch.float32, shape[:1])
    step = made.scale.double()[:, None]
    error = (rows(made.weight()) - rows(w)).abs()
    assert (error <= step / 2 * (1 + 2e-5)).all()  # w / s is rounded to fp32: off by at most 127 * 2^-24 of a step
    assert made.q.abs().max() <= 127
    largest = rows(w).abs().amax(1) / 127
    assert torch.allclose(step[:, 0], largest, rtol=2**-15, atol=0)  # 16 bits of scale, of an fp32 quotient


def test_the_error_is_that_of_uniform_rounding() -> None:
    """Uniform within a step: variance s^2 / 12. 100 rows of 10,000 numbers; the mean of squares then scatters by 0.1 %."""
    rng = torch.Generator().manual_seed(1)
    w = torch.randn(100, 10_000, generator=rng)
    made = quantize(w)
    error = (made.weight() - w).double() / made.scale.double()[:, None]
    assert float(error.square().mean()) == pytest.approx(1 / 12, rel=0.01)
    assert abs(float(error.mean())) < 2e-3  # of a step: rounding is to the nearest, not down


def test_multiples_of_a_step_are_exact() -> None:
    rng = torch.Generator().manual_seed(2)
    q = torch.randint(-127, 128, (6, 5, 3, 3), generator=rng)
    q[:, 0, 0, 0] = 127
    step = torch.tensor([1.0, 2.0**-40, 3 * 2.0**-9, 2.0**30, 65535 * 2.0**-22, 0.0])  # at most 16 bits each
    w = q * step.view(-1, 1, 1, 1)
    made = quantize(w)
    assert torch.equal(made.weight(), w)
    assert torch.equal(made.scale, step)
    assert torch.equal(made.q[:5], q[:5].to(torch.int8))
    assert not made.q[5].any()


def test_a_second_time_changes_nothing() -> None:
    once = quantize(weight((300, 40)))
    twice = quantize(once.weight())
    assert torch.equal(once.q, twice.q)
    assert torch.equal(once.scale, twice.scale)


def tensors() -> dict[str, Tensor]:
    w = weight((4, 6))
    w[2] = 0
    return {
        "a.weight": w,
        "a.bias": torch.tensor([0.1, 0.2, 1e-3]),
        "norm.gain": torch.ones(5, dtype=torch.float64),
        "exact.map": weight((3, 3)),
        "count": torch.tensor(7),
        "rank": torch.arange(6).view(2, 3),
        "empty": torch.zeros(0, 2),
    }


def test_what_is_stored_how() -> None:
    given = tensors()
    half, one = torch.float16, torch.float32
    as_is = {"exact.map": one, "count": torch.int64, "rank": torch.int64}
    small = {"a.bias": half, "norm.gain": half, "empty": half}
    expected = {
        Storage.fp32: as_is | dict.fromkeys(["a.weight", *small], one),
        Storage.fp16: as_is | small | {"a.weight": half},
        Storage.int8: as_is | small | {"a.weight": torch.int8, "a.weight.int8_scale": one},
    }
    for storage, types in expected.items():
        assert {k: v.dtype for k, v in pack(given, storage, ("exact.",)).items()} == types


def test_a_file_gives_back_fp32_under_the_names_it_was_given(tmp_path: Path) -> None:
    given, path = tensors(), tmp_path / "w.safetensors"
    save_weights(path, pack(given, Storage.int8, ("exact.",)))
    back = read_weights(path)
    assert back.keys() == given.keys()
    assert back["a.weight"].dtype == torch.float32
    assert torch.equal(back["a.weight"], quantize(given["a.weight"]).weight())
    assert not back["a.weight"][2].any()
    assert all(torch.equal(back[k], given[k]) for k in ("exact.map", "count", "rank"))
    assert torch.equal(back["a.bias"], given["a.bias"].half())


@pytest.mark.parametrize("storage", list(Storage))
def test_a_file_says_how_it_is_stored(tmp_path: Path, storage: Storage) -> None:
    save_weights(tmp_path / "w.safetensors", pack(tensors(), storage, ("exact.",)))
    assert read_storage(tmp_path / "w.safetensors") is storage
    (tmp_path / "w.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="not a readable safetensors"):
        read_storage(tmp_path / "w.safetensors")


SCALE = "a.weight.int8_scale"
DAMAGE: dict[str, Callable[[dict[str, Tensor]], object]] = {
    r"a\.weight is int8 and has no a\.weight\.int8_scale": lambda t: t.pop(SCALE),
    r"int8_scale belongs to no such tensor": lambda t: t.pop("a.weight"),
    r"belongs to torch\.float16 of shape \(4, 6\)": lambda t: t.update({"a.weight": torch.zeros(4, 6).half()}),
    r"belongs to torch\.int8 of shape \(4,\)": lambda t: t.update({"a.weight": torch.zeros(4, dtype=torch.int8)}),
    r"of shape \(5,\), expected torch\.float32 of \(4,\)": lambda t: t.update({SCALE: torch.ones(5)}),
    r"of shape \(4, 1\), expected": lambda t: t.update({SCALE: torch.ones(4, 1)}),
    r"is torch\.float64 of shape": lambda t: t.update({SCALE: torch.ones(4, dtype=torch.float64)}),
    r"is torch\.int8 of shape": lambda t: t.update({SCALE: torch.ones(4, dtype=torch.int8)}),
    r"is not finite and 0 or more": lambda t: t.update({SCALE: torch.tensor([1, float("nan"), 1, 1])}),
    r"int8_scale is not finite and 0": lambda t: t.update({SCALE: torch.tensor([1, 1, 1, float("inf")])}),
    r"weight\.int8_scale is not finite and 0": lambda t: t.update({SCALE: torch.tensor([1, -1.0, 1, 1])}),
}


@pytest.mark.parametrize("words", DAMAGE)
def test_damage_is_one_line(tmp_path: Path, words: str) -> None:
    packed, path = pack(tensors(), Storage.int8, ("exact.",)), tmp_path / "w.safetensors"
    DAMAGE[words](packed)
    save_weights(path, packed)
    with pytest.raises(InputError, match=words) as caught:
        read_weights(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_hidden(tmp_path: Path, value: float) -> None:
    w = weight((4, 6))
    w[1, 2] = value
    save_weights(tmp_path / "w.safetensors", pack({"w": w}, Storage.int8))
    with pytest.raises(InputError, match="not finite"):
        read_weights(tmp_path / "w.safetensors")
