"""Records -> uint8 tensors of one shape, one by one, all at once, or as a stream of batches."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.data.decode import Target, decode
from sfumato.data.folder import Record
from sfumato.data.order import batch_indices
from sfumato.errors import InputError, MachineError

KEPT = 2 * 2**30
"""Bytes of pictures that stay in memory from one part of a run to the next."""


class ImageDataset:
    """Pictures of one shape with their captions and labels.

    size: side in pixels or (height, width); channels 1, 3 or 4; background and crop as in `decode.Target`.
    classes: class names in index order, by default the sorted labels of the records.
    """

    def __init__(
        self,
        records: Sequence[Record],
        size: int | tuple[int, int],
        channels: int = 3,
        background: str = "white",
        crop: str = "center",
        classes: Sequence[str] | None = None,
    ):
        self.records = tuple(records)
        self.target = Target(size, channels, background, crop)
        names = classes if classes is not None else sorted({r.label for r in self.records if r.label is not None})
        self.classes = tuple(names)
        self._class_index = {name: index for index, name in enumerate(self.classes)}
        self._kept: Tensor | None = None
        self._fingerprint = ""

    def __len__(self) -> int:
        return len(self.records)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every picture."""
        return (self.target.channels, *self.target.height_width)

    def pixels(self, index: int) -> Tensor:
        """(C, H, W) uint8. Raises `DecodeError` naming the file."""
        record = self.records[index]
        return torch.from_numpy(decode(record.read(), record.name, self.target))

    def part(self, rows: Sequence[int]) -> ImageDataset:
        """The pictures of these numbers, in their order, with the same classes."""
        target, records = self.target, [self.records[i] for i in rows]
        return ImageDataset(records, target.height_width, target.channels, target.background, target.crop, self.classes)

    def captions(self, index: int) -> tuple[str, ...]:
        """Variants of one meaning, the first the best; `("",)` for a picture without caption."""
        return self.records[index].captions or ("",)

    def label(self, index: int) -> int | None:
        """Class index, None for a picture without class. Raises `InputError` for a class that is not in `classes`."""
        name = self.records[index].label
        if name is None:
            return None
        if name not in self._class_index:
            raise InputError(f"{self.records[index].name}: class {name!r} is none of the {len(self.classes)} known classes.")
        return self._class_index[name]

    def load_all(self, progress: Callable[[int, int], None] | None = None, workers: int | None = None) -> Tensor:
        """(N, C, H, W) uint8 of everything, decoded by `workers` threads; progress is called with (done, total).

        Raises `MachineError` when it does not fit in memory, `DecodeError` for the first file that cannot be read.
        """
        try:
            everything = torch.empty((len(self), *self.shape), dtype=torch.uint8)
        except (RuntimeError, MemoryError):
            gigabytes = len(self) * self.shape[0] * self.shape[1] * self.shape[2] / 1e9
            raise MachineError(
                f"{len(self):,} pictures need {gigabytes:.1f} GB of memory: use a smaller size or stream them."
            ) from None

        def put(index: int) -> None:
            everything[index] = self.pixels(index)

        pool = ThreadPoolExecutor(max(1, workers if workers is not None else os.cpu_count() or 1))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's remarks on odd tags
                for done, _ in enumerate(pool.map(put, range(len(self))), start=1):
                    if progress is not None:
                        progress(done, len(self))
        finally:
            pool.shutdown(cancel_futures=True)
        return everything

    def resident(self) -> Tensor:
        """`load_all`, read once and kept where that takes less than `KEPT` bytes: not to be written to."""
        if self._kept is not None:
            return self._kept
        everything = self.load_all()
        if everything.nbytes <= KEPT:
            self._kept = everything
        return everything

    def fingerprint(self) -> str:
        """SHA-256 (hex) of names, contents, captions, labels and transform: equal data gives equal batches. Read once."""
        self._fingerprint = self._fingerprint or self._hashed()
        return self._fingerprint

    def _hashed(self) -> str:
        digest = hashlib.sha256(repr((self.target, self.classes)).encode())
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            contents = pool.map(lambda record: hashlib.sha256(record.read()).hexdigest(), self.records)
            for record, content in zip(self.records, contents, strict=True):
                item = repr((record.name, content, record.captions, record.label))
                digest.update(item.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


@dataclass(frozen=True)
class Batch:
    """One step's pictures: indices (B,) int64 into the data set, pixels (B, C, H, W) uint8."""

    step: int
    indices: Tensor
    pixels: Tensor


class Batches:
    """Endless stream of batches from `start_step` on, the same for any number of workers.

    workers: threads that decode ahead (decoding releases the interpreter); 0 decodes when asked. rank, world: the
    part [rank::world] of each global batch. Use it as a context manager, or `close()` it, to end its threads.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        batch_indices(len(dataset), batch_size, seed, start_step)  # complains early
        if batch_size < world:
            raise InputError(f"batch size {batch_size} is smaller than the {world} processes; give at least {world}.")
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.step, self.rank, self.world = start_step, rank, world
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode") if workers > 0 else None
        self._ahead: deque[tuple[int, Tensor, list[Future[Tensor]]]] = deque()
        self._next = start_step

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._pool is None:
            indices = self._indices(self.step)
            pixels = [self.dataset.pixels(int(i)) for i in indices]
        else:
            while len(self._ahead) < 3:  # the batch asked for and two to come
                indices = self._indices(self._next)
                futures = [self._pool.submit(self.dataset.pixels, int(i)) for i in indices]
                self._ahead.append((self._next, indices, futures))
                self._next += 1
            _, indices, futures = self._ahead.popleft()
            pixels = [future.result() for future in futures]
        batch = Batch(self.step, indices, torch.stack(pixels))
        self.step += 1
        return batch

    def _indices(self, step: int) -> Tensor:
        return batch_indices(len(self.dataset), self.batch_size, self.seed, step)[self.rank :: self.world]

    def close(self) -> None:
        """End the threads; pictures not yet decoded are dropped."""
        self._ahead.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
