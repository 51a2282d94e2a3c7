"""Image file bytes of any origin -> upright uint8 pixels in sRGB, or one sentence why not.

What is done, in order: only the parsers of `FORMATS` are tried, whatever the name says; the size in the header is
checked before a pixel is decoded; the first frame is decoded whole (a truncated file is an error); 16-bit grey is
scaled by 255/65535, 16-bit colour keeps its high bytes, CMYK is inverted where Adobe's marker says so; a valid
embedded profile is converted to sRGB; the EXIF orientation is applied; transparency is laid on a background, for four
channels on white, with alpha kept beside it (`sfumato.alpha`); the picture is resized with an antialiasing filter and
cropped (or padded) to the size asked for.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, UnidentifiedImageError

from sfumato.errors import InputError, unknown

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 64_000_000
MAX_SIDE = 8192  # of a resized picture
MAX_FILE_BYTES = 512 << 20
BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}
CROPS = ("center", "pad")

Pixels = npt.NDArray[np.uint8]


class DecodeError(InputError):
    """A file is no picture that can be read; `reason` says why, `name` which."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


@dataclass(frozen=True)
class Target:
    """What a decoded picture must be.

    size: side in pixels, or (height, width); None keeps the picture's own. channels: 1 grey, 3 RGB, 4 the
    picture on white, then alpha: its first three channels are what 3 channels on white give, to the last bit.
    background: what transparency is laid on, and what `pad` fills with; always white for 4 channels, with alpha 0.
    crop: `center` scales the shorter side and cuts the longer; `pad` scales the longer side and fills.
    """

    size: int | tuple[int, int] | None = None
    channels: int = 3
    background: str = "white"
    crop: str = "center"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3, 4):
            raise InputError(f"channels {self.channels}: expected 1 (grey), 3 (RGB) or 4 (with transparency).")
        if self.background not in BACKGROUNDS:
            raise unknown("background", self.background, BACKGROUNDS)
        if self.channels == 4 and self.background != "white":
            raise InputError(f"background {self.background} with 4 channels, which keep transparency: leave it white.")
        if self.crop not in CROPS:
            raise unknown("crop", self.crop, CROPS)
        if self.size is not None and not 1 <= min(self.height_width) <= max(self.height_width) <= MAX_SIDE:
            raise InputError(f"size {self.size}: expected 1 to {MAX_SIDE} pixels a side.")

    @property
    def height_width(self) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        return (self.size or 0, self.size or 0)


def open_header(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture with its header read and checked, no pixel decoded yet. Raises `DecodeError`."""
    if not data:
        raise DecodeError(name, "the file is empty (0 bytes)")
    _check_size(_webp_size(data), name, max_pixels)  # Pillow makes room for the whole canvas when it opens a WebP
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise DecodeError(name, f"more than {max_pixels:,} pixels, refused") from None
    except UnidentifiedImageError:
        raise DecodeError(
            name, f"not a picture that is read here ({_looks_like(data)}; read are {', '.join(FORMATS)})"
        ) from None
    except Exception as error:  # a parser met bytes that its author did not think of: any type can come
        raise DecodeError(name, f"damaged header ({_short(error)})") from None
    _check_size(image.size, name, max_pixels)
    return image


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise DecodeError(name, f"{size[0]}x{size[1]} is more than {max_pixels:,} pixels, refused")


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) in a WebP's header (RFC 9649, sections 2.5 to 2.7), (0, 0) for other files."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return (0, 0)
    match data[12:16]:
        case b"VP8X":
            return (1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
        case b"VP8 ":
            return (int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF)
    return (0, 0)


def open_picture(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The file's first picture, upright in sRGB at its own size: mode L, RGB or RGBA. Raises `DecodeError` with the reason.

    Bytes of 8-bit grey, RGB and RGBA files without a profile come out as they are, also the colours of clear pixels.
    """
    image = open_header(data, name, max_pixels)
    try:
        image.load()
        return _orient(_to_srgb(_to_8_bit(image)), image)
    except DecodeError as error:
        raise DecodeError(name, error.reason) from None
    except Exception as error:  # a parser met bytes that its author did not think of: any type can come
        raise DecodeError(name, f"damaged or truncated ({_short(error)})") from None


def decode(data: bytes, name: str, target: Target = Target(), max_pixels: int = MAX_PIXELS) -> Pixels:
    """(C, H, W) uint8 of the file's first picture. Raises `DecodeError` with the reason."""
    upright = open_picture(data, name, max_pixels)
    try:
        planes = [np.asarray(image if target.size is None else _fit(image, target)) for image in _planes(upright, target)]
    except Exception as error:  # as above
        raise DecodeError(name, f"damaged or truncated ({_short(error)})") from None
    return np.concatenate([p[None] if p.ndim == 2 else p.transpose(2, 0, 1) for p in planes])  # (C, H, W), writable


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Mode L, RGB, RGBA or CMYK; grey and colour keys become alpha."""
    mode, key = image.mode, image.info.get("transparency")
    if mode.startswith("I;16") or (mode == "I" and image.format == "PNG"):
        wide = np.asarray(image).astype(np.uint32)
        grey = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
        return _with_alpha(grey, wide != key) if isinstance(key, int) else grey
    if mode in ("I", "F"):
        kind = "floating-point" if mode == "F" else "32-bit integer"
        raise DecodeError("", f"{kind} pixels have no agreed range: save it with 8 or 16 bits a channel")
    if mode == "CMYK":
        # Pillow reads every CMYK JPEG as Adobe's inverted kind; without Adobe's marker it is not.
        plain = image.format == "JPEG" and "adobe" not in image.info
        return image.point(lambda v: 255 - v) if plain else image
    if mode in ("L", "RGB", "RGBA") and key is None:
        return image
    if mode == "1" and key is None:
        return image.convert("L")
    if key is not None or "A" in mode or "a" in mode:
        return image.convert("RGBA")
    if mode == "P":
        return image.convert(image.palette.mode if image.palette and image.palette.mode == "RGBA" else "RGB")
    return image.convert("RGB")


def _with_alpha(grey: Image.Image, opaque: npt.NDArray[np.bool_]) -> Image.Image:
    alpha = Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8))
    return Image.merge("RGBA", (grey, grey, grey, alpha))


def _to_srgb(image: Image.Image) -> Image.Image:
    """Colours by the embedded profile when it is valid and fits, else as they are; CMYK always becomes RGB."""
    icc = image.info.get("icc_profile")
    if isinstance(icc, bytes) and icc:
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        colour = image.convert("RGB") if alpha else image
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            space = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(profile.profile.xcolor_space.strip())
            if space == colour.mode and "sRGB" not in (profile.profile.profile_description or ""):
                converted = ImageCms.profileToProfile(colour, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
                if converted is not None:
                    if alpha:
                        converted.putalpha(alpha)
                    return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # a broken profile is no reason to lose the picture
    return image.convert("RGB") if image.mode == "CMYK" else image


_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright_size(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) of the picture as `decode` turns it, from the header alone. Raises `DecodeError`."""
    image = open_header(data, name, max_pixels)
    turned = (_orientation(image) or 1) >= 5
    return (image.height, image.width) if turned else image.size


def _orientation(image: Image.Image) -> int | None:
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # broken EXIF: the picture itself is fine
        return None
    return orientation if isinstance(orientation, int) and orientation in _TRANSPOSE else None


def _orient(image: Image.Image, original: Image.Image) -> Image.Image:
    orientation = _orientation(original)
    return image if orientation is None else image.transpose(_TRANSPOSE[orientation])


def _planes(image: Image.Image, target: Target) -> list[Image.Image]:
    """The picture on its background, mode L or RGB, and for 4 channels its alpha, mode L: each is resized by itself."""
    flat = image
    if image.mode == "RGBA":
        canvas = Image.new("RGBA", image.size, (*BACKGROUNDS[target.background], 255))
        flat = Image.alpha_composite(canvas, image).convert("RGB")
    if target.channels != 4:
        return [flat.convert("L" if target.channels == 1 else "RGB")]
    return [flat.convert("RGB"), image.getchannel("A") if image.mode == "RGBA" else Image.new("L", image.size, 255)]


@dataclass(frozen=True)
class Placing:
    """Where a picture goes: its part `box` (left, top, right, bottom, in its own pixels) is resized to `inner` (width, height)
    pixels, which lie at `place` (left, top) of the result."""

    box: tuple[float, float, float, float]
    inner: tuple[int, int]
    place: tuple[int, int] = (0, 0)


def placing(size: tuple[int, int], target: Target) -> Placing:
    """How a picture of `size` (width, height) meets the target; whatever lies beside it must go the same way."""
    if target.size is None:
        return Placing((0.0, 0.0, float(size[0]), float(size[1])), size)
    height, width = target.height_width
    scale = (max if target.crop == "center" else min)(width / size[0], height / size[1])
    if target.crop == "center":
        w, h = min(width / scale, size[0]), min(height / scale, size[1])
        left, top = (size[0] - w) / 2, (size[1] - h) / 2
        if (w, h) == (width, height):
            left, top = float(int(left)), float(int(top))  # no resampling where none is needed
        return Placing((left, top, min(left + w, size[0]), min(top + h, size[1])), (width, height))
    inner = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return Placing((0.0, 0.0, float(size[0]), float(size[1])), inner, ((width - inner[0]) // 2, (height - inner[1]) // 2))


def _fit(image: Image.Image, target: Target) -> Image.Image:
    height, width = target.height_width
    placed = placing(image.size, target)
    # Lanczos to shrink (Pillow widens it to the source pixels it covers); bicubic rings less when it enlarges.
    scale = (max if target.crop == "center" else min)(width / image.width, height / image.height)
    resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    inner = image.resize(placed.inner, resample, box=placed.box)
    if placed.inner == (width, height):
        return inner
    canvas = Image.new(image.mode, (width, height), _fill(image.mode, target))
    canvas.paste(inner, placed.place)
    return canvas


def _fill(mode: str, target: Target) -> Any:
    if mode == "RGB":
        return BACKGROUNDS[target.background]
    return 0 if target.channels == 4 else BACKGROUNDS[target.background][0]  # alpha, or grey


def _looks_like(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page"
    if b"<svg" in head or head.startswith(b"<?xml"):
        return "it is SVG or XML"
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        return "it is HEIC or AVIF: convert it to PNG or JPEG"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: run git lfs pull"
    return "unknown content"


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__
