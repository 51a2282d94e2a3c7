"""Weights fit exactly or not at all, and take no more memory than they are large."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.interop.assign import assign
from sfumato.interop.checkpoint import open_checkpoint
from sfumato.interop.hollow import hollow
from sfumato.interop.index import Held, Joined, SourceFile, TensorEntry, TensorIndex, contiguous_stride, loadables


class Network(nn.Module):
    """Two convolutions, a norm with a counter, a buffer: what a denoiser is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.b = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))
        self.register_buffer("scale_factor", torch.tensor(0.18215))


def on_meta() -> Network:
    with torch.device("meta"):
        return Network()


@pytest.fixture
def trained() -> dict[str, Tensor]:
    torch.manual_seed(3)
    network = Network()
    network.norm.num_batches_tracked += 41
    return network.state_dict()


def saved(path: Path, tensors: dict[str, Tensor], kind: str = "safetensors") -> TensorIndex:
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    return open_checkpoint(path).index


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16, torch.bfloat16])
def test_the_module_gets_every_bit(tmp_path: Path, trained: dict[str, Tensor], kind: str, dtype: torch.dtype | None) -> None:
    network = on_meta()
    assign(network, saved(tmp_path / "x", trained, kind), "x", dtype=dtype)
    for name, tensor in network.state_dict().items():
        expected = trained[name].to(dtype) if dtype and trained[name].is_floating_point() else trained[name]
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected)
    assert not any(t.is_meta for t in (*network.parameters(), *network.buffers()))
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in network.parameters())


def test_half_files_fill_single_modules(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    network = on_meta()
    assign(network, saved(tmp_path / "x", {k: v.half() if v.is_floating_point() else v for k, v in trained.items()}), "x")
    assert network.a.weight.dtype == torch.float32
    assert torch.equal(network.a.weight, trained["a.weight"].half().float())


def test_equal_types_are_not_copied(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    network, index = on_meta(), saved(tmp_path / "x", trained)
    assign(network, index, "x")
    assert network.a.weight.data_ptr() == index["a.weight"].read().data_ptr()
    network.a.weight.data.zero_()  # what is mapped can be trained, and the file stays
    assert torch.equal(open_checkpoint(tmp_path / "x").index["a.weight"].read(), trained["a.weight"])


def spoil(tensors: dict[str, Tensor], how: str) -> str:
    """Damage some weights; returns what the message must say."""
    match how:
        case "missing":
            del tensors["a.bias"]
            return "missing a.bias"
        case "extra":
            tensors["other"] = torch.ones(1)
            return "unexpected other"
        case "shape":
            tensors["a.weight"] = torch.ones(4, 3, 3, 4)
            return "a.weight has shape (4, 3, 3, 4), expected (4, 3, 3, 3)"
        case "transposed":
            tensors["a.weight"] = tensors["a.weight"].transpose(0, 1).contiguous()
            return "a.weight has shape (3, 4, 3, 3), expected (4, 3, 3, 3)"
        case "whole numbers":
            tensors["a.bias"] = torch.ones(4, dtype=torch.int64)
            return "a.bias has type int64, expected float32"
        case "truth values":
            tensors["norm.num_batches_tracked"] = torch.tensor(True)
            return "norm.num_batches_tracked has type bool, expected int64"
        case "prefix":
            for name in list(tensors):
                tensors[f"model.{name}"] = tensors.pop(name)
            return "and 30 more"  # twenty are missing and twenty unexpected; ten are shown
        case "half the model":
            for name in [n for n in tensors if n.startswith("b.")]:
                del tensors[name]
            return "missing b.4.bias; and 2 more"
    raise AssertionError(how)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize(
    "how", ["missing", "extra", "shape", "transposed", "whole numbers", "truth values", "prefix", "half the model"]
)
def test_misfits_leave_the_module_as_it_was(tmp_path: Path, trained: dict[str, Tensor], kind: str, how: str) -> None:
    network, tensors = on_meta(), dict(trained)
    part = spoil(tensors, how)
    with pytest.raises(InputError, match=r"^the file does not fit: ") as caught:
        assign(network, saved(tmp_path / "x", tensors, kind), "the file")
    assert part in str(caught.value)
    assert str(caught.value).count(";") <= 10
    assert all(t.is_meta for t in (*network.parameters(), *network.buffers()))


def test_a_failing_read_leaves_the_module_as_it_was(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    network, index = on_meta(), saved(tmp_path / "x", trained)
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(InputError, match="was changed"):
        assign(network, index, "x", dtype=torch.float16)
    assert all(t.is_meta for t in (*network.parameters(), *network.buffers()))


def test_buffers_outside_the_state_dict_are_ours(tmp_path: Path) -> None:
    with torch.device("meta"):
        network = nn.Linear(2, 2)
        network.register_buffer("table", torch.ones(3), persistent=False)
    with pytest.raises(AssertionError, match="table"):
        assign(network, saved(tmp_path / "x", nn.Linear(2, 2).state_dict()), "x")


def test_views_of_entries(tmp_path: Path) -> None:
    """Splitting, reshaping and turning without reading: what key maps need. torch does the same to the tensor."""
    tensor = torch.randn(12, 5, 1, 1)
    entry = saved(tmp_path / "x", {"first": torch.ones(3), "qkv": tensor})["qkv"]
    cases = {
        "reshape": (entry.reshape(12, 5), tensor.reshape(12, 5)),
        "narrow": (entry.narrow(0, 4, 4), tensor.narrow(0, 4, 4)),
        "inner": (entry.reshape(12, 5).narrow(1, 1, 3), tensor.reshape(12, 5).narrow(1, 1, 3)),
        "permute": (entry.reshape(12, 5).permute(1, 0), tensor.reshape(12, 5).t()),
        "both": (entry.reshape(3, 4, 5).permute(2, 0, 1).narrow(0, 2, 2), tensor.reshape(3, 4, 5).permute(2, 0, 1)[2:4]),
    }
    for name, (found, expected) in cases.items():
        assert found.shape == tuple(expected.shape), name
        assert torch.equal(found.read(), expected), name
        assert torch.equal(found.read(torch.float16), expected.half()), name
    parts = tuple(entry.narrow(0, start, 4) for start in (8, 0, 4))
    joined = Joined(parts)
    assert (joined.shape, joined.dtype) == ((12, 5, 1, 1), torch.float32)
    assert torch.equal(joined.read(), torch.cat([tensor[8:], tensor[:4], tensor[4:8]]))
    assert torch.equal(Joined(parts, 1).read(torch.bfloat16), torch.cat([tensor[8:], tensor[:4], tensor[4:8]], 1).bfloat16())
    with pytest.raises(AssertionError, match="no such shape"):
        entry.reshape(12, 5).permute(1, 0).reshape(60)
    with pytest.raises(AssertionError, match="is not in 12"):
        entry.narrow(0, 9, 4)


def test_joined_and_split_entries_fill_modules(tmp_path: Path) -> None:
    fused = torch.randn(6, 2)
    index = saved(tmp_path / "x", {"qkv": fused, "bias": torch.ones(6)})
    with torch.device("meta"):
        network = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in "qkv"})
    assign(network, {f"{n}.weight": index["qkv"].narrow(0, 2 * i, 2) for i, n in enumerate("qkv")}, "x")
    assert torch.equal(torch.cat([network[n].weight for n in "qkv"]), fused)


def test_entries_stay_inside_their_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(40))
    file = SourceFile(tmp_path / "x")
    TensorEntry(torch.float32, (2, 5), (5, 1), file, 0)
    TensorEntry(torch.float32, (1000, 0), (1, 1), file, 40)
    for shape, stride, offset in [
        ((2, 5), (5, 1), 4), ((11,), (1,), 0), ((2,), (10,), 0), ((2, 2), (2**40, 1), 0), ((1,), (1,), 37), ((1,), (1,), -4),
        ((-1,), (1,), 0), ((1,), (-1,), 0), ((2, 5), (1,), 0), ((0,), (1,), 41),
    ]:  # fmt: skip
        with pytest.raises(InputError, match="outside the file"):
            TensorEntry(torch.float32, shape, stride, file, offset)


def test_an_index_by_parts_of_names(tmp_path: Path) -> None:
    index = saved(tmp_path / "x", {"m.a": torch.ones(2), "m.b": torch.zeros(3), "n.a": torch.ones(4, dtype=torch.float16)})
    assert list(index.under("m.")) == ["a", "b"]
    assert list(index.under("m.").prefixed("k.")) == ["k.a", "k.b"]
    assert index.renamed({"z": "n.a"})["z"] is index["n.a"]
    assert (index.numel, index.nbytes, index.dtypes) == (9, 28, {torch.float32: 5, torch.float16: 4})
    with pytest.raises(KeyError):
        index.renamed({"z": "none"})
    assert contiguous_stride((2, 3, 4)) == torch.empty(2, 3, 4).stride()
    assert contiguous_stride((2, 0, 4)) == torch.empty(2, 0, 4).stride()


MEASURE = """
import sys, resource, torch
from torch import nn
from sfumato.interop.assign import assign
from sfumato.interop.checkpoint import open_checkpoint
with torch.device("meta"):
    network = nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(int(sys.argv[2])))
def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
small = torch.ones(64, 64) @ torch.ones(64, 64)  # what the first product sets up is not ours
index = open_checkpoint(sys.argv[1]).index
before = peak()
assign(network, index, "x", dtype=getattr(torch, sys.argv[3]))
for p in network.parameters():
    p.detach().view(-1).view(torch.uint8)[::4096].sum()  # every page is there
used = peak() - before
print(used, sum(p.sum(dtype=torch.float64).item() for p in network.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_peak_memory(tmp_path: Path, kind: str, dtype: str) -> None:
    """At most 1.2 of the weights in the requested type, and what an allocator may round up to, 8 MB."""
    count, rng = 48, torch.Generator().manual_seed(0)
    tensors = {f"{i}.weight": torch.randn(1024, 1024, generator=rng) for i in range(count)}
    saved(tmp_path / "x", tensors, kind)
    expected = sum(t.to(getattr(torch, dtype)).sum(dtype=torch.float64).item() for t in tensors.values())
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "x"), str(count), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    used, total = done.stdout.split()
    weights = count * 2**20 * getattr(torch, dtype).itemsize
    assert float(total) == pytest.approx(expected)
    assert int(used) < 1.2 * weights + 2**23


@pytest.mark.parametrize("kind", ["safetensors", "zip"])  # legacy files have numbers at odd places, which are copied
def test_views_of_the_file_become_entries_again(tmp_path: Path, kind: str) -> None:
    given = {"a": torch.randn(6, 4), "b": torch.randn(2, 3, 1, 1), "c": torch.arange(5)}
    index = saved(tmp_path / "one", given, kind)
    other = saved(tmp_path / "two", {"d": torch.randn(3, 3)}, kind)
    read = index.read()
    views = {
        "q": read["a"].chunk(3)[1], "t": read["a"].T, "m": read["b"].reshape(2, 3), "c": read["c"], "whole": read["a"],
        "s": read["a"][1::2, 2],
    }  # fmt: skip
    own = {"copy": read["a"].T.contiguous(), "none": read["a"][:0], "stranger": other["d"].read()}
    found = loadables(index, views | own)
    assert {name for name, one in found.items() if isinstance(one, TensorEntry)} == set(views)
    assert all(isinstance(found[name], Held) for name in own)
    for name, value in (views | own).items():
        assert found[name].shape == tuple(value.shape)
        for dtype in (None, torch.float32, torch.float16):
            assert torch.equal(found[name].read(dtype), value if dtype is None or name == "c" else value.to(dtype)), name


def test_hollow_networks_have_names_and_shapes_and_no_memory() -> None:
    with hollow():
        found = Network()
        free = nn.init.normal_(torch.empty(3))
    assert {n: v.shape for n, v in found.state_dict().items()} == {n: v.shape for n, v in Network().state_dict().items()}
    assert all(value.is_meta for value in (*found.state_dict().values(), free))
    assert bool(nn.Linear(2, 2).weight.abs().sum() > 0)  # outside, initialisation is as it was
