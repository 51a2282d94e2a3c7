"""How long a foreign checkpoint takes to load, against reading its bytes, and how much memory it takes.

    python benchmarks/loading_speed.py [--gigabytes 1] [--repeats 5] [--folder DIR] [--out FILE.json]

A network of random weights is written in fp32 to a temporary folder (or below --folder) in three formats, and removed
afterwards. Times are medians with a warm cache; every load is into a network on the meta device and ends when every page of
every weight was touched.

- bytes: the file read into fresh memory, nothing else; refill: into memory that is there already, as no load can do;
- open: until names, types and places are known (for torch.save's files a process reads the pickle);
- load, load as fp16: open, and the weights in the network;
- library: safetensors' load_file, or torch.load(weights_only=True), into memory;
- peak: of a fresh process that loads, above what it took before, in multiples of the weights in the type asked for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import machine, repeated, table, write
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfumato.interop.assign import assign
from sfumato.interop.checkpoint import open_checkpoint

GOALS = {"safetensors": 1.5, "zip": 3.0, "legacy": 3.0}  # loading over reading the bytes
PEAK_GOAL = 1.2
WIDTH = 1024
PAGE = 4096


def main(argv: list[str] | None = None) -> None:
    """Print a table and, with --out, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", nargs=3, metavar=("FILE", "LAYERS", "TYPE"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.peak:
        print(peak_of(Path(args.peak[0]), int(args.peak[1]), getattr(torch, args.peak[2])))
        return
    where = machine()
    print(where)
    layers = max(1, round(args.gigabytes * 2**30 / 4 / (WIDTH * WIDTH + WIDTH)))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for kind in GOALS:
            path = Path(folder) / f"weights.{kind}"
            write_weights(path, layers, kind)
            found[kind] = measure(path, layers, kind, args.repeats)
            path.unlink()
    names = ("bytes", "refill", "open", "load", "load as fp16", "library")
    rows = []
    for kind, numbers in found.items():
        seconds = [f"{numbers['median_s'][name]:.3f}" for name in names]
        peaks = [f"{numbers['peak'][dtype]:.2f}" for dtype in ("float32", "float16")]
        rows.append([kind, f"{numbers['size'] / 1e9:.2f}", *seconds, f"{numbers['ratio']:.2f}", f"{GOALS[kind]:g}", *peaks])
    header = ["format", "GB", *(f"{name} s" for name in names), "load / bytes", "goal", "peak fp32", "peak fp16"]
    print(table(header, rows))
    print(f"goal for the peaks: {PEAK_GOAL:g}")
    write(args.out, {"machine": where, "layers": layers, **found})


def network(layers: int) -> nn.ModuleList:
    """A stack of linear layers without memory."""
    with torch.device("meta"):
        return nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))


def write_weights(path: Path, layers: int, kind: str) -> None:
    """Random fp32 weights of `network` in a format."""
    rng = torch.Generator().manual_seed(0)
    state = {name: torch.randn(t.shape, generator=rng) for name, t in network(layers).state_dict().items()}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "global_step": 0}, path, _use_new_zipfile_serialization=kind == "zip")


def touch(tensors: dict[str, Tensor]) -> None:
    """Read a byte of every page."""
    for tensor in tensors.values():
        tensor.view(-1).view(torch.uint8)[::PAGE].sum()


def load(path: Path, layers: int, dtype: torch.dtype) -> None:
    """A checkpoint into a network, every page of it there."""
    module = network(layers)
    assign(module, open_checkpoint(path).index, str(path), dtype=dtype)
    touch(module.state_dict())


def load_by_library(path: Path, kind: str) -> None:
    """The same by the format's own library."""
    touch(load_file(path) if kind == "safetensors" else torch.load(path, weights_only=True)["state_dict"])


def measure(path: Path, layers: int, kind: str, repeats: int) -> dict[str, Any]:
    """Times in seconds and peaks of one file."""
    memory = bytearray(path.stat().st_size)
    ways: dict[str, Callable[[], object]] = {
        "bytes": path.read_bytes,
        "refill": lambda: refill(path, memory),
        "open": lambda: open_checkpoint(path),
        "load": lambda: load(path, layers, torch.float32),
        "load as fp16": lambda: load(path, layers, torch.float16),
        "library": lambda: load_by_library(path, kind),
    }
    times = {name: repeated(lambda way=way: timed(way), repeats) for name, way in ways.items()}  # type: ignore[misc]
    medians = {name: median(values) for name, values in times.items()}
    weights = layers * (WIDTH * WIDTH + WIDTH)
    peaks = {dtype: peak(path, layers, dtype) / weights / size for dtype, size in (("float32", 4), ("float16", 2))}
    ratio = medians["load"] / medians["bytes"]
    return {"size": path.stat().st_size, "median_s": medians, "times_s": times, "ratio": ratio, "peak": peaks}


def refill(path: Path, memory: bytearray) -> None:
    """The file into `memory`."""
    view = memoryview(memory)
    with open(path, "rb", buffering=0) as file:
        while view:
            view = view[file.readinto(view) :]


def timed(way: Callable[[], object]) -> float:
    """Seconds of one call; what it returns is freed after the clock stops."""
    start = time.perf_counter()
    kept = way()
    seconds = time.perf_counter() - start
    del kept
    return seconds


def peak(path: Path, layers: int, dtype: str) -> int:
    """Bytes that a fresh process needs to load, above what it had before."""
    command = [sys.executable, __file__, "--peak", str(path), str(layers), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def peak_of(path: Path, layers: int, dtype: torch.dtype) -> int:
    """The same, in this process: resident memory at its highest, mapped pages of the file counted."""
    touch({"small": torch.ones(PAGE)})
    before = _highest()
    load(path, layers, dtype)
    return _highest() - before


def _highest() -> int:
    """Highest resident memory of this process so far, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
