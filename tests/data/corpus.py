"""Files as they come in real folders, made in memory: good ones with the pixels they must give, and bad ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

H, W = 24, 32


@dataclass(frozen=True)
class Good:
    name: str
    data: bytes
    rgb: np.ndarray  # (H, W, 3) what a person sees on white
    tolerance: float = 0.0  # mean absolute difference


@dataclass(frozen=True)
class Bad:
    name: str
    data: bytes
    reason: str  # part of the message


def picture() -> np.ndarray:
    """(H, W, 3) uint8: smooth, no two corners alike, so that a flip or a swap of channels shows."""
    y, x = np.mgrid[0:H, 0:W]
    return np.stack([x * 255 // (W - 1), y * 255 // (H - 1), (x + 2 * y) * 255 // (W + 2 * H - 3)], axis=-1).astype(np.uint8)


def saved(array: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG written by hand: `rows` are raw scan lines, each after its filter byte 0."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def scan_lines(array: np.ndarray) -> bytes:
    """(H, ...) big-endian samples -> lines with filter byte 0."""
    return b"".join(b"\0" + row.tobytes() for row in array)


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    a = alpha[..., None] / 255.0
    return np.rint(rgb * a + 255 * (1 - a))


def good() -> Iterator[Good]:
    rgb = picture()
    grey = rgb[..., 0]
    grey3 = np.repeat(grey[..., None], 3, axis=-1)
    alpha = rgb[::-1, :, 1]
    rgba = np.dstack([rgb, alpha])
    for kind in ("PNG", "BMP", "TIFF"):
        yield Good(f"rgb.{kind.lower()}", saved(rgb, kind), rgb)
        yield Good(f"grey.{kind.lower()}", saved(grey, kind), grey3)
    yield Good("lossless.webp", saved(rgb, "WEBP", lossless=True), rgb)
    yield Good("rgb.jpg", saved(rgb, "JPEG", quality=95), rgb, 2)
    yield Good("progressive.jpg", saved(rgb, "JPEG", quality=95, progressive=True), rgb, 2)
    yield Good("a jpeg.png", saved(rgb, "JPEG", quality=95), rgb, 2)  # the suffix lies, the content counts
    yield Good("rgba.png", saved(rgba, "PNG"), over_white(rgb, alpha), 0.5)
    yield Good("rgba.webp", saved(rgba, "WEBP", lossless=True, exact=True), over_white(rgb, alpha), 0.5)
    yield Good(
        "la.png",
        saved(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]), "PNG"),
        over_white(grey3, alpha),
        0.5,
    )
    hidden = np.dstack([rgb, np.where(np.arange(W) < W // 2, 0, 255) * np.ones((H, 1), int)]).astype(np.uint8)
    yield Good("hidden colour.png", saved(hidden, "PNG"), over_white(rgb, hidden[..., 3]))
    yield from _palettes(rgb)
    yield from _sixteen_bits(rgb)
    bits = (rgb[..., 0] > 127).astype(np.uint8) * 255
    one = Image.fromarray(bits).convert("1", dither=Image.Dither.NONE)
    for kind in ("PNG", "BMP", "TIFF"):
        yield Good(f"one bit.{kind.lower()}", saved(one, kind), np.repeat(bits[..., None], 3, axis=-1))
    yield from _cmyk(rgb)
    yield from _frames(rgb)
    yield from _exif(rgb)
    yield from _profiles(rgb)
    yield Good("interlaced key.gif", saved(Image.fromarray(rgb).quantize(64), "GIF", interlace=1), _quantized(rgb, 64))


def _quantized(rgb: np.ndarray, colours: int) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).quantize(colours).convert("RGB"))


def _palettes(rgb: np.ndarray) -> Iterator[Good]:
    index = (np.arange(H * W).reshape(H, W) % 4).astype(np.uint8)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]], dtype=np.uint8)
    table = chunk(b"PLTE", colours.tobytes())
    yield Good("palette.png", png(W, H, 8, 3, scan_lines(index), table), colours[index])
    transparency = np.array([0, 255, 128], dtype=np.uint8)  # the fourth is opaque
    seen = over_white(colours[index], np.array([0, 255, 128, 255])[index])
    yield Good("palette tRNS.png", png(W, H, 8, 3, scan_lines(index), table, chunk(b"tRNS", transparency.tobytes())), seen, 0.5)
    grey = rgb[..., 0]
    key = np.where((grey == grey[0, 5])[..., None], 255, np.repeat(grey[..., None], 3, -1))
    yield Good("grey key.png", png(W, H, 8, 0, scan_lines(grey), chunk(b"tRNS", struct.pack(">H", grey[0, 5]))), key)
    red, green, blue = (int(v) for v in rgb[3, 5])
    key = np.where((rgb == rgb[3, 5]).all(-1, keepdims=True), 255, rgb)
    yield Good("colour key.png", png(W, H, 8, 2, scan_lines(rgb), chunk(b"tRNS", struct.pack(">HHH", red, green, blue))), key)


def _sixteen_bits(rgb: np.ndarray) -> Iterator[Good]:
    wide = rgb.astype(">u2") * 257
    grey3 = np.repeat(rgb[..., :1], 3, axis=-1)
    yield Good("grey16.png", png(W, H, 16, 0, scan_lines(wide[..., 0])), grey3)
    yield Good("rgb16.png", png(W, H, 16, 2, scan_lines(wide)), rgb)
    alpha = wide[::-1, :, 1]
    yield Good("rgba16.png", png(W, H, 16, 6, scan_lines(np.dstack([wide, alpha]))), over_white(rgb, rgb[::-1, :, 1]), 0.5)
    yield Good(
        "la16.png", png(W, H, 16, 4, scan_lines(np.dstack([wide[..., 0], alpha]))), over_white(grey3, rgb[::-1, :, 1]), 0.5
    )
    yield Good("grey16.tiff", saved(Image.fromarray(wide[..., 0].astype(np.uint16)), "TIFF"), grey3)
    key = np.where((rgb[..., :1] == rgb[0, 5, 0]), 255, grey3)
    yield Good("grey16 key.png", png(W, H, 16, 0, scan_lines(wide[..., 0]), chunk(b"tRNS", wide[0, 5, 0].tobytes())), key)


def _cmyk(rgb: np.ndarray) -> Iterator[Good]:
    cmyk = np.dstack([255 - rgb, rgb[..., 2] // 3]).astype(np.uint8)

    def seen(inks: np.ndarray) -> np.ndarray:
        rest = 255.0 - inks
        return rest[..., :3] * rest[..., 3:] / 255

    image = Image.fromarray(cmyk, "CMYK")
    adobe = saved(image, "JPEG", quality=95, subsampling=0)
    yield Good("cmyk.tiff", saved(image, "TIFF"), seen(cmyk), 1)
    yield Good("cmyk adobe.jpg", adobe, seen(cmyk), 2)
    start = adobe.index(b"\xff\xee")  # without Adobe's marker the same numbers are the inks themselves
    length = int.from_bytes(adobe[start + 2 : start + 4], "big")
    yield Good("cmyk plain.jpg", adobe[:start] + adobe[start + 2 + length :], seen(255 - cmyk), 2)


def _frames(rgb: np.ndarray) -> Iterator[Good]:
    first, second = Image.fromarray(rgb), Image.fromarray(255 - rgb)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = saved(first, kind, save_all=True, append_images=[second], **options)
        yield Good(f"animated.{kind.lower()}", data, rgb)
    frames = [frame.quantize(64) for frame in (first, second)]
    yield Good("animated.gif", saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), _quantized(rgb, 64))


def _exif(rgb: np.ndarray) -> Iterator[Good]:
    stored = {
        1: rgb, 2: rgb[:, ::-1], 3: rgb[::-1, ::-1], 4: rgb[::-1], 5: rgb.transpose(1, 0, 2),
        6: rgb[:, ::-1].transpose(1, 0, 2), 7: rgb[::-1, ::-1].transpose(1, 0, 2), 8: rgb[::-1].transpose(1, 0, 2),
    }  # fmt: skip
    # Orientation 6: "row 0 is the right side": turning what is stored by 90 degrees clockwise shows it upright.
    stored[6], stored[8] = np.rot90(rgb, 1), np.rot90(rgb, -1)
    for orientation, array in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = saved(np.ascontiguousarray(array), "PNG", exif=exif)
        yield Good(f"exif {orientation}.png", data, rgb)
        yield Good(f"exif {orientation}.jpg", saved(np.ascontiguousarray(array), "JPEG", quality=95, exif=exif), rgb, 2)
    yield Good("broken exif.jpg", saved(rgb, "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage"), rgb, 2)


def _profiles(rgb: np.ndarray) -> Iterator[Good]:
    yield Good("broken profile.png", saved(rgb, "PNG", icc_profile=b"not a profile"), rgb)
    yield Good(
        "srgb profile.png",
        saved(rgb, "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        rgb,
    )


def bad() -> Iterator[Bad]:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)  # noise: no file is cut in its padding
    yield Bad("zero.png", b"", "empty")
    yield Bad("one.png", b"\x89", "not a picture")
    for kind, options in (("PNG", {}), ("JPEG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {})):
        data = saved(rgb, kind, **options)
        for percent in (10, 50, 99):
            yield Bad(f"cut at {percent}.{kind.lower()}", data[: len(data) * percent // 100], "truncated|damaged|not a picture")
    grey = saved(rgb[..., 0], "GIF")
    for percent in (10, 50):
        yield Bad(f"cut at {percent}.gif", grey[: len(grey) * percent // 100], "truncated|damaged|not a picture")
    yield Bad("page.jpg", b"<!DOCTYPE html><html><body>404</body></html>", "HTML")
    yield Bad("drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG")
    yield Bad("pointer.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS")
    yield Bad("float.tiff", saved(rgb[..., 0].astype(np.float32), "TIFF"), "floating-point")
    yield Bad("int32.tiff", saved(rgb[..., 0].astype(np.int32), "TIFF"), "32-bit integer")
    yield from bombs()
    yield Bad("text bomb.png", _text_bomb(), "damaged")
    bent = bytearray(saved(rgb, "PNG"))
    bent[len(bent) // 2] ^= 0xFF
    yield Bad("bit flips.png", bytes(bent), "damaged")


def bombs() -> Iterator[Bad]:
    """A header that promises too much, and next to nothing behind it."""
    yield Bad("bomb.png", png(20_000, 10_000, 8, 2, b"\0" * 100), "refused")
    yield Bad("80 megapixels.png", png(10_000, 8_000, 8, 2, b"\0" * 100), "refused")
    gif_frame = b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x08\x00"
    yield Bad("bomb.gif", b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + gif_frame, "refused")
    header = struct.pack("<IiiHHIIiiII", 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
    yield Bad("bomb.bmp", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header, "refused")
    canvas = (16_382).to_bytes(3, "little") * 2
    yield Bad(
        "bomb.webp",
        b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + canvas + b"\0" * 90,
        "refused",
    )
    lossless = struct.pack("<I", 16_382 | 16_382 << 14)
    yield Bad(
        "bomb lossless.webp",
        b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8L" + struct.pack("<I", 90) + b"\x2f" + lossless + b"\0" * 90,
        "refused",
    )
    tags = [
        (256, 4, 1, 50_000),
        (257, 4, 1, 50_000),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (279, 4, 1, 8),
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    yield Bad("bomb.tiff", b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0" * 4, "refused")
    jpeg = bytearray(saved(np.zeros((8, 8, 3), np.uint8), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    yield Bad("bomb.jpg", bytes(jpeg), "refused")


def _text_bomb() -> bytes:
    """Compressed text chunks that would swell to 128 MB, before the picture."""
    swollen = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * (128 << 20), 9))
    return png(8, 8, 8, 0, b"\0" * 72, swollen)


def foreign() -> Iterator[tuple[str, bytes]]:
    """Formats that Pillow can write and sfumato does not read, under the name of a PNG."""
    Image.init()
    for kind in sorted(set(Image.SAVE) - {"PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "MPO"}):
        for mode in ("RGB", "L", "1", "F", "P"):
            try:
                yield kind, saved(Image.fromarray(picture()).convert(mode), kind)
                break
            except Exception:  # not every format takes every mode, and some need an encoder that is not built in
                continue
