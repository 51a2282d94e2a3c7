"""Tasks of a pipeline: sizes that do not fit, what comes back bit for bit, and that the model was told what was given.

What a task draws is compared with `generate(inputs=...)` on a picture that NumPy padded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import task_models
import tiny_models
from sfumato.build import ModelConfig
from sfumato.conditioners.compose import CompositeConfig, Part
from sfumato.conditioners.label import LabelConfig
from sfumato.conditioners.layout import Box
from sfumato.conditioners.low_resolution import LowResolutionConfig, NoisedImage, SmallImage
from sfumato.conditioners.masked import MaskedImage
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.errors import InputError
from sfumato.generation.known import known_part
from sfumato.generation.metadata import TaskParameters, parse_exact, parse_text
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.request import Draft
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.priors.regression import RegressionConfig

Bytes = npt.NDArray[np.uint8]
H, W = 13, 18
PADDED = ((0, 3), (0, 2))  # to 16 x 20: the tiny models' multiple is 4


def pipeline(config: ModelConfig) -> Pipeline:
    return Pipeline(tiny_models.loaded(config), torch.device("cpu"))


def pixels(*shape: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def padded(array: Bytes, widths: tuple[tuple[int, int], tuple[int, int]] = PADDED) -> Bytes:
    return np.pad(array, (*widths, (0, 0))[: array.ndim], mode="edge")


def unit(array: Bytes) -> torch.Tensor:
    """(H, W, C) bytes -> (C, H, W) in [-1, 1]."""
    return torch.from_numpy(array.transpose(2, 0, 1).copy()).float() / 127.5 - 1


def hole() -> Bytes:
    mask = np.zeros((H, W), np.uint8)
    mask[3:9, 4:12] = 255
    return mask


# ---- edit


def test_edit_pads_by_the_edge_and_crops() -> None:
    pipe, given = pipeline(tiny_models.text_config()), pixels(H, W, 3)
    [made] = pipe.edit(Image.fromarray(given), "a cat", seed=3, strength=0.5)
    [whole] = pipe.generate("a cat", seed=3, image=Image.fromarray(padded(given)), strength=0.5, size=(16, 20))
    assert made.size == (W, H)
    assert np.array_equal(np.asarray(made), np.asarray(whole)[:H, :W])


@pytest.mark.parametrize(("mode", "expected"), [("RGB", "RGB"), ("RGBA", "RGBA"), ("L", "RGB"), ("LA", "RGBA"), ("P", "RGB")])
def test_edit_keeps_alpha_where_the_model_draws_it(mode: str, expected: str) -> None:
    given = Image.fromarray(pixels(H, W, 4)).convert(mode)
    assert pipeline(tiny_models.rgba_config()).edit(given, "a cat", seed=1, steps=1)[0].mode == expected
    assert pipeline(tiny_models.text_config()).edit(given, "a cat", seed=1, steps=1)[0].mode == "RGB"


def test_edit_on_a_background_and_at_a_size() -> None:
    given = Image.fromarray(pixels(H, W, 4))
    pipe = pipeline(tiny_models.rgba_config())
    [made] = pipe.edit(given, "a cat", seed=1, size=(30, 22), background="skyblue")
    assert (made.mode, made.size) == ("RGB", (22, 30))


def test_edit_says_what_it_did() -> None:
    given = Image.fromarray(pixels(H, W, 3))
    [made] = pipeline(tiny_models.text_config()).edit(given, "a cat", seed=1, strength=0.5, negative="dog")
    assert "Task: edit, Denoising strength: 0.5" in made.info["parameters"]
    found = parse_exact(made.info["sfumato"])
    assert isinstance(found, TaskParameters)
    assert (found.task, found.strength, found.source, found.height, found.width) == ("edit", 0.5, None, 16, 20)
    assert parse_text(made.info["parameters"]).negative == "dog"


def test_a_model_that_reads_pictures_is_shown_them() -> None:
    pipe, given = pipeline(task_models.picture_config()), pixels(H, W, 3)
    [made] = pipe.edit(Image.fromarray(given), "a cat", seed=3)
    [told] = pipe.generate("a cat", seed=3, inputs={"picture": unit(padded(given))}, size=(16, 20))
    assert np.array_equal(np.asarray(made), np.asarray(told)[:H, :W])
    assert "strength" not in made.info["parameters"]
    [both] = pipe.edit(Image.fromarray(given), "a cat", seed=3, strength=0.3)
    assert both.tobytes() != made.tobytes()


# ---- inpaint


@pytest.mark.parametrize("size", [None, (8, 12)])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(
    "config",
    [task_models.mask_config, lambda: task_models.mask_config(4), task_models.mask_text_config],
    ids=["3", "4", "text"],
)
def test_outside_of_the_mask_every_bit_stays(
    config: Callable[[], ModelConfig], channels: int, size: tuple[int, int] | None
) -> None:
    given, mask = pixels(H, W, channels), hole()
    for made in pipeline(config()).inpaint(Image.fromarray(given), Image.fromarray(mask), num=2, seed=5, size=size):
        found = np.asarray(made)
        assert found.shape == given.shape
        assert np.array_equal(found[mask == 0], given[mask == 0])
        assert (found[mask == 255][:, :3] != given[mask == 255][:, :3]).any()


@pytest.mark.parametrize("name", [None, "hole"])
def test_the_model_sees_the_picture_and_the_mask(name: str | None) -> None:
    pipe = pipeline(task_models.mask_config() if name is None else task_models.mask_text_config())
    given, mask = pixels(H, W, 3), hole()
    told = MaskedImage(unit(padded(given)), torch.from_numpy(padded(mask)).float() / 255)
    [expected] = pipe.generate("", seed=5, inputs=told if name is None else {name: told}, size=(16, 20))
    [made] = pipe.inpaint(Image.fromarray(given), Image.fromarray(mask), seed=5)
    shown = task_models.led_over(np.asarray(expected)[:H, :W], given, mask)
    assert np.array_equal(np.asarray(made)[mask > 0], shown[mask > 0])


def test_alpha_inside_the_mask() -> None:
    """A model without transparency keeps the picture's alpha; the colour laid on white is what it drew."""
    given, mask = pixels(H, W, 4), hole()
    pipe = pipeline(task_models.mask_config())
    [made] = pipe.inpaint(Image.fromarray(given), Image.fromarray(mask), seed=5)
    assert np.array_equal(np.asarray(made)[..., 3], given[..., 3])
    white = Image.alpha_composite(Image.new("RGBA", (W, H), "white"), Image.fromarray(given)).convert("RGB")
    [opaque] = pipe.inpaint(white, Image.fromarray(mask), seed=5)
    alpha = given[..., 3:].astype(float) / 255
    possible = np.maximum(np.asarray(opaque).astype(float), 255 * (1 - alpha))  # no ink of that alpha is darker on white
    shown = np.asarray(made)[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(shown - possible)[mask > 0].max() <= 0.5 + 1e-9  # rounding of a colour, times alpha


def test_a_full_mask_makes_all_of_it_anew() -> None:
    given = pixels(H, W, 3)
    [made] = pipeline(task_models.mask_config()).inpaint(Image.fromarray(given), Image.new("L", (W, H), 255), seed=1)
    assert (np.asarray(made) != given).mean() > 0.9


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P"])
def test_masks_of_any_kind(mode: str) -> None:
    pipe, given, mask = pipeline(task_models.mask_config()), Image.fromarray(pixels(H, W, 3)), Image.fromarray(hole())
    [expected] = pipe.inpaint(given, mask, seed=1, steps=1)
    [found] = pipe.inpaint(given, mask.convert(mode), seed=1, steps=1)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (Image.new("L", (H, W), 255), "mask: got 18x13 pixels (height x width), expected the picture's 13x18"),
        (Image.new("L", (W, H), 127), "nothing in it is white"),
        (Image.new("RGBA", (W, H)), "nothing in it is white"),
    ],
)
def test_masks_that_mean_nothing(mask: Image.Image, words: str) -> None:
    with pytest.raises(InputError) as caught:
        pipeline(task_models.mask_config()).inpaint(Image.fromarray(pixels(H, W, 3)), mask)
    assert words in str(caught.value)


FREE = {
    "none": tiny_models.unconditional_config,
    "text": tiny_models.text_config,
    "rgba": tiny_models.rgba_config,
    "label": task_models.label_config,
}


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("name", FREE)
def test_any_other_model_inpaints_too(name: str, channels: int) -> None:
    given, mask = pixels(H, W, channels), hole()
    prompt = "" if name == "none" else "apple"
    for made in pipeline(FREE[name]()).inpaint(Image.fromarray(given), Image.fromarray(mask), prompt, num=2, seed=5):
        found = np.asarray(made)
        assert found.shape == given.shape
        assert np.array_equal(found[mask == 0], given[mask == 0])
        assert (found[mask == 255][:, :3] != given[mask == 255][:, :3]).any()


@pytest.mark.parametrize("rounds", [None, 2])
def test_without_training_the_known_part_is_held(rounds: int | None) -> None:
    pipe, given = pipeline(tiny_models.text_config()), pixels(16, 20, 3)
    mask = Image.fromarray(padded(hole()))
    known = known_part(pipe.model.first_stage, Image.fromarray(given), mask, (16, 20), resampling=rounds or 1)
    request = pipe.request(Draft(("a cat",), seed=5, height=16, width=20))
    [expected] = pipe.stream(request, known=known)
    [made] = pipe.inpaint(Image.fromarray(given), mask, "a cat", seed=5, resampling=rounds)
    inside, shown = np.asarray(mask) > 0, task_models.led_over(np.asarray(expected.image), given, np.asarray(mask))
    assert np.array_equal(np.asarray(made)[inside], shown[inside])


def test_where_nothing_is_known_it_is_plain_generation() -> None:
    pipe = pipeline(tiny_models.text_config())
    [expected] = pipe.generate("a cat", seed=5, size=(16, 20))
    for edge in (255, 0):  # all white; one pixel in each cell of the latent
        mask = np.full((16, 20), edge, np.uint8)
        mask[::2, ::2] = 255
        given = pixels(16, 20, 3)
        [made] = pipe.inpaint(Image.fromarray(given), Image.fromarray(mask), "a cat", seed=5)
        shown = task_models.led_over(np.asarray(expected), given, mask)
        assert np.array_equal(np.asarray(made)[mask > 0], shown[mask > 0])


def test_what_only_models_without_a_mask_can_do() -> None:
    given, mask = Image.fromarray(pixels(H, W, 3)), Image.fromarray(hole())
    with pytest.raises(InputError, match="resampling: the model 'tiny' takes the mask itself"):
        pipeline(task_models.mask_config()).inpaint(given, mask, resampling=2)
    with pytest.raises(InputError, match="resampling: got 0"):
        pipeline(tiny_models.text_config()).inpaint(given, mask, resampling=0)
    with pytest.raises(InputError, match="'tiny' needs a small picture, so it cannot inpaint"):
        pipeline(task_models.small_config()).inpaint(given, mask)


# ---- upscale


@pytest.mark.parametrize(("factor", "fold", "stage"), [(2, 1, 2), (4, 1, 2), (2, 2, 4), (4, 1, 4)])
def test_any_size_becomes_factor_times_it(factor: int, fold: int, stage: int) -> None:
    pipe = pipeline(task_models.small_config(factor, fold=fold, stage=stage))
    given = pixels(7, 5, 3)
    multiple = max(2 * stage, factor)  # of the result
    sides = [-(-side * factor // multiple) * multiple for side in (7, 5)]
    widths = ((0, sides[0] // factor - 7), (0, sides[1] // factor - 5))
    latent = (sides[0] // stage * fold, sides[1] // stage * fold)
    [expected] = pipe.generate("", seed=2, inputs=SmallImage(unit(padded(given, widths)), latent), size=tuple(sides))
    [made] = pipe.upscale(Image.fromarray(given), factor, seed=2)
    assert made.size == (5 * factor, 7 * factor)
    assert np.array_equal(np.asarray(made), np.asarray(expected)[: 7 * factor, : 5 * factor])


def test_a_regression_upscales_any_size_too() -> None:
    config = task_models.small_config(2)
    assert isinstance(config.prior, DiffusionConfig)
    config = dataclasses.replace(config, prior=RegressionConfig(config.prior.network))
    assert pipeline(config).upscale(Image.fromarray(pixels(7, 5, 3)), seed=2)[0].size == (10, 14)


def test_upscaling_keeps_alpha() -> None:
    given = pixels(7, 5, 4)
    given[..., 3] = np.where(given[..., 3] > 127, 255, 0)
    [made] = pipeline(task_models.small_config()).upscale(Image.fromarray(given), seed=2)
    expected = Image.fromarray(given[..., 3]).resize((10, 14), Image.Resampling.BICUBIC)
    assert made.mode == "RGBA"
    assert np.array_equal(np.asarray(made)[..., 3], np.asarray(expected))
    own = pipeline(task_models.small_config(channels=4))
    assert own.upscale(Image.fromarray(given), seed=2)[0].mode == "RGBA"
    assert own.upscale(Image.fromarray(given[..., :3]), seed=2)[0].mode == "RGB"


def test_a_class_and_a_small_picture() -> None:
    """Conditions compose: the prompt is for the part that reads it."""
    parts = (
        Part("small", LowResolutionConfig(factor=2)),
        Part("label", LabelConfig(task_models.NAMES, task_models.CONTEXT)),
    )
    pipe = pipeline(task_models.with_conditioner(CompositeConfig(parts), concat=3, context=True))
    given = pixels(8, 8, 3)
    [expected] = pipe.generate("", seed=2, inputs={"small": SmallImage(unit(given)), "label": "apple"})
    assert pipe.upscale(Image.fromarray(given), 2, "apple", seed=2)[0].tobytes() == expected.tobytes()
    assert pipe.upscale(Image.fromarray(given), 2, "zebra", seed=2)[0].tobytes() != expected.tobytes()
    with pytest.raises(InputError, match="did you mean 'apple'"):
        pipe.upscale(Image.fromarray(given), 2, "aple", seed=2)


def test_each_picture_has_noise_of_its_own() -> None:
    pipe, given = pipeline(task_models.noised_config()), pixels(7, 5, 3)
    both = pipe.upscale(Image.fromarray(given), prompt="a cat", num=2, seed=2)
    for seed, made in zip((2, 3), both, strict=True):
        assert made.tobytes() == pipe.upscale(Image.fromarray(given), 4, "a cat", seed=seed)[0].tobytes()
        noise = torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(seed + 2**32))
        told = {"small": NoisedImage(unit(padded(given, ((0, 1), (0, 1)))), noise)}
        [expected] = pipe.generate("a cat", seed=seed, inputs=told, size=(32, 24))
        assert np.array_equal(np.asarray(made), np.asarray(expected)[:28, :20])


def test_another_factor_than_the_models() -> None:
    pipe = pipeline(task_models.small_config(4))
    with pytest.raises(InputError, match="factor: got 2, but the model 'tiny' makes pictures 4 times larger"):
        pipe.upscale(Image.fromarray(pixels(4, 4, 3)), 2)
    with pytest.raises(InputError, match=r"enlarged picture: 2400x40 pixels .* 2048 a side; make it smaller first"):
        pipe.upscale(Image.fromarray(pixels(600, 10, 3)), 4)


# ---- paint, compose


def test_paint_pads_the_map_by_its_edge() -> None:
    pipe = pipeline(task_models.map_config())
    classes = pixels(H, W) % 4
    told = torch.from_numpy(padded(classes)).long()
    [expected] = pipe.generate("", seed=2, inputs=told, size=(16, 20))
    for given in (torch.from_numpy(classes), Image.fromarray(classes), Image.fromarray(classes, "P")):
        [made] = pipe.paint(given, seed=2)
        assert made.size == (W, H)
        assert np.array_equal(np.asarray(made), np.asarray(expected)[:H, :W])


def test_paint_at_a_size_takes_the_nearest_class() -> None:
    pipe = pipeline(task_models.map_config())
    classes = pixels(4, 4) % 4
    [made] = pipe.paint(torch.from_numpy(classes), seed=2, size=(16, 16))
    [expected] = pipe.paint(torch.from_numpy(classes.repeat(4, 0).repeat(4, 1)), seed=2)
    assert made.tobytes() == expected.tobytes()


def test_maps_with_unknown_classes() -> None:
    classes = torch.zeros(8, 8, dtype=torch.int64)
    classes[2, 5] = 4
    with pytest.raises(InputError, match="map: class 4 at row 2, column 5 is unknown, expected 0 to 3"):
        pipeline(task_models.map_config()).paint(classes)
    with pytest.raises(InputError, match="coloured"):
        pipeline(task_models.map_config()).paint(Image.fromarray(pixels(8, 8, 3)))


def test_pixels_without_a_label() -> None:
    """255 is the class called unlabelled, where training had one."""
    part = SegmentationConfig(4, channels=3, halvings=1, names=("sky", "grass", "apple", "unlabelled"))
    pipe = pipeline(task_models.with_conditioner(part, concat=3))
    classes = pixels(16, 16) % 3
    [expected] = pipe.paint(torch.from_numpy(np.where(classes == 1, 3, classes)), seed=2)
    [made] = pipe.paint(Image.fromarray(np.where(classes == 1, np.uint8(255), classes)), seed=2)
    assert made.tobytes() == expected.tobytes()


@pytest.mark.parametrize("text", [False, True])
def test_compose_tells_the_boxes(text: bool) -> None:
    pipe = pipeline(task_models.layout_config(text=text))
    layout = {
        "size": [100, 200],
        "boxes": [{"label": "Zebra", "box": [20, 10, 100, 50]}, {"label": 0, "box": [0, 0, 200, 100]}],
    }
    boxes = (Box(3, 0.1, 0.1, 0.5, 0.5), Box(0, 0.0, 0.0, 1.0, 1.0))
    [expected] = pipe.generate("a cat" if text else "", seed=2, inputs={"boxes": boxes} if text else boxes)
    [made] = pipe.compose(layout, "a cat" if text else (), seed=2)
    assert made.tobytes() == expected.tobytes()
    assert pipe.compose(layout, seed=2, size=(15, 22))[0].size == (22, 15)


def test_labels_that_are_not_there() -> None:
    with pytest.raises(InputError, match="did you mean 'apple'"):
        pipeline(task_models.layout_config()).compose({"boxes": [{"label": "aple", "box": [0, 0, 1, 1]}]})
    with pytest.raises(InputError, match="by numbers only"):
        pipeline(task_models.layout_config(())).compose({"boxes": [{"label": "apple", "box": [0, 0, 1, 1]}]})
    with pytest.raises(InputError, match="box label 4"):
        pipeline(task_models.layout_config()).compose({"boxes": [{"label": 4, "box": [0, 0, 1, 1]}]})


# ---- any


@pytest.mark.parametrize("task", ["upscale", "paint", "compose"])
def test_a_model_that_takes_something_else(task: str) -> None:
    pipe = pipeline(task_models.label_config())
    picture = Image.fromarray(pixels(H, W, 3))
    calls: dict[str, Callable[[], object]] = {
        "upscale": lambda: pipe.upscale(picture),
        "paint": lambda: pipe.paint(torch.zeros(4, 4, dtype=torch.int64)),
        "compose": lambda: pipe.compose({"boxes": [{"label": 0, "box": [0, 0, 1, 1]}]}),
    }
    with pytest.raises(InputError, match=r"model: 'tiny' takes no .*--model"):
        calls[task]()


def test_a_model_that_was_told_nothing_says_what_it_needs() -> None:
    for config, said in (
        (task_models.mask_config(), "needs a picture and a mask, which no prompt gives"),
        (task_models.layout_config(text=True), "needs a layout of boxes, which no prompt gives"),
        (tiny_models.text_config(), "prompt: got none"),
    ):
        with pytest.raises(InputError, match=said):
            pipeline(config).generate()


def test_words_that_a_model_cannot_read() -> None:
    pipe = pipeline(task_models.mask_config())
    for given in ({"prompt": "a hat"}, {"negative": "a hat"}):
        with pytest.raises(InputError, match="'a hat', but the model 'tiny' reads no text"):
            pipe.inpaint(Image.fromarray(pixels(H, W, 3)), Image.fromarray(hole()), **given)


def test_what_is_no_picture() -> None:
    picture, array = Image.fromarray(pixels(H, W, 3)), pixels(H, W, 3)
    pipe = pipeline(tiny_models.text_config())
    with pytest.raises(InputError, match="image: got ndarray, expected a PIL picture"):
        pipe.edit(array, "a cat")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="mask: got ndarray, expected a PIL picture"):
        pipe.inpaint(picture, array, "a cat")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="image: got one of mode F"):
        pipe.edit(Image.new("F", (4, 4)), "a cat")


def test_pictures_beyond_the_limits() -> None:
    with pytest.raises(InputError, match=r"image: 13x4096 pixels .* at most 2048 a side; .* --size"):
        pipeline(tiny_models.text_config()).edit(Image.fromarray(pixels(H, 4096, 3)), "a cat")
