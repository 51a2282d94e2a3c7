"""torch.save's files read without torch.load: every tensor is bit for bit what torch.load says, or what was saved."""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hostile import rewrite, streams
from sfumato.errors import InputError
from sfumato.interop.checkpoint import open_checkpoint
from sfumato.interop.files import Kind

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WHOLES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
EIGHTS = (torch.float8_e4m3fn, torch.float8_e5m2)  # these and the next are saved as a storage without a type
UNTYPED = (torch.uint16, torch.uint32, torch.uint64)


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def assert_same(got: Tensor, expected: Tensor) -> None:
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert got.stride() == expected.stride()
    assert bits(got) == bits(expected)


def state(legacy: bool = False) -> dict[str, Tensor]:
    """Types, views and shared storages, as they occur and as they don't."""
    rng = torch.Generator().manual_seed(1)
    base = torch.randn(10, 20, generator=rng)
    found: dict[str, Tensor] = {
        f"types.{t}": (torch.randn(3, 5, generator=rng) * 50).to(t) for t in (*FLOATS, *WHOLES, torch.complex64)
    }
    if not legacy:  # the old format cannot hold them; torch.load fails on what torch.save writes
        found |= {f"types.{t}": torch.randn(3, 5, generator=rng).to(t) for t in EIGHTS}
        found |= {f"types.{t}": torch.randint(0, 200, (3, 5), generator=rng).to(t) for t in UNTYPED}
    return found | {
        "whole": base,
        "slice": base[2:5, 3::4],
        "transposed": base.t(),
        "row": base[3],
        "expanded": torch.randn(1, 4, generator=rng).expand(3, 4),
        "diagonal": base.diagonal(),
        "scalar": torch.tensor(3.25),
        "empty": torch.zeros(0, 7),
        "channels_last": torch.randn(2, 3, 4, 5, generator=rng).to(memory_format=torch.channels_last),
        "parameter": nn.Parameter(torch.randn(6, generator=rng)),
        "frozen": nn.Parameter(torch.randn(6, generator=rng), requires_grad=False),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
    }


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_every_type_and_view(tmp_path: Path, legacy: bool, protocol: int) -> None:
    path, saved = tmp_path / "model.ckpt", state(legacy)
    torch.save({"state_dict": saved}, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    found = open_checkpoint(path)
    assert found.kind is (Kind.torch_legacy if legacy else Kind.torch_zip)
    assert list(found.index) == list(saved)
    # torch.load(weights_only=True) reads protocol 2 only, and is the second witness there
    expected = torch.load(path, weights_only=True)["state_dict"] if protocol == 2 else saved
    for name, tensor in found.index.read().items():
        assert_same(tensor, expected[name])
        assert_same(tensor, saved[name])
        assert found.index[name].nbytes == saved[name].numel() * saved[name].dtype.itemsize


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_whole_network(tmp_path: Path, legacy: bool) -> None:
    """OrderedDict with its `_metadata`, bare, with a counter of whole numbers."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4, bias=False))
    assert network.state_dict()._metadata
    path = tmp_path / "anything.at.all"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    found, expected = open_checkpoint(path), torch.load(path, weights_only=True)
    assert list(found.index) == list(expected)
    for name, tensor in expected.items():
        assert_same(found.index[name].read(), tensor)
    assert found.index.numel == sum(t.numel() for t in network.state_dict().values())


def test_shared_storages_stay_shared(tmp_path: Path) -> None:
    base = torch.randn(100)
    torch.save({"a": base, "b": base[10:20]}, tmp_path / "x.pt")
    index = open_checkpoint(tmp_path / "x.pt").index
    assert index["b"].offset == index["a"].offset + 40
    assert index["a"].read().untyped_storage().data_ptr() == index["a"].read().untyped_storage().data_ptr()  # no copies
    assert torch.equal(index["b"].read(), base[10:20])


def test_legacy_storages_at_odd_places(tmp_path: Path) -> None:
    """The old format puts storages one after the other, so that numbers of four bytes begin anywhere."""
    saved = {f"{n}": torch.randn(n) if n % 2 else torch.arange(n, dtype=torch.uint8) for n in range(1, 12)}
    odd = 0
    for length in range(4):  # of a text before them: the order of storages is that of their addresses, and so by chance
        torch.save({**saved, "text": "x" * length}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
        index = open_checkpoint(tmp_path / "x.pt").index
        odd += any(entry.offset % entry.dtype.itemsize for entry in index.values())
        for name, tensor in saved.items():
            assert_same(index[name].read(), tensor)
            assert index[name].read().data_ptr() % tensor.dtype.itemsize == 0
    assert odd


def test_legacy_views_of_a_storage(tmp_path: Path) -> None:
    """Before 0.4 a storage could be a part of another: (key, first element, length) behind the whole's own facts."""
    torch.save({"a": torch.arange(10.0)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    parts = streams((tmp_path / "x.pt").read_bytes())
    old = b"K\nNtq"  # 10 elements, no view
    assert parts[3].count(old) == 1
    new = b"K\n" + b"(X\x01\x00\x00\x00vK\x03K\x05t" + b"tq"
    parts[3] = parts[3].replace(old, new).replace(b"K\x00K\n\x85", b"K\x00K\x05\x85")
    (tmp_path / "x.pt").write_bytes(b"".join(parts))
    assert torch.equal(open_checkpoint(tmp_path / "x.pt").index["a"].read(), torch.arange(3.0, 8.0))
    assert torch.equal(torch.load(tmp_path / "x.pt", weights_only=True)["a"], torch.arange(3.0, 8.0))


class Odd:
    """Something that is no tensor and whose module is made up below."""


def lightning() -> dict[str, Any]:
    """What training scripts leave beside the weights; classes under the names that they had."""
    classes = {}
    for name in (
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", "omegaconf.dictconfig.DictConfig",
        "omegaconf.base.ContainerMetadata", "omegaconf.nodes.AnyNode", "pytorch_lightning.utilities.parsing.AttributeDict",
    ):  # fmt: skip
        module, _, last = name.rpartition(".")
        base = (dict,) if last == "AttributeDict" else (Odd,)
        classes[last] = type(last, base, {"__module__": module, "__qualname__": last})
    config = classes["DictConfig"]()
    config.__dict__ |= {"_metadata": classes["ContainerMetadata"](), "_content": {"a": classes["AnyNode"]()}, "_parent": None}
    return {
        "callbacks": {classes["ModelCheckpoint"]: {"best_model_score": torch.tensor(0.1), "best_model_path": "x/y.ckpt"}},
        "hyper_parameters": classes["AttributeDict"](lr=1e-4, config=config),
        "optimizer_states": [
            {"state": {0: {"step": 3, "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": np.float64(1e-4)}]}
        ],
        "lr_schedulers": [collections.defaultdict(dict, a={1: 2})],
        "loops": {
            "rng": np.arange(3),
            "set": {1, 2},
            "frozen": frozenset({3}),
            "range": range(3),
            "complex": 1j,
            "bytes": b"x",
        },
    }


class Namer(pickle._Pickler):  # the Python one, which can be told not to look classes up
    def save_global(self, obj: Any, name: str | None = None) -> None:
        if isinstance(obj, type) and (issubclass(obj, Odd) or obj.__module__.startswith("pytorch_lightning")):
            self.write(b"c" + f"{obj.__module__}\n{obj.__qualname__}\n".encode())
            self.memoize(obj)
            return
        super().save_global(obj, name)

    dispatch = pickle._Pickler.dispatch.copy()
    dispatch[type] = save_global


class NamingModule:
    """A pickle module for torch.save."""

    Pickler, dump, HIGHEST_PROTOCOL = Namer, staticmethod(pickle.dump), 5

    @staticmethod
    def dumps(obj: Any, protocol: int) -> bytes:
        return pickle.dumps(obj, protocol)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_training_leaves_is_read_past(tmp_path: Path, legacy: bool, protocol: int) -> None:
    saved = state(legacy)
    data = {"epoch": 12, "global_step": 840_000, "pytorch-lightning_version": "1.4.2", "state_dict": saved, **lightning()}
    torch.save(data, tmp_path / "x.ckpt", NamingModule, protocol, not legacy)
    found = open_checkpoint(tmp_path / "x.ckpt")
    assert (found.metadata.epoch, found.metadata.step) == (12, 840_000)
    assert found.metadata.facts == {"pytorch-lightning_version": "1.4.2"}
    assert list(found.index) == list(saved)
    for name, tensor in saved.items():
        assert_same(found.index[name].read(), tensor)


def test_names_that_are_no_tensors_are_told(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2), "note": "hello", "n": 3}}, tmp_path / "x.ckpt")
    found = open_checkpoint(tmp_path / "x.ckpt")
    assert list(found.index) == ["a"]
    assert found.metadata.others == ("note", "n")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([torch.ones(2)], "holds no state dict"),
        (torch.ones(2), "holds no state dict"),
        ({}, "found at its top: nothing"),
        ({"g": {"a": torch.ones(2)}, "d": 3}, "found at its top: g, d"),
        ({"state_dict": {}}, "found at its top: nothing"),
        ({3: torch.ones(2)}, "whose name is no text"),
        ({"a\nb": torch.ones(2)}, "unsafe name"),
        ({"../../a": torch.ones(2)}, "unsafe name"),
        ({"a" * 501: torch.ones(2)}, "500 characters"),
        (nn.Linear(2, 2), r"asks for torch\.nn\.modules\.linear\.Linear"),
        ({"a": torch.ones(2).to_sparse()}, r"asks for torch\._utils\._rebuild_sparse_tensor"),
        ({"a": torch.ones(2, device="meta")}, r"asks for torch\._utils\._rebuild_meta_tensor_no_storage"),
        ({"a": torch.ones(2, dtype=torch.complex64).conj()}, "conjugated"),
    ],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_is_no_state_dict_is_said(tmp_path: Path, value: Any, why: str, legacy: bool) -> None:
    try:
        torch.save(value, tmp_path / "x.ckpt", _use_new_zipfile_serialization=not legacy)
    except (RuntimeError, NotImplementedError):
        pytest.skip("torch.save cannot write it so")
    with pytest.raises(InputError, match=why) as caught:
        open_checkpoint(tmp_path / "x.ckpt")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "x.ckpt") in str(caught.value)


def test_a_program_is_no_checkpoint(tmp_path: Path) -> None:
    torch.jit.script(nn.ReLU()).save(str(tmp_path / "x.pt"))
    with pytest.raises(InputError, match="TorchScript program"):
        open_checkpoint(tmp_path / "x.pt")


def test_checksums(tmp_path: Path) -> None:
    """torch.save can leave checksums out, as zeros; a wrong one of the pickle is damage."""
    try:
        torch.serialization.set_crc32_options(False)
        torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(open_checkpoint(tmp_path / "x.pt").index["a"].read(), torch.ones(2))
    torch.save({"abc": torch.ones(2)}, tmp_path / "x.pt")
    data = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(data.replace(b"abc", b"abd", 1))
    with pytest.raises(InputError, match="checksum"):
        open_checkpoint(tmp_path / "x.pt")


def test_big_endian_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    rewrite(tmp_path / "x.pt", buffer.getvalue(), {"archive/byteorder": lambda _: b"big"})
    with pytest.raises(InputError, match="little-endian"):
        open_checkpoint(tmp_path / "x.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "y.pt", _use_new_zipfile_serialization=False)
    parts = streams((tmp_path / "y.pt").read_bytes())
    changed = parts[2].replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89")
    assert changed != parts[2]
    parts[2] = changed
    (tmp_path / "y.pt").write_bytes(b"".join(parts))
    with pytest.raises(InputError, match="little-endian"):
        open_checkpoint(tmp_path / "y.pt")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_any_cut_is_noticed(tmp_path: Path, legacy: bool) -> None:
    torch.save({"state_dict": {"a": torch.ones(300)}}, tmp_path / "x.ckpt", _use_new_zipfile_serialization=not legacy)
    data = (tmp_path / "x.ckpt").read_bytes()
    for length in [0, 1, 3, 8, 50, 100, len(data) // 2, len(data) - 23, len(data) - 1]:
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(InputError, match="cut") as caught:
            open_checkpoint(tmp_path / "cut")
        assert "\n" not in str(caught.value)


def test_the_tensors_are_not_the_file(tmp_path: Path) -> None:
    """What is done to a tensor stays in memory."""
    torch.save({"a": torch.ones(50)}, tmp_path / "x.ckpt")
    before = (tmp_path / "x.ckpt").read_bytes()
    tensor = open_checkpoint(tmp_path / "x.ckpt").index["a"].read()
    tensor.mul_(2)
    assert torch.equal(tensor, torch.full((50,), 2.0))
    assert (tmp_path / "x.ckpt").read_bytes() == before


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(50)}, tmp_path / "x.ckpt")
    index = open_checkpoint(tmp_path / "x.ckpt").index
    torch.save({"a": torch.ones(60)}, tmp_path / "x.ckpt")
    for dtype in (None, torch.float16):
        with pytest.raises(InputError, match="was changed"):
            index["a"].read(dtype)


def test_members_with_a_folder_of_any_name(tmp_path: Path) -> None:
    """torch.save names it after the file."""
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(tmp_path / "x", "w") as new:
        for info in old.infolist():
            new.writestr(info.filename.replace("archive", "v1-5-pruned ü"), old.read(info))
    assert torch.equal(open_checkpoint(tmp_path / "x").index["a"].read(), torch.ones(2))
