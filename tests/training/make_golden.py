"""Writes `golden.json`: the losses of twenty deterministic steps of each stage (CPU, fp32, one thread).

    python tests/training/make_golden.py

Run it only after a change of the numerics that is meant, and say in the commit why the numbers moved.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import tiny_runs

GOLDEN = Path(__file__).with_name("golden.json")
STEPS = 20
SHOWN = {
    "first_stage": ("autoencoder/total", "discriminator/total", "pixel", "perceptual", "kl", "gan/adaptive_weight"),
    "prior": ("prior/total", "prior/grad_norm"),
}


def losses() -> dict[str, list[dict[str, float]]]:
    """Stage -> step -> name -> value. The GAN joins at step 10."""
    torch.set_num_threads(1)
    tasks = {
        "first_stage": tiny_runs.autoencoder_task(perceptual="embedded", gan_start=10),
        "prior": tiny_runs.diffusion_task(),
    }
    found = {}
    for name, task in tasks.items():
        with tempfile.TemporaryDirectory() as folder:
            trainer = tiny_runs.trainer(task, Path(folder), tiny_runs.small_optim(steps=STEPS))
            trainer.run(tiny_runs.StopFlag())
            found[name] = [{k: row[k] for k in SHOWN[name] if k in row} for row in trainer.reporter.rows]
    return found


if __name__ == "__main__":
    text = json.dumps({"torch": torch.__version__, **losses()}, indent=1)
    GOLDEN.write_text(text + "\n")
    print(GOLDEN)
