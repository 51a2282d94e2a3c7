"""Every file of the corpus is decoded right or refused with its reason."""

import time

import numpy as np
import pytest
from corpus import H, W, bad, bombs, foreign, good, picture, png, saved, scan_lines
from PIL import Image, ImageCms

from sfumato.data.decode import DecodeError, Target, decode
from sfumato.errors import InputError

GOOD = {item.name: item for item in good()}
BAD = {item.name: item for item in bad()}


@pytest.mark.parametrize("name", GOOD)
def test_good(name):
    item = GOOD[name]
    pixels = decode(item.data, name)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (3, H, W)
    assert np.abs(pixels.transpose(1, 2, 0) - item.rgb.astype(float)).mean() <= item.tolerance


@pytest.mark.parametrize("name", BAD)
def test_bad(name):
    item = BAD[name]
    with pytest.raises(DecodeError, match=item.reason) as caught:
        decode(item.data, name)
    assert caught.value.name == name
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def test_corpus_is_large():
    assert len(GOOD) + len(BAD) >= 60


@pytest.mark.parametrize("item", bombs(), ids=lambda item: item.name)
def test_bombs_are_refused_from_the_header(item):
    start = time.perf_counter()
    with pytest.raises(DecodeError, match="refused"):
        decode(item.data, item.name)
    assert time.perf_counter() - start < 0.2


def test_bombs_take_no_memory():
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for item in bombs():
        with pytest.raises(DecodeError):
            decode(item.data, item.name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_no_other_format_is_opened():
    kinds = dict(foreign())
    assert len(kinds) >= 15
    for kind, data in kinds.items():
        with pytest.raises(DecodeError, match=r"not a picture|damaged"):
            decode(data, f"{kind}.png")


def test_sixteen_bits_keep_their_levels():
    ramp = np.linspace(0, 65535, 4096).astype(">u2").reshape(64, 64)
    pixels = decode(png(64, 64, 16, 0, scan_lines(ramp)), "ramp.png", Target(channels=1))
    assert len(np.unique(pixels)) == 256
    assert np.abs(pixels[0] - ramp / 257.0).max() <= 0.5 + 1e-9


def test_a_wide_gamut_profile_is_applied():
    """Red of a profile with other primaries: the expected value by the matrices, not by Pillow."""
    profile, matrix = _display_p3()
    colour = np.array([200, 60, 40], dtype=np.uint8)
    pixels = decode(saved(np.full((8, 8, 3), colour), "PNG", icc_profile=profile), "p3.png")
    linear = matrix @ _linear(colour / 255)
    expected = 255 * _encoded(np.clip(linear, 0, 1))
    assert np.abs(pixels[:, 4, 4] - expected).max() <= 2
    assert np.abs(pixels[:, 4, 4].astype(int) - colour).max() > 5  # it did something


def _linear(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def _encoded(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.0031308, v * 12.92, 1.055 * v ** (1 / 2.4) - 0.055)


def _display_p3() -> tuple[bytes, np.ndarray]:
    """An sRGB profile with the three colorant tags of Display P3 written over it; and linear P3 -> linear sRGB."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    p3 = np.array([[0.51512, 0.29198, 0.1571], [0.2412, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])  # D50
    srgb = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.7141]])
    for index, tag in enumerate((b"rXYZ", b"gXYZ", b"bXYZ")):
        entry = data.index(tag)
        offset = int.from_bytes(data[entry + 4 : entry + 8], "big")
        fixed = np.rint(p3[:, index] * 65536).astype(">i4").tobytes()
        data[offset + 8 : offset + 20] = fixed
    return bytes(data).replace("sRGB".encode("utf-16-be"), "P3P3".encode("utf-16-be")), np.linalg.inv(srgb) @ p3


@pytest.mark.parametrize(("background", "value"), [("white", 255), ("black", 0), ("grey", 128)])
def test_background(background, value):
    clear = saved(np.zeros((8, 8, 4), np.uint8), "PNG")
    assert (decode(clear, "clear.png", Target(8, 3, background)) == value).all()
    assert (decode(clear, "clear.png", Target(8, 1, background)) == value).all()


def soft() -> np.ndarray:
    """(H, W, 4) straight RGBA: the corpus picture under an alpha of all values."""
    alpha = np.random.default_rng(0).integers(0, 256, (H, W, 1)).astype(np.uint8)
    return np.concatenate([picture(), alpha], axis=-1)


def test_four_channels_are_the_picture_on_white_and_alpha():
    rgba = soft()
    pixels = decode(saved(rgba, "PNG"), "soft.png", Target(None, 4))
    colour, alpha = rgba[..., :3] / 255, rgba[..., 3:] / 255
    assert pixels.shape == (4, H, W)
    assert (pixels[3] == rgba[..., 3]).all()
    assert (pixels[:3].transpose(1, 2, 0) == np.rint(255 * (colour * alpha + 1 - alpha))).all()


@pytest.mark.parametrize("crop", ["center", "pad"])
@pytest.mark.parametrize("size", [None, 8, 16, (40, 9), 64])
@pytest.mark.parametrize("name", ["rgba.png", "rgba.webp", "rgba16.png", "rgb.png"])
def test_the_first_three_of_four_channels_are_those_of_three(name, size, crop):
    """To the last bit, also resized and padded: a model with alpha sees the pictures of one without."""
    data = GOOD[name].data
    three, four = (decode(data, name, Target(size, channels, "white", crop)) for channels in (3, 4))
    assert (four[:3] == three).all()


def test_four_channels_resize_without_a_halo():
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:, :16] = (255, 0, 0, 255)  # opaque red beside transparent black
    pixels = decode(saved(rgba, "PNG"), "half.png", Target(8, 4)).astype(int)
    assert (pixels[0] == 255).all()  # red on white is never darker in red
    assert np.abs(pixels[1] - (255 - pixels[3])).max() <= 1  # as much white as there is no red
    assert pixels[3, 4, 0] == 255
    assert pixels[3, 4, 7] == 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_opaque_pictures_have_full_alpha(kind):
    for size in (None, 8):
        assert (decode(saved(picture(), kind), "opaque", Target(size, 4))[3] == 255).all()


def test_padding_of_four_channels_is_transparent_white():
    wide = np.full((8, 16, 3), 10, np.uint8)
    pixels = decode(saved(wide, "PNG"), "wide.png", Target(16, 4, "white", "pad"))
    assert (pixels[:, 4:12].transpose(1, 2, 0) == (10, 10, 10, 255)).all()
    assert (pixels[:, :4].transpose(1, 2, 0) == (255, 255, 255, 0)).all()


def test_grey_channel_is_luma():
    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[...] = (255, 0, 0)
    assert (decode(saved(rgb, "PNG"), "red.png", Target(8, 1)) == 76).all()  # 0.299 * 255


def test_center_crop_takes_the_middle():
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = picture()[:8, :8]
    assert (decode(saved(wide, "PNG"), "wide.png", Target(8)).transpose(1, 2, 0) == wide[:, 8:16]).all()
    tall = np.ascontiguousarray(wide.transpose(1, 0, 2))
    assert (decode(saved(tall, "PNG"), "tall.png", Target(8)).transpose(1, 2, 0) == tall[8:16]).all()


def test_pad_keeps_everything():
    wide = np.full((8, 16, 3), 10, np.uint8)
    pixels = decode(saved(wide, "PNG"), "wide.png", Target(16, 3, "white", "pad"))
    assert (pixels[:, 4:12] == 10).all()
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 12:] == 255).all()


def test_shrinking_averages():
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)  # one pixel squares: without a filter 0 or 255
    pixels = decode(saved(board, "PNG"), "board.png", Target(8, 1))
    assert np.abs(pixels.astype(float) - 127.5).max() < 4


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 10_000), (10_000, 1), (3, 5)])
@pytest.mark.parametrize("crop", ["center", "pad"])
def test_odd_shapes(height, width, crop):
    data = saved(np.full((height, width, 3), 77, np.uint8), "PNG")
    pixels = decode(data, "odd.png", Target(16, 3, "white", crop))
    assert pixels.shape == (3, 16, 16)
    assert (pixels == 77).any()


def test_rectangles():
    assert decode(saved(picture(), "PNG"), "a.png", Target((10, 20))).shape == (3, 10, 20)


@pytest.mark.parametrize(
    "options", [{"channels": 2}, {"channels": 4, "background": "grey"}, {"background": "pink"}, {"crop": "centre"}, {"size": 0}]
)
def test_impossible_targets(options):
    with pytest.raises(InputError):
        Target(**options)


def test_mutations_never_do_worse_than_an_error():
    rng = np.random.default_rng(0)
    seeds = [saved(picture(), kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")]
    seeds.append(saved(Image.fromarray(picture()).quantize(16), "GIF"))
    decoded = 0
    for round_number in range(600):
        data = bytearray(seeds[round_number % len(seeds)])
        for _ in range(rng.integers(1, 8)):
            data[rng.integers(len(data))] = rng.integers(256)
        try:
            pixels = decode(bytes(data), "mutant", Target(16), max_pixels=1_000_000)
        except DecodeError:
            continue
        decoded += 1
        assert pixels.shape == (3, 16, 16)
    assert decoded > 50
