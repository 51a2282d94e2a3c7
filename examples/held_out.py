"""Held-out pairs and what a model draws for them: the very pictures that `sfumato evaluate` scores.

The picture of held-out pair i, counted in the data set's order, has seed S + i. Drawing takes long on a CPU, so that
`--made FILE.safetensors` keeps what has been drawn, for a second run and for the other scripts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from sheets import on_white
from torch import Tensor

from sfumato.cli.bars import part_bars
from sfumato.cli.evaluate import generator, read_source
from sfumato.errors import InputError
from sfumato.evaluation.data import EvaluationData
from sfumato.evaluation.source import read_split
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.request import BATCH_SIZE, Draft
from sfumato.io.files import write_bytes

KEPT_EVERY = 64  # pictures


def held_out(pipeline: Pipeline, data: Path, split: str) -> EvaluationData:
    """All held-out pictures in the shape and the words of the model, as `sfumato evaluate` reads them."""
    return read_source(pipeline, data, split, 1, 0).sets.held  # 1: no more than that of the training pictures


def hash_order(names: Sequence[str]) -> list[int]:
    """Indices in the order of the SHA-256 of the names: an order that nobody chose."""
    return sorted(range(len(names)), key=lambda i: hashlib.sha256(names[i].encode("utf-8", "surrogateescape")).digest())


def subjects(data: Path, split: str) -> dict[str, str]:
    """Picture's name -> the `group` of its metadata, such as flags; empty where there is none."""
    parts = read_split(data)
    records = parts.test if split == "test" else parts.validation
    return {record.name: str(record.row.get("group", "")) for record in records}


def draw(pipeline: Pipeline, held: EvaluationData, wanted: Sequence[int], seed: int, made: Path | None = None) -> Tensor:
    """What the model draws for the captions of pairs `wanted`: (M, C, H, W) uint8, at the model's own settings."""
    draft = Draft(prompts=("",), seed=seed)
    about = _about(pipeline, held, draft)
    known = {} if made is None else _read(made, about)
    missing = sorted(set(wanted) - known.keys())
    make, done = generator(pipeline, draft), 0
    with part_bars(quiet=False) as progress:
        for run in _runs(missing):
            known.update(zip(run, make([held.captions[i] for i in run], [seed + i for i in run]), strict=True))
            kept, done = done // KEPT_EVERY, done + len(run)
            if progress is not None:
                progress("generate", done, len(missing))
            if made is not None and (done // KEPT_EVERY > kept or done == len(missing)):
                _write(made, known, about)
    return torch.stack([known[i] for i in wanted])


def pixels_of(images: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size, laid on white -> (N, 3, H, W) uint8."""
    return torch.stack([torch.from_numpy(np.array(on_white(image))).permute(2, 0, 1) for image in images])


def _runs(indices: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive indices together, since pictures of one call have consecutive seeds."""
    run: list[int] = []
    for index in indices:
        if run and (index != run[-1] + 1 or len(run) == BATCH_SIZE):
            yield run
            run = []
        run.append(index)
    if run:
        yield run


def _about(pipeline: Pipeline, held: EvaluationData, draft: Draft) -> str:
    """Everything that decides the pictures."""
    request = pipeline.request(draft)
    defaults = repr(pipeline.loaded.defaults)
    captions = hashlib.sha256(json.dumps(list(held.captions)).encode()).hexdigest()
    return json.dumps([pipeline.hash, defaults, request.seed, request.height, request.width, captions])


def _read(path: Path, about: str) -> dict[int, Tensor]:
    if not path.exists():
        return {}
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get("about") != about:
            raise InputError(f"made: {path} holds pictures of another model, data set or seed; give another name.")
        return dict(zip(file.get_tensor("index").tolist(), file.get_tensor("pixels"), strict=True))


def _write(path: Path, known: dict[int, Tensor], about: str) -> None:
    tensors = {"index": torch.tensor(list(known)), "pixels": torch.stack(list(known.values()))}
    write_bytes(path, save(tensors, {"about": about}))
