"""Held-out pictures above what the default model draws for their captions: no choosing, no second tries.

    python examples/unseen_pairs.py --data emoji --out unseen.png [--count 32] [--split test]

The pictures are the first of the split in the order of the SHA-256 of their names; picture i has seed i.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from PIL import Image

import sfumato
from sfumato.data.dataset import ImageDataset
from sfumato.data.folder import scan

COLUMNS, SIDE, GAP = 8, 128, 4


def main() -> None:
    """Write the sheet: truth in odd rows, the model's in even ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", default="emoji")
    args = parser.parse_args()
    held_out = [record for record in scan(args.data).records if record.split == args.split]
    records = sorted(held_out, key=lambda r: hashlib.sha256(r.name.encode()).digest())[: args.count]
    truth = ImageDataset(records, SIDE)
    made = sfumato.load(args.model).generate([record.captions[0] for record in records], seed=0)
    rows = -(-len(records) // COLUMNS)
    step = SIDE + GAP
    page = Image.new("RGB", (COLUMNS * step + GAP, rows * (2 * step + 2 * GAP)), "white")
    for i, record in enumerate(records):
        left, top = GAP + (i % COLUMNS) * step, GAP + (i // COLUMNS) * (2 * step + 2 * GAP)
        page.paste(Image.fromarray(truth.pixels(i).movedim(0, -1).numpy()), (left, top))
        page.paste(made[i].convert("RGB"), (left, top + step))
        print(f"{i // COLUMNS + 1}.{i % COLUMNS + 1}  {record.captions[0]}")
    page.save(args.out)


if __name__ == "__main__":
    main()
