"""Writes tests/data/authors_goldens.json: outputs of the authors' own classes with fewer channels and known weights.

    python tests/interop/make_goldens.py FOLDER

FOLDER holds checkouts of the authors' repositories, see `authors.py`. The networks are built from the published yaml files,
narrowed as `shrunken.py` says; weights are seeded by the authors' names of them. For models that diffusers has no class for,
and a few beside. The quantizer of taming-transformers is left out: a VQ first stage decodes the latent as it is given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import authors
import shrunken
import torch

TARGET = Path(__file__).resolve().parent.parent / "data" / "authors_goldens.json"


def golden(root: Path, name: str) -> dict[str, Any]:
    authors.enter(root)
    _, yaml_file, changes = authors.ROWS[name]
    network, stage = authors.configs(root, yaml_file, changes)
    with torch.no_grad():
        if network is not None:
            made = authors.unet(shrunken.authors_unet(network)).eval()
            made.load_state_dict(shrunken.weights({k: tuple(v.shape) for k, v in made.state_dict().items()}))
            x, steps, cond = shrunken.inputs(shrunken.unet(name))
            whole = x if cond.concat is None else torch.cat([x, cond.concat], 1)
            return {"unet": shrunken.summary(made(whole, steps, context=cond.context, y=cond.vector))}
        stage["ddconfig"]["ch"] = shrunken.CHANNELS
        made = authors.first_stage(stage).eval()
        made.load_state_dict(shrunken.weights({k: tuple(v.shape) for k, v in made.state_dict().items()}))
        factor = 2 ** (len(stage["ddconfig"]["ch_mult"]) - 1)
        moments = made.quant_conv(made.encoder(shrunken.pixels(factor)))
        picture = made.decoder(made.post_quant_conv(shrunken.latent(stage["embed_dim"])))
        return {"encoder": shrunken.summary(moments), "decoder": shrunken.summary(picture)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--one", choices=authors.ROWS)
    given = parser.parse_args()
    if given.one:
        print("\n" + json.dumps(golden(given.folder / authors.ROWS[given.one][0], given.one)))
        return
    found = {}
    for name in (*shrunken.UNETS, *shrunken.FIRST_STAGE_NAMES):
        command = [sys.executable, __file__, str(given.folder), "--one", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    made = f"tests/interop/make_goldens.py, by the authors' classes, fp32 on the CPU, torch {torch.__version__}"
    TARGET.write_text(json.dumps({"made_by": made, "outputs": found}, indent=None, separators=(", ", ": ")) + "\n", "utf-8")


if __name__ == "__main__":
    main()
