"""What conditioners need beyond the published models: transparency, folded small pictures, class names, retrieved features."""

import pytest
import torch

from sfumato.build import build_conditioner
from sfumato.conditioners.layout import LayoutConfig
from sfumato.conditioners.low_resolution import LowResolution, LowResolutionConfig, SmallImage
from sfumato.conditioners.masked import MaskedImage, MaskedImageConfig, MaskedLatents
from sfumato.conditioners.picture_latent import PictureLatentConfig, PictureLatents
from sfumato.conditioners.retrieved import Retrieved, RetrievedConfig
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.config import from_dict, to_dict
from sfumato.errors import InputError

RNG = torch.Generator().manual_seed(0)


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=RNG) * 2 - 1


def test_a_folded_small_picture_keeps_every_pixel():
    low = LowResolution(LowResolutionConfig(channels=4, fold=2))
    small = picture(4, 6, 8)
    concat = low(low.prepare([SmallImage(small)])).concat
    assert concat.shape == (1, 16, 3, 4)
    for channel in range(4):
        for dy in range(2):
            for dx in range(2):  # channel c, place (dy, dx) of each 2 x 2 square -> channel 4 c + 2 dy + dx
                assert torch.equal(concat[0, 4 * channel + 2 * dy + dx], small[channel, dy::2, dx::2])


def test_a_small_picture_that_does_not_fold_is_refused():
    low = LowResolution(LowResolutionConfig(fold=2))
    with pytest.raises(InputError, match=r"small image of \(5, 8\) pixels; expected sides that are multiples of 2"):
        low.prepare([SmallImage(picture(3, 5, 8))])
    assert low.prepare([SmallImage(picture(3, 5, 8), size=(6, 8))]).shape == (1, 3, 6, 8)


def test_transparency_goes_through_masks_and_pictures():
    seen = []

    def encode(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x[:, :, ::2, ::2]

    masked = MaskedLatents(MaskedImageConfig(convention="paper", channels=4), encode)
    given, mask = picture(4, 4, 4), torch.zeros(4, 4)
    mask[:, 2:] = 1
    concat = masked(masked.prepare([MaskedImage(given, mask)])).concat
    assert concat.shape == (1, 5, 2, 2)
    assert torch.equal(seen[0][0, :, :, :2], given[:, :, :2])
    assert bool((seen[0][0, :, :, 2:] == -1).all())
    whole = PictureLatents(PictureLatentConfig(factor=2.0, channels=4), encode)
    assert torch.equal(whole(whole.prepare([given])).concat, 2 * given[None, :, ::2, ::2])


@pytest.mark.parametrize(
    "make",
    [
        lambda: MaskedImageConfig(channels=0),
        lambda: LowResolutionConfig(factor=1),
        lambda: LowResolutionConfig(fold=0),
        lambda: SegmentationConfig(num_classes=2, names=("a",)),
        lambda: SegmentationConfig(num_classes=2, names=("a", "a")),
        lambda: LayoutConfig(num_classes=None, names=("a",)),
        lambda: RetrievedConfig(num=0),
    ],
)
def test_configs_refuse(make):
    with pytest.raises(InputError, match="expected"):
        make()


def test_names_survive_the_config_file():
    config = SegmentationConfig(num_classes=2, names=("sky", "sea"))
    assert from_dict(SegmentationConfig, to_dict(config)) == config


def test_retrieved_pictures_are_a_set_of_maps():
    config = RetrievedConfig(num=2, tokens=3, dim=5, width=8)
    retrieved = build_conditioner(config)
    assert isinstance(retrieved, Retrieved)
    one, other = picture(2, 3, 5), picture(2, 3, 5)
    context = retrieved(retrieved.prepare([one, other])).context
    assert context.shape == (2, 6, 8)
    swapped = retrieved(retrieved.prepare([one.flip(0)])).context  # the other neighbour first: the same tokens, exchanged
    torch.testing.assert_close(swapped[0].unflatten(0, (2, 3)).flip(0).flatten(0, 1), context[0])
    null = retrieved.nulled(retrieved.prepare([one]))
    assert not null.any()
    assert torch.equal(null, retrieved.null(1))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(2, 3, 4), "expected"),
        (torch.zeros(2, 3, 5, dtype=torch.int64), "floats"),
        (torch.full((2, 3, 5), float("nan")), "not finite"),
    ],
)
def test_wrong_neighbours_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        Retrieved(RetrievedConfig(num=2, tokens=3, dim=5)).prepare([given])
