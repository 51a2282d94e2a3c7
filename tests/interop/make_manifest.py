"""Writes tests/data/published_manifest.json: names and shapes of the published models, from the authors' own classes.

    python tests/interop/make_manifest.py FOLDER

builds every row of `authors.ROWS` from its published yaml on the meta device and notes, for the U-Net, its EMA and the first
stage, the number of tensors and parameters and the SHA-256 of the sorted lines "name d0xd1...". `--list ROW` prints those
lines, to see what differs where a digest does.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from authors import LD, ROWS, conditioner, configs, enter, first_stage, unet
from torch import nn

TARGET = Path(__file__).resolve().parent.parent / "data" / "published_manifest.json"


def lines(module: nn.Module) -> list[str]:
    """ "name d0xd1..." of every tensor of the state, sorted."""
    return sorted(f"{name} {'x'.join(map(str, value.shape))}" for name, value in module.state_dict().items())


def digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def entry(module: nn.Module) -> dict[str, Any]:
    found = lines(module)
    return {
        "tensors": len(found),
        "parameters": sum(p.numel() for p in module.parameters()),
        "sha256": digest(found),
    }


def row(root: Path, name: str, show: bool) -> dict[str, Any]:
    enter(root)
    repository, yaml_file, changes = ROWS[name]
    network, stage = configs(root, yaml_file, changes)
    with torch.device("meta"):
        first = first_stage(stage)
        wrapper = nn.Module()
        if network is not None:
            wrapper.diffusion_model = unet(network)
        trained = conditioner(root, yaml_file) if repository == LD else None
    result: dict[str, Any] = {"source": f"{repository}/{yaml_file}", "first_stage": entry(first)}
    if network is not None:
        package = "sgm" if "sgm" in sys.modules else "ldm"
        ema = importlib.import_module(f"{package}.modules.ema").LitEma(wrapper)
        result["unet"] = entry(wrapper.diffusion_model)
        result["ema"] = {"tensors": len(lines(ema)), "sha256": digest(lines(ema))}
    if trained is not None:
        result["conditioner"] = entry(trained)
    if show:
        print("\n".join([*lines(first), *lines(wrapper)]), file=sys.stderr)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds a checkout of each of the authors' repositories, by name")
    parser.add_argument("--row", choices=ROWS, help="one row, as JSON on the standard output")
    parser.add_argument("--list", choices=ROWS, metavar="ROW", help="print a row's names and shapes")
    given = parser.parse_args()
    one = given.row or given.list
    if one:
        print("\n" + json.dumps(row(given.folder / ROWS[one][0], one, given.list is not None)))
        return
    rows = {}
    for name in ROWS:  # a process each: the repositories' packages have the same names
        done = subprocess.run(
            [sys.executable, __file__, str(given.folder), "--row", name], check=True, stdout=subprocess.PIPE, text=True
        )
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, rows[name], file=sys.stderr)
    made = "tests/interop/make_manifest.py, from the authors' classes and yaml files on the meta device"
    TARGET.write_text(json.dumps({"made_by": made, "rows": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
