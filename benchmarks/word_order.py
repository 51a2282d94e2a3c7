"""Does a text encoder read the order of words? Minutes on a CPU, in place of a training.

    python benchmarks/word_order.py --data SCENES --out DIR --reach 3

A small encoder (`conditioners.text`) and a small hourglass learn, without noise, the mean picture of a scene's captions: 6 x 6
places of 16 numbers, each thing a code of its class over its box. Measured on scenes of two things that it has not met: how
often the true picture is fitted better with the caption ("a zebra left of an apple") than with the two things exchanged
("an apple left of a zebra"), along the row and along the column; 0.5 is chance. Means over test and validation scenes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import machine
from torch import Tensor, nn

from sfumato.conditioners.text import TextConfig, TextEncoder
from sfumato.data.emoji_text import with_article
from sfumato.data.scene_text import LEFT, RIGHT
from sfumato.networks.hourglass import Hourglass, HourglassConfig
from sfumato.training.muon import Group, Muon

SIDE, CODES, SIZE = 6, 16, 128  # places a row; numbers a place; pixels a row of the scenes
LEARNING_RATE, WARM_UP = 5e-3, 100
Row = Mapping[str, Any]


class Reader(nn.Module):
    """Captions to the picture expected of them."""

    def __init__(self, texts: Sequence[str], reach: int, depth: int):
        super().__init__()
        tokenizer = TextEncoder.learn_tokenizer(texts, 2048)
        config = TextConfig(
            dim=64, depth=depth, heads=2, head_channels=32, length=48, vocabulary=tokenizer.get_vocab_size(), vector_dim=64,
            reach=reach,
        )  # fmt: skip
        self.encoder = TextEncoder(config, tokenizer)
        self.network = Hourglass(
            HourglassConfig(
                CODES, CODES, widths=(64,), depths=(2,), head_channels=32, condition_channels=64, context_dim=64, vector_dim=64
            )
        )

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, CODES, SIDE, SIDE)."""
        ids = ids[:, : int((ids != self.encoder.pad).sum(1).max())]
        nothing = torch.zeros(len(ids), CODES, SIDE, SIDE)
        return self.network(nothing, torch.full((len(ids),), 999.0), self.encoder(ids))


def picture(row: Row, codes: Tensor) -> Tensor:
    """(CODES, SIDE, SIDE): zeros, and each thing's code over the places of its box."""
    page = torch.zeros(CODES, SIDE, SIDE)
    for (x, y, w, h), number in zip(row["objects"]["bbox"], row["objects"]["categories"], strict=True):
        rows, columns = (_places(begin, length) for begin, length in ((y, h), (x, w)))
        page[:, rows, columns] = codes[number][:, None, None]
    return page


def _places(begin: int, length: int) -> slice:
    middle, half = (begin + length / 2) / SIZE * SIDE, max(0.5, length / (2 * SIZE) * SIDE)
    first = max(0, round(middle - half))
    return slice(first, max(round(middle + half), round(middle - half) + 1))


def caption(row: Row, exchanged: bool = False) -> str:
    """The short caption of a scene of two things."""
    said = row["said"][0]
    names = [with_article(name) for name in row["objects"]["names"]]
    first, second = said["subject"], said["object"]
    if exchanged:
        first, second = second, first
    return f"{names[first]} {said['relation']} {names[second]}"


def optimizer(reader: Reader) -> Muon:
    """As the recipe `scenes` has it: Muon for matrices, AdamW for tables and vectors."""
    tables = {id(m.weight) for m in reader.modules() if isinstance(m, nn.Embedding)}
    matrices = [p for p in reader.parameters() if p.ndim >= 2 and id(p) not in tables]
    chosen = {id(p) for p in matrices}
    rest = [p for p in reader.parameters() if id(p) not in chosen]
    return Muon([Group(matrices, 0.01, True), Group(rest, 0.0, False)], LEARNING_RATE, (0.9, 0.99), torch.device("cpu"))


class Asked:
    """Scenes of two things with one relation, and how well a reader tells their captions from the exchanged ones."""

    def __init__(self, rows: Sequence[Row], codes: Tensor, encoder: TextEncoder):
        asked = [row for row in rows if len(row["said"]) == 1 and len(row["objects"]["categories"]) == 2]
        self.truth = torch.stack([picture(row, codes) for row in asked])
        self.ids = [encoder.prepare([caption(row, exchanged) for row in asked]) for exchanged in (False, True)]
        self.across = torch.tensor([row["said"][0]["relation"] in (LEFT, RIGHT) for row in asked])

    @torch.no_grad()
    def measure(self, reader: Reader) -> dict[str, float]:
        """Shares of captions that fit better than the exchanged ones, and both losses."""
        reader.eval()
        own, exchanged = ((reader(ids) - self.truth).square().mean((1, 2, 3)) for ids in self.ids)
        reader.train()
        better = (own < exchanged).float()
        return {
            "left_right": float(better[self.across].mean()), "above_below": float(better[~self.across].mean()),
            "own": float(own.mean()), "exchanged": float(exchanged.mean()),
        }  # fmt: skip


def run(data: Path, reach: int, depth: int, steps: int, batch_size: int, every: int) -> list[dict[str, float]]:
    """Train, printing and returning a row every `every` steps."""
    rows = [json.loads(line) for line in (data / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    learned, others = ([row for row in rows if (row["split"] == "train") is train] for train in (True, False))
    torch.manual_seed(0)
    codes = torch.randn(200, CODES)
    reader = Reader([text for row in learned for text in row["texts"]], reach, depth)
    asked, step_of, rng = Asked(others, codes, reader.encoder), optimizer(reader), torch.Generator().manual_seed(3)
    found, begin = [], time.monotonic()
    for step in range(1, steps + 1):
        batch = [learned[i] for i in torch.randint(len(learned), (batch_size,), generator=rng).tolist()]
        texts = [row["texts"][int(torch.rand((), generator=rng) * len(row["texts"]))] for row in batch]
        truth = torch.stack([picture(row, codes) for row in batch])
        loss = (reader(reader.encoder.prepare(texts)) - truth).square().mean()
        for group in step_of.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / WARM_UP)
        step_of.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        step_of.step()
        if step % every == 0:
            found.append({"step": step, "loss": float(loss.detach()), **asked.measure(reader)})
            print(json.dumps({**found[-1], "seconds": round(time.monotonic() - begin)}), flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Write DIR/word_order.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of `sfumato data scenes`")
    parser.add_argument("--out", type=Path, required=True, help="folder for the numbers")
    parser.add_argument("--reach", type=int, default=0, help="of TextConfig (default 0)")
    parser.add_argument("--depth", type=int, default=3, help="blocks of the encoder (default 3)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--every", type=int, default=100, help="steps between two measures (default 100)")
    args = parser.parse_args(argv)
    found = run(args.data, args.reach, args.depth, args.steps, args.batch_size, args.every)
    args.out.mkdir(parents=True, exist_ok=True)
    result = {"reach": args.reach, "depth": args.depth, "rows": found, "machine": machine()}
    (args.out / "word_order.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
