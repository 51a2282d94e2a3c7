"""Small pictures: JPEG against Pillow's, blur against its kernel in space, shrinking against Pillow's resize."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data.degrade import QUALITY, blur, shrink
from sfumato.data.jpeg import jpeg
from sfumato.errors import InputError


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=4, side=64, channels=3):
    """Smooth colours, a sharp rim and some texture, in [-1, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    found = []
    for index in range(count):
        phases = torch.linspace(0, 2, channels)[:, None, None] + index
        smooth = 0.5 * torch.sin(5 * x + 3 * y + phases)
        disc = ((x - 0.4 - 0.05 * index) ** 2 + (y - 0.5) ** 2 < 0.06).float()
        texture = 0.1 * torch.sin(40 * x * (1 + index)) * torch.cos(31 * y)
        found.append((smooth + disc * (0.8 - phases) + texture).clamp(-1, 1))
    return torch.stack(found)


def to_bytes(x):
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def pillow_jpeg(x, quality, subsampling):
    image = to_bytes(x).permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if x.shape[0] == 1 else image).save(
        stream, "JPEG", quality=quality, subsampling=2 if subsampling else 0
    )
    back = np.asarray(Image.open(io.BytesIO(stream.getvalue())))
    back = back[None] if back.ndim == 2 else back.transpose(2, 0, 1)
    return torch.from_numpy(back.astype(np.float32)) / 127.5 - 1


def decibels(x, y):
    return -10 * math.log10(((x - y) / 2).square().mean().item() + 1e-12)


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 95])
@pytest.mark.parametrize("subsampling", [False, True])
@pytest.mark.parametrize(("side", "channels"), [(64, 3), (60, 3), (61, 3), (64, 1)])
def test_jpeg_loses_what_a_real_one_loses(quality, subsampling, side, channels):
    x = pictures(2, side, channels)
    made = jpeg(x, torch.full((2,), float(quality)), torch.full((2,), subsampling))
    for ours, original in zip(made, x, strict=True):
        real = pillow_jpeg(original, quality, subsampling)
        # libjpeg's integer transform rounds differently: a coefficient half way between two steps may take the other one,
        # and steps are large at low qualities
        assert decibels(ours, real) > (40 if quality >= 30 else 35)
        assert decibels(ours, real) > decibels(real, original) + 5  # nearer to the real one than that is to the picture


def test_every_picture_has_its_own_quality():
    x = pictures(3)
    mixed = jpeg(x, torch.tensor([10.0, 50.0, 90.0]), torch.tensor([True, False, True]))
    for index, (quality, subsampled) in enumerate([(10.0, True), (50.0, False), (90.0, True)]):
        alone = jpeg(x[index : index + 1], torch.tensor([quality]), torch.tensor([subsampled]))
        assert torch.equal(mixed[index : index + 1], alone)


def test_better_quality_loses_less():
    x = pictures(1).expand(4, -1, -1, -1)
    lost = (jpeg(x, torch.tensor([10.0, 40.0, 70.0, 95.0])) - x).square().mean((1, 2, 3)).tolist()
    assert lost == sorted(lost, reverse=True)


def test_jpeg_of_one_colour_is_that_colour():
    x = torch.full((1, 3, 16, 16), 0.5)
    x[:, 1] = -0.2
    assert (jpeg(x, torch.tensor([100.0])) - x).abs().max() <= 2 / 127.5


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (3, 8, 8)])
def test_jpeg_refuses_other_shapes(shape):
    with pytest.raises(InputError, match="expected \\(B, 1 or 3, H, W\\)"):
        jpeg(torch.zeros(shape), torch.full((2,), 50.0))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_bicubic_is_pillows(factor):
    x = pictures(1, 64, 1)
    small = 64 // factor
    image = Image.fromarray(x[0, 0].numpy().astype(np.float32), mode="F").resize((small, small), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.asarray(image).copy()).clamp(-1, 1)
    # the same filter (a = -0.5, widened by the factor); single precision
    assert torch.allclose(shrink(x, factor, "bicubic", rng())[0, 0], expected, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("degradation", ["bicubic", "blind"])
def test_shapes_and_ranges(channels, degradation):
    x = torch.rand(3, channels, 24, 32, generator=rng()) * 2 - 1
    found = shrink(x, 4, degradation, rng())
    assert found.shape == (3, channels, 6, 8)
    assert found.dtype == torch.float32
    assert found.min() >= -1
    assert found.max() <= 1


def test_the_same_generator_state_spoils_the_same_way():
    x = pictures(3)
    assert torch.equal(shrink(x, 4, "blind", rng(1)), shrink(x, 4, "blind", rng(1)))
    assert not torch.equal(shrink(x, 4, "blind", rng(1)), shrink(x, 4, "blind", rng(2)))


def test_equal_pictures_are_spoilt_each_in_its_way():
    found = shrink(pictures(1).expand(4, -1, -1, -1), 4, "blind", rng())
    assert all(not torch.equal(found[0], other) for other in found[1:])


def test_noise_and_jpeg_leave_alpha_alone():
    colours = pictures(8)
    alpha = (pictures(8, channels=1) > 0).float() * 2 - 1
    x = torch.cat([torch.maximum(colours, -alpha), alpha], 1)
    shrunk, opaque = shrink(x, 4, "blind", rng()), shrink(torch.cat([x[:, :3], torch.ones_like(alpha)], 1), 4, "blind", rng())
    assert (opaque[:, 3] == 1).all()
    assert (shrunk[:, :3] >= -shrunk[:, 3:] - 1e-6).all()  # on white, ink of alpha a is never darker than 1 - a
    clear = shrunk[:, 3] == -1
    assert clear.any()
    assert (shrunk[:, :3].permute(0, 2, 3, 1)[clear] == 1).all()


def test_blur_is_its_gaussian_in_space():
    x = torch.zeros(1, 1, 41, 41)
    x[0, 0, 20, 20] = 1
    first, second, angle = 3.0, 1.5, 0.6
    found = blur(x, torch.tensor([[first, second, angle]]), (20, 20))[0, 0]
    v, u = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")
    along, across = u * math.cos(angle) + v * math.sin(angle), v * math.cos(angle) - u * math.sin(angle)
    expected = torch.exp(-((along / first) ** 2 + (across / second) ** 2) / 2) / (2 * math.pi * first * second)
    # sampling aliases exp(-2 pi^2 0.25 1.5^2) = 1e-5 of the largest frequencies
    assert torch.allclose(found, expected, atol=1e-5)


def test_blur_keeps_one_colour_and_the_mean_light():
    flat = torch.full((2, 3, 16, 16), 0.3)
    assert torch.allclose(blur(flat, torch.tensor([[2.0, 1.0, 0.0], [0.5, 3.0, 1.0]]), (9, 9)), flat, atol=1e-6)


def test_each_picture_is_blurred_by_its_own_gaussian():
    x = pictures(2)
    both = blur(x, torch.tensor([[0.01, 0.01, 0.0], [3.0, 3.0, 0.0]]), (9, 9))
    assert torch.allclose(both[0], x[0], atol=1e-3)
    assert both[1].var() < 0.95 * x[1].var()


@pytest.mark.parametrize(
    ("shape", "factor", "degradation", "said"),
    [
        ((1, 3, 8, 8), 4, "bicubik", "did you mean 'bicubic'"),
        ((1, 3, 10, 8), 4, "blind", "10x8 to shrink by 4"),
        ((1, 2, 8, 8), 4, "blind", "expected \\(B, 1, 3 or 4, H, W\\)"),
        ((1, 3, 8, 8), 0, "blind", "multiples"),
    ],
)
def test_wrong_arguments_get_one_line(shape, factor, degradation, said):
    with pytest.raises(InputError, match=said):
        shrink(torch.zeros(shape), factor, degradation, rng())


def test_qualities_are_those_of_the_constants():
    assert 1 <= QUALITY[0] < QUALITY[1] <= 100
