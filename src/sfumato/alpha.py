"""Pictures with transparency: four channels are the picture laid on white, and alpha.

Everywhere here a picture of 4 channels has channels 0..2 = RGB composited over white, channel 3 = alpha; files and other
programs have straight RGBA, with the colour s as it was before it was laid on anything. With all in [0, 1]

    w = a s + (1 - a),    s = (w - (1 - a)) / a,    on a background b:  c_b = a s + (1 - a) b = w - (1 - a) (1 - b)

(Porter and Duff 1984, "Compositing Digital Images", the operator `over`). So the white picture is there as it is, w is
defined where a = 0 and s is not, and a wrong s under a small alpha costs as little as it shows. In [-1, 1] the last
formula keeps its form: c_b = w - (1 - a) (1 - b), a still in [0, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from sfumato.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Pixels = TypeVar("Pixels", npt.NDArray[np.uint8], "Tensor")


def on_white(x: Tensor) -> Tensor:
    """(..., C, H, W) of any type -> the picture that is seen on white: channels 0..2 of four, others as they are."""
    return x[..., :3, :, :] if x.shape[-3] == 4 else x


def over(x: Tensor, background: Tensor) -> Tensor:
    """(B, 4, H, W) white picture and alpha, and a colour (3,), all in [-1, 1] -> (B, 3, H, W) laid on that colour.

    Alpha is clipped to its range, the colours aren't; on white the result is x[:, :3]. The colour is moved to x's device
    and type. Raises `InputError` for other shapes.
    """
    if x.ndim != 4 or x.shape[1] != 4 or background.shape != (3,):
        raise InputError(
            f"pictures of shape {tuple(x.shape)} on a colour of shape {tuple(background.shape)}; expected (B, 4, H, W), (3,)."
        )
    alpha = ((x[:, 3:] + 1) / 2).clamp(0, 1)
    return x[:, :3] - (1 - alpha) * (1 - background.to(x).view(3, 1, 1))


def straight(pixels: Pixels) -> Pixels:
    """uint8 (..., 4, H, W), white picture and alpha -> uint8 straight RGBA, nearest values; black where alpha is 0.

    A colour that no ink of that alpha gives on white (a model's small errors) becomes the nearest that there is.
    `from_straight` gives back exactly the same pixels, where they were a picture on white. Tensors of any device and
    arrays. Raises `InputError` for other shapes and types.
    """
    white, alpha = _parts(pixels)
    ink = (white - (255 - alpha)).clip(0, None)  # colour times alpha, 0 ... 255
    colour = (2 * 255 * ink + alpha) // (2 * alpha.clip(1, None))  # half up
    return _join(np.where(alpha > 0, colour.clip(0, 255), 0), alpha, pixels)


def from_straight(rgba: Pixels) -> Pixels:
    """uint8 (..., 4, H, W) straight RGBA -> the picture laid on white, rounded to nearest, and alpha. As `straight`."""
    colour, alpha = _parts(rgba)
    ink = (2 * colour * alpha + 255) // (2 * 255)  # 255 is odd: there are no ties
    return _join(255 - alpha + ink, alpha, rgba)


def _parts(pixels: Any) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    array = pixels if isinstance(pixels, np.ndarray) else pixels.cpu().numpy()
    if array.dtype != np.uint8 or array.ndim < 3 or array.shape[-3] != 4:
        raise InputError(f"pixels of shape {tuple(array.shape)} and type {array.dtype}; expected (..., 4, H, W) of uint8.")
    wide = array.astype(np.int32)
    return wide[..., :3, :, :], wide[..., 3:, :, :]


def _join(colour: npt.NDArray[np.int32], alpha: npt.NDArray[np.int32], like: Any) -> Any:
    array = np.concatenate([colour, alpha], axis=-3).astype(np.uint8)
    if isinstance(like, np.ndarray):
        return array
    import torch  # not above: the processes that render drawings do without

    return torch.from_numpy(array).to(like.device)
