"""How long `load_published` takes for a checkpoint of a published model's size, against reading its bytes, and how much memory.

    python benchmarks/published_loading.py [sd1] [--repeats 5] [--stored float16 float32] [--folder DIR] [--out FILE.json]

Random weights of the model's own shapes are written under the authors' names to a temporary folder (or below --folder), as
.safetensors and as .ckpt, one file at a time, and removed afterwards. All ways alternate in one process, round by round, with
a warm cache; numbers are medians.

- bytes: the file read into fresh memory, nothing else;
- load: `load_published` into the stored type, all that it does (recognise, build, fill, the remembered hash), until every page
  of every weight was touched; call: until it returned, its weights still on the disk;
- other: the same into the other type (fp16 <-> fp32), over the bytes of the file too;
- first: in a fresh process that has PyTorch, where transformers is imported and the file hashed for the first time;
- peak: of a fresh process that has imported them, above what it took then, every page touched, in multiples of the weights in
  the type asked for.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import machine, table, write
from safetensors.torch import save_file
from torch import Tensor

from sfumato.build import ModelConfig, build_model
from sfumato.interop import compvis
from sfumato.interop.cards import find_card
from sfumato.interop.export import single_file
from sfumato.interop.load import load_published
from sfumato.io.pretrained import LoadedModel
from sfumato.networks.clip import number_positions

GOALS = {"safetensors": 1.5, "ckpt": 3.0}  # loading over reading the bytes
PEAK_GOAL = 1.2
PAGE = 4096
TYPES = {"float16": torch.float16, "float32": torch.float32}
OTHER = {"float16": "float32", "float32": "float16"}


def main(argv: list[str] | None = None) -> None:
    """Print a table and, with --out, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="sd1", help="a published model (but those that read words with BERT)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stored", nargs="+", choices=list(TYPES), default=["float16"], help="types on the disk")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--fresh", nargs=3, metavar=("WHAT", "FILE", "TYPE"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.fresh:
        what, file, dtype = args.fresh
        print((first_of if what == "first" else peak_of)(Path(file), args.model, TYPES[dtype]))
        return
    where = machine()
    print(where)
    rows, found = [], {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        os.environ["SFUMATO_CACHE"] = str(Path(folder) / "cache")
        for stored in args.stored:
            for kind in GOALS:
                path = Path(folder) / f"weights.{kind}"
                write_checkpoint(path, args.model, TYPES[stored])
                one = measure(path, args.model, stored, args.repeats)
                path.unlink()
                found[f"{kind}, {stored}"] = one
                rows.append(row(kind, stored, one))
    header = ["file", "GB", "bytes s", "call s", "load s", "other s", "first s", "load / bytes", "goal", "other / bytes"]
    print(table([*header, "peak", "peak other"], rows))
    print(f"goal for the peaks: {PEAK_GOAL:g}")
    write(args.out, {"machine": where, "model": args.model, "files": found})


def row(kind: str, stored: str, one: dict[str, Any]) -> list[str]:
    """A line of the table."""
    seconds, ratios = one["median_s"], one["ratios"]
    return [
        f"{kind}, {stored}",
        f"{one['size'] / 1e9:.2f}",
        *(f"{seconds[name]:.2f}" for name in ("bytes", "call", "load", "other")),
        f"{one['first_s']:.1f}",
        f"{ratios['load']:.2f}",
        f"{GOALS[kind]:g}",
        f"{ratios['other']:.2f}",
        f"{one['peak'][stored]:.2f}",
        f"{one['peak'][OTHER[stored]]:.2f}",
    ]


def write_checkpoint(path: Path, name: str, dtype: torch.dtype) -> None:
    """Random weights of a published model under the authors' names, as the file's ending says."""
    card = find_card(name)
    config = ModelConfig(card.first_stage, card.prior, card.conditioner, card.image_size)
    with torch.device("meta"):
        model = build_model(config)
    number_positions(model)
    rng = torch.Generator().manual_seed(0)
    state = {
        key: torch.empty(value.shape, dtype=dtype).normal_(generator=rng) if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    state["first_stage.shift"] = torch.zeros(state["first_stage.shift"].shape)
    state["first_stage.scale"] = torch.full(state["first_stage.scale"].shape, 1 / (card.scale_factor or 1.0))
    tensors = {key: value.contiguous() for key, value in single_file(config, state)[0].items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors, "global_step": 0}, path)


def touch(loaded: LoadedModel) -> int:
    """Read a byte of every page of every weight; returns their bytes."""
    total = 0
    for tensor in loaded.model.state_dict().values():
        flat(tensor).view(torch.uint8)[::PAGE].sum()
        total += tensor.numel() * tensor.element_size()
    return total


def flat(tensor: Tensor) -> Tensor:
    """A dense tensor's elements in the order of its memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def measure(path: Path, name: str, stored: str, repeats: int) -> dict[str, Any]:
    """Times in seconds and peaks of one file; every way once before what counts."""
    times: dict[str, list[float]] = {"bytes": [], "call": [], "load": [], "other": []}
    first = fresh("first", path, name, stored)  # with its hash, which is remembered from then on
    for _ in range(repeats + 1):
        times["bytes"].append(timed(path.read_bytes)[0])
        for way, dtype in (("load", stored), ("other", OTHER[stored])):
            called, total = timed(lambda dtype=dtype: load(path, name, TYPES[dtype]), touch)  # type: ignore[misc]
            times[way].append(total)
            if way == "load":
                times["call"].append(called)
    medians = {way: median(values[1:]) for way, values in times.items()}
    return {
        "size": path.stat().st_size,
        "median_s": medians,
        "times_s": times,
        "first_s": first,
        "ratios": {way: median(x / b for x, b in zip(times[way][1:], times["bytes"][1:], strict=True)) for way in times},
        "peak": {dtype: fresh("peak", path, name, dtype) for dtype in TYPES},
    }


def load(path: Path, name: str, dtype: torch.dtype) -> LoadedModel:
    """What is measured, as the first of a process: what an earlier one remembers of the networks is forgotten."""
    compvis._shapes.cache_clear()
    return load_published(path, card=name, dtype=dtype)


def timed(way: Callable[[], Any], then: Callable[[Any], object] | None = None) -> tuple[float, float]:
    """Seconds of a call, and of what follows with its result too; the result is freed after the clock stops."""
    start = time.perf_counter()
    kept = way()
    called = time.perf_counter() - start
    if then is not None:
        then(kept)
    total = time.perf_counter() - start
    del kept
    return called, total


def fresh(what: str, path: Path, name: str, dtype: str) -> float:
    """A number of a fresh process."""
    command = [sys.executable, __file__, name, "--fresh", what, str(path), dtype]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def first_of(path: Path, name: str, dtype: torch.dtype) -> float:
    """Seconds of the first load of a process, transformers' import among them."""
    return timed(lambda: load(path, name, dtype), touch)[1]


def peak_of(path: Path, name: str, dtype: torch.dtype) -> float:
    """Highest resident memory of this process, mapped pages of the file counted, above what it has with all imported."""
    with torch.device("meta"):  # imports what building needs
        card = find_card(name)
        build_model(ModelConfig(card.first_stage, card.prior, card.conditioner, card.image_size))
    importlib.import_module("sfumato.interop.child")
    torch.ones(PAGE).sum()
    before = _highest()
    weights = touch(load(path, name, dtype))
    return (_highest() - before) / weights


def _highest() -> int:
    """Highest resident memory of this process so far, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
