"""White picture and alpha <-> straight RGBA, against Pillow's compositing and the formula in floating point."""

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.alpha import from_straight, over, straight
from sfumato.errors import InputError


def every_colour_and_alpha() -> np.ndarray:
    """(4, 256, 256) straight: grey by row, alpha by column."""
    colour, alpha = np.mgrid[:256, :256].astype(np.uint8)
    return np.stack([colour, colour, colour, alpha])


def test_from_straight_is_over_white_to_the_nearest_value() -> None:
    rgba = every_colour_and_alpha()
    colour, alpha = rgba[0].astype(float), rgba[3].astype(float) / 255
    white = from_straight(rgba)
    assert (white[:3] == np.rint(colour * alpha + 255 * (1 - alpha))).all()
    assert (white[3] == rgba[3]).all()


def test_from_straight_is_what_pillow_composites() -> None:
    """So that pictures of three and of four channels show one and the same white picture."""
    rgba = every_colour_and_alpha()
    picture = Image.fromarray(np.ascontiguousarray(rgba.transpose(1, 2, 0)))
    laid = Image.alpha_composite(Image.new("RGBA", picture.size, (255, 255, 255, 255)), picture)
    assert (np.asarray(laid)[..., :3].transpose(2, 0, 1) == from_straight(rgba)[:3]).all()


def test_straight_and_back_changes_no_picture_on_white() -> None:
    white = from_straight(every_colour_and_alpha())
    assert (from_straight(straight(white)) == white).all()


def test_straight_gives_the_colour_back_as_well_as_alpha_allows() -> None:
    rgba = every_colour_and_alpha()
    back = straight(from_straight(rgba)).astype(int)
    alpha = rgba[3].astype(int)
    error = np.abs(back[0] - rgba[0])
    assert (error[:, 255] == 0).all()
    assert (error * alpha <= 0.5 * 255 + 0.5 * alpha)[alpha > 0].all()  # half a step of w, half a step of s
    assert (back[:3, alpha == 0] == 0).all()


def test_straight_clips_what_no_ink_gives() -> None:
    """White 10 at alpha 100 would be colour -370, and black without alpha is nothing: both are black."""
    pixels = np.array([10, 10, 10, 100, 0, 255, 0, 0], np.uint8).reshape(2, 4, 1, 1)
    assert straight(pixels).reshape(2, 4).tolist() == [[0, 0, 0, 100], [0, 0, 0, 0]]


def test_tensors_and_arrays_agree() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    for function in (straight, from_straight):
        result = function(torch.from_numpy(rgba))
        assert isinstance(result, torch.Tensor)
        assert (result.numpy() == function(rgba)).all()


def test_over_lays_straight_colours_on_any_background() -> None:
    rng = torch.Generator().manual_seed(0)
    colour, alpha = torch.rand(2, 3, 4, 4, generator=rng), torch.rand(2, 1, 4, 4, generator=rng)
    on_white = colour * alpha + (1 - alpha)
    x = torch.cat([on_white, alpha], 1) * 2 - 1
    for background in (torch.tensor([1.0, 1.0, 1.0]), torch.tensor([-1.0, 0.0, 0.4]), -torch.ones(3)):
        b = (background.view(3, 1, 1) + 1) / 2
        expected = (colour * alpha + b * (1 - alpha)) * 2 - 1
        torch.testing.assert_close(over(x, background), expected)
    torch.testing.assert_close(over(x, torch.ones(3)), x[:, :3], rtol=0, atol=0)


def test_over_clips_alpha() -> None:
    x = torch.tensor([0.5, 0.5, 0.5, 1.4]).view(1, 4, 1, 1)
    assert over(x, -torch.ones(3)).flatten().tolist() == [0.5, 0.5, 0.5]  # opaque, not brighter than it is


@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (4, 2, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="expected"):
        over(torch.zeros(shape), torch.ones(3))
    with pytest.raises(InputError, match="expected"):
        straight(np.zeros((2, 3, 4), np.uint8) if len(shape) == 4 else np.zeros((4, 2, 2)))
