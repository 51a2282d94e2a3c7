"""A picture of any size inside a model's grid: resized where that was asked for, padded by its edge, and back.

    own (h, w)  --resize-->  work (h', w')  --pad right and below-->  padded (H, W), multiples of the model's
    padded  --crop-->  work  --resize-->  own

Without a size asked for, work is own, and there and back changes no place of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS
from sfumato.generation.pixels import from_picture
from sfumato.generation.request import Draft

Size = tuple[int, int]


@dataclass(frozen=True)
class Frame:
    """Sizes are (height, width) in pixels. Raises `InputError` when the padded one is beyond the limits."""

    own: Size
    work: Size
    padded: Size

    @staticmethod
    def of(own: Size, multiple: int, draft: Draft | None = None, what: str = "image") -> Frame:
        """The frame of a picture `own`, whose sides become multiples of `multiple`; a size in `draft` is what it works at."""
        height = own[0] if draft is None or draft.height is None else draft.height
        width = own[1] if draft is None or draft.width is None else draft.width
        padded = up(height, multiple), up(width, multiple)
        if max(padded) > LIMITS.max_side:
            raise InputError(
                f"{what}: {height}x{width} pixels (height x width), expected at most {LIMITS.max_side // multiple * multiple} "
                "a side; make it smaller, or name a smaller --size where there is one."
            )
        return Frame(own, (height, width), padded)

    def fit(self, draft: Draft) -> Draft:
        """`draft` at the padded size."""
        return replace(draft, height=self.padded[0], width=self.padded[1])

    def picture(self, image: Image.Image, channels: int) -> Tensor:
        """A picture of the own size -> (1, C, H, W) in [-1, 1]."""
        return self.pad(from_picture(image, channels, self.work))

    def mask(self, mask: Tensor) -> Tensor:
        """(h, w) of bool -> (H, W) fp32 of 0 and 1; of a smaller work size, every pixel that it touches."""
        given = mask[None, None].float()
        if self.work != self.own:
            given = F.interpolate(given, size=self.work, mode="area")
        return (self.pad(given) > 0).float()[0, 0]

    def map(self, classes: Tensor) -> Tensor:
        """(h, w) whole numbers -> (H, W)."""
        given = resized(classes, self.work)[None, None].double()  # exact for whole numbers to 2^53
        return self.pad(given)[0, 0].to(classes.dtype)

    def pad(self, x: Tensor) -> Tensor:
        """(B, C, h', w') -> (B, C, H, W), the last row and column repeated."""
        return F.pad(x, (0, self.padded[1] - x.shape[3], 0, self.padded[0] - x.shape[2]), mode="replicate")

    def crop(self, pixels: Tensor) -> Tensor:
        """(C, H, W) -> (C, h', w')."""
        return pixels[:, : self.work[0], : self.work[1]]


def resized(classes: Tensor, size: Size) -> Tensor:
    """(h, w) whole numbers at another (height, width), by the nearest."""
    if tuple(classes.shape) == size:
        return classes
    return F.interpolate(classes[None, None].double(), size=size, mode="nearest-exact")[0, 0].to(classes.dtype)


def up(side: int, multiple: int) -> int:
    """The next multiple of `multiple` from `side` on."""
    return -(-side // multiple) * multiple


def size_of(image: Image.Image) -> Size:
    """(height, width)."""
    return image.height, image.width
