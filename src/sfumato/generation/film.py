"""Films of the denoising: the estimate x_0 at each step, decoded, as an animated picture whose last frame is held."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from sfumato.errors import InputError
from sfumato.generation.output import write_new
from sfumato.generation.sheet import make_sheet, on_white

if TYPE_CHECKING:
    from sfumato.generation.engine import Progress

FILM_FORMATS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
MAX_PICTURES = 64
MAX_FRAMES = 60
LARGEST = 1024  # pixels a side of a frame
FRAME_MS, HOLD_MS = 80, 2000


class Film:
    """Collects frames through `add` (an `on_step`) and the finished pictures through `finish`; `save` writes the film.

    Several pictures share a frame as a contact sheet. Of more than 60 steps, 60 evenly spaced ones are kept. With
    `previews` frames come from the first stage's linear preview map, which is cheap and coarse, else from the decoder.
    Raises `InputError` for more than 64 pictures.
    """

    def __init__(self, num_pictures: int, columns: int, *, previews: bool = False):
        check_count(num_pictures)
        self.num_pictures = num_pictures
        self.columns = columns
        self.previews = previews
        self.frames: dict[int, dict[int, Image.Image]] = {}  # step -> picture -> its estimate
        self.finished: dict[int, Image.Image] = {}

    def add(self, progress: Progress) -> None:
        """Keep the estimates of one step."""
        if progress.step not in kept_steps(progress.num_steps):
            return
        images = progress.previews() if self.previews else progress.decode()
        for picture, image in zip(progress.pictures, images, strict=True):
            self.frames.setdefault(progress.step, {})[picture.index] = self._small(image)

    def finish(self, index: int, image: Image.Image) -> None:
        """Picture `index` is done."""
        self.finished[index] = self._small(image)

    def _small(self, image: Image.Image) -> Image.Image:
        side = LARGEST // self.columns
        if max(image.size) <= side:
            return image
        scale = side / max(image.size)
        return image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))), Image.Resampling.BOX)

    def sheets(self) -> list[Image.Image]:
        """The frames: one a kept step, then the finished pictures."""
        last = [self.finished[i] for i in sorted(self.finished)]
        size = last[0].size
        steps = [[frame[i].resize(size) for i in sorted(frame)] for _, frame in sorted(self.frames.items())]
        return [make_sheet(frame, self.columns) for frame in [*steps, last]]

    def save(self, path: Path, *, overwrite: bool = False) -> Path:
        """Write the film in the format that the suffix names (gif, webp, png or apng), atomically; returns its path.

        Films of transparent pictures are transparent; a GIF, which has no soft edges, is on white.
        """
        return save_frames(self.sheets(), path, overwrite=overwrite)


def save_frames(frames: Sequence[Image.Image], path: Path, *, overwrite: bool = False, frame_ms: int = FRAME_MS) -> Path:
    """Write pictures of one size as an animation whose last frame is held; formats as of `Film.save`."""
    kind = FILM_FORMATS[path.suffix.lower()]
    if kind == "GIF":
        frames = [on_white(frame) for frame in frames]
    elif any(frame.mode == "RGBA" for frame in frames):
        frames = [frame.convert("RGBA") for frame in frames]  # previews may have no alpha
    durations = [frame_ms] * (len(frames) - 1) + [HOLD_MS]
    buffer = io.BytesIO()
    options = {"lossless": False, "quality": 85} if kind == "WEBP" else {}
    frames[0].save(
        buffer,
        kind,
        save_all=True,
        append_images=list(frames[1:]),
        duration=durations,
        loop=0,
        **options,
    )
    return write_new(path, buffer.getvalue(), overwrite=overwrite)


def check_count(num_pictures: int) -> None:
    """Raise `InputError` for more pictures than a film can show."""
    if num_pictures > MAX_PICTURES:
        raise InputError(f"film: got {num_pictures} pictures, expected at most {MAX_PICTURES}; ask for fewer, or no film.")


def kept_steps(num_steps: int) -> set[int]:
    """The steps (from 1) that a film shows: all, or 60 evenly spaced ones with the last."""
    frames = min(num_steps, MAX_FRAMES)
    return {(i + 1) * num_steps // frames for i in range(frames)}
