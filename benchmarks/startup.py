"""How long a user waits before anything happens: the import, the help, the loaded model.

    python benchmarks/startup.py [--model emoji] [--device auto] [--repeats 5] [--out FILE.json]

Each number is the median over fresh Python processes, after one that does not count, timed from outside and with Python's
own start in it:

- import: until `import sfumato` is done; the process also checks that PyTorch did not come along;
- help: the whole of `python -m sfumato --help`;
- load: until `sfumato.load(MODEL, DEVICE)` has returned, its weights on the device.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from common import machine, repeated, table, until_end, until_line, write

IMPORT = "import sfumato, sys; assert 'torch' not in sys.modules, 'import sfumato brought PyTorch'; print('ready', flush=True)"
LOAD = """
import sys, sfumato
pipeline = sfumato.load(sys.argv[1], sys.argv[2])
if pipeline.device.type == "cuda":
    import torch
    torch.cuda.synchronize(pipeline.device)
print("ready", flush=True)
"""
GOALS = {"import": 0.3, "help": 0.5, "load": 3.0}  # seconds


def main(argv: list[str] | None = None) -> None:
    """Print a table and, with --out, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji", help="a shipped model or a model directory")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    where = machine()
    print(where)
    measures = {
        "import": partial(until_line, ["-c", IMPORT], "ready"),
        "help": partial(until_end, ["-m", "sfumato", "--help"]),
        "load": partial(until_line, ["-c", LOAD, args.model, args.device], "ready"),
    }
    found: dict[str, Any] = {}
    for name, measure in measures.items():
        times = repeated(measure, args.repeats)
        found[name] = {"median_s": median(times), "times_s": times, "goal_s": GOALS[name]}
    titles = {"import": "`import sfumato`", "help": "`sfumato --help`", "load": f"process start to loaded `{args.model}`"}
    rows = [
        (titles[k], f"{v['median_s']:.3f}", f"{min(v['times_s']):.3f} ... {max(v['times_s']):.3f}", f"{v['goal_s']:g}")
        for k, v in found.items()
    ]
    print(table(["what", "median s", "range s", "goal s"], rows))
    write(args.out, {"machine": where, **found})


if __name__ == "__main__":
    main()
