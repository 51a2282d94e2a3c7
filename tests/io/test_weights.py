"""Weights fit exactly or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.io.weights import load_strictly, read_weights, save_weights


def module() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))  # a BatchNorm also counts batches, in int64
    net[1].num_batches_tracked += 7
    return net


def test_round_trip_is_exact(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    tensors = {
        str(d): (torch.randn(5, 3, generator=rng) * 10).to(d)
        for d in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8)
    }
    tensors |= {"strided": torch.randn(4, 6).t(), "scalar": torch.tensor(3.0), "empty": torch.zeros(0, 2)}
    save_weights(tmp_path / "w.safetensors", tensors)
    back = read_weights(tmp_path / "w.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_half_precision_is_read_into_single() -> None:
    source, target = module().half(), module()
    load_strictly(target, source.state_dict(), "x")
    assert target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight, source[0].weight.float())


@pytest.mark.parametrize("data", [b"", b"12345678", b"\xff" * 100, b"\x05\x00\x00\x00\x00\x00\x00\x00{}", b"PK\x03\x04" * 9])
def test_unreadable_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(InputError, match="no such file"):
        read_weights(path)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"w\.safetensors is not a readable"):
        read_weights(path)


def missing(t: dict[str, Tensor]) -> str:
    del t["0.bias"]
    return "missing 0.bias"


def extra(t: dict[str, Tensor]) -> str:
    t["0.gain"] = torch.zeros(1)
    return "unexpected 0.gain"


def prefix(t: dict[str, Tensor]) -> str:
    for name in list(t):
        t[f"model.{name}"] = t.pop(name)
    return "missing 0.weight"


def transposed(t: dict[str, Tensor]) -> str:
    t["0.weight"] = t["0.weight"].t()
    return r"0.weight has shape \(3, 4\), expected \(4, 3\)"


def not_a_number(t: dict[str, Tensor]) -> str:
    t["1.running_mean"] = torch.tensor([0, float("nan"), 0, 0])
    return "1.running_mean is not finite"


def infinite(t: dict[str, Tensor]) -> str:
    t["0.weight"] = t["0.weight"].clone().index_fill_(0, torch.tensor(1), float("inf"))
    return "0.weight is not finite"


def integers(t: dict[str, Tensor]) -> str:
    t["0.weight"] = t["0.weight"].to(torch.int32)
    return "0.weight has type torch.int32"


def floats(t: dict[str, Tensor]) -> str:
    t["1.num_batches_tracked"] = torch.tensor(7.5)
    return "1.num_batches_tracked has type torch.float32"


@pytest.mark.parametrize("spoil", [missing, extra, prefix, transposed, not_a_number, infinite, integers, floats])
def test_what_does_not_fit_is_listed_and_nothing_loaded(spoil: object) -> None:
    target = module()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    tensors = {k: v + 1 for k, v in target.state_dict().items()}
    message = spoil(tensors)
    with pytest.raises(InputError, match=message) as caught:
        load_strictly(target, tensors, "the file")
    assert "the file does not fit" in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_long_lists_are_cut() -> None:
    with pytest.raises(InputError, match="and 23 more") as caught:
        load_strictly(nn.Identity(), {f"layer{i}": torch.zeros(1) for i in range(33)}, "x")
    assert str(caught.value).count("unexpected") == 10


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    save_weights(path, {"a": torch.arange(3.0)})
    assert torch.equal(read_weights(path)["a"], torch.arange(3.0))
