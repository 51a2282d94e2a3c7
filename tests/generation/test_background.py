"""Transparent pictures: one drawing on any background, in pictures, texts, sheets and films."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_models
from sfumato.cli.evaluate import generator
from sfumato.errors import InputError
from sfumato.generation.engine import Progress
from sfumato.generation.film import FILM_FORMATS, Film
from sfumato.generation.metadata import Parameters, parse_exact, parse_text, read_parameters
from sfumato.generation.output import SHEET_FORMATS, save_picture
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.pixels import to_pictures, to_previews
from sfumato.generation.request import Draft, Picture
from sfumato.generation.sheet import GAP, make_sheet, on_white, save_sheet

CPU = torch.device("cpu")
COLOURS = ["white", "black", "#87ceeb", "#ffcc00"]
CLEAR, RED, HALF = (255, 255, 255, 0), (255, 0, 0, 255), (0, 0, 255, 128)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(tiny_models.loaded(tiny_models.rgba_config()), CPU)


@pytest.fixture(scope="module")
def opaque() -> Pipeline:
    return Pipeline(tiny_models.loaded(tiny_models.text_config()), CPU)


def white_and_alpha(rgba: np.ndarray) -> torch.Tensor:
    """(H, W, 4) straight RGBA bytes -> (1, 4, H, W) in [-1, 1], composited on white in float64."""
    colour, alpha = rgba[..., :3] / 255, rgba[..., 3:] / 255
    pixels = np.concatenate([colour * alpha + (1 - alpha), alpha], axis=-1) * 2 - 1
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]


def laid_on(image: Image.Image, colour: str) -> np.ndarray:
    """By Pillow, as any viewer shows it."""
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, colour), image).convert("RGB")).astype(int)


def test_a_picture_on_a_colour_is_what_pillow_makes_of_the_transparent_one() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    rgba[:8, :, 3], rgba[8:16, :, 3] = 0, 255
    x = white_and_alpha(rgba)
    for colour in COLOURS:
        [image] = to_pictures(x, colour)
        assert image.mode == "RGB"
        assert np.abs(np.asarray(image).astype(int) - laid_on(Image.fromarray(rgba), colour)).max() <= 1
    [image] = to_pictures(x, "transparent")
    found = np.asarray(image).astype(int)
    assert image.mode == "RGBA"
    assert (found[..., 3] == rgba[..., 3]).all()
    assert (found[8:16] == rgba[8:16]).all()
    # a byte of the white picture is off by 1/2 at most, which the division by alpha enlarges; where that is 0, no colour is
    colour, alpha = found[rgba[..., 3] > 0][:, :3], rgba[rgba[..., 3] > 0].astype(int)
    assert (np.abs(colour - alpha[:, :3]) <= 0.5 + 0.5 * 255 / alpha[:, 3:]).all()


def test_impossible_colours_show_alike_on_every_background() -> None:
    """Any four channels, also beyond [-1, 1]: a model's errors give no dark rims on colours."""
    x = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    [transparent] = to_pictures(x, "transparent")
    for colour in COLOURS[1:]:
        assert np.abs(np.asarray(to_pictures(x, colour)[0]).astype(int) - laid_on(transparent, colour)).max() <= 2


def test_white_is_the_models_own_picture() -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for image, expected in zip(to_pictures(x), to_pictures(x[:, :3]), strict=True):
        assert image.mode == "RGB"
        assert image.tobytes() == expected.tobytes()


def test_fewer_channels_have_no_background() -> None:
    for channels in (1, 3):
        x = torch.randn(1, channels, 4, 4, generator=torch.Generator().manual_seed(0))
        plain = to_pictures(x)[0].tobytes()
        assert [to_pictures(x, b)[0].tobytes() for b in ("transparent", "#000000")] == [plain, plain]


def test_previews_are_on_white() -> None:
    z = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = to_pictures(z)[0].tobytes()
    for channels in (3, 4):  # a map to the white picture, with alpha or without
        assert to_previews(z, torch.cat([torch.eye(4), torch.zeros(1, 4)])[:, :channels])[0].tobytes() == expected


def test_the_drawing_does_not_depend_on_the_background(pipeline: Pipeline) -> None:
    def made(background: str) -> tuple[torch.Tensor, list[Image.Image]]:
        request = pipeline.request(Draft(("a red dragon", "cat"), seed=7, background=background))
        all_made = list(pipeline.stream(request))
        return torch.stack([one.pixels for one in all_made]), [one.image for one in all_made]

    pixels, white = made("white")
    assert (pixels.shape, pixels.dtype) == ((2, 4, 16, 16), torch.uint8)
    assert [image.tobytes() for image in white] == [p[:3].permute(1, 2, 0).numpy().tobytes() for p in pixels]
    modes = {"transparent": "RGBA", "black": "RGB", "skyblue": "RGB"}
    for background, mode in modes.items():
        again, images = made(background)
        assert torch.equal(again, pixels)
        assert {image.mode for image in images} == {mode}
        assert [i.tobytes() for i in images] == [
            i.tobytes() for i in pipeline.generate(["a red dragon", "cat"], seed=7, background=background)
        ]
        if background == "transparent":
            assert [np.asarray(i)[..., 3].tolist() for i in images] == pixels[:, 3].tolist()
        else:
            assert [i.tobytes() for i in images] != [i.tobytes() for i in white]


def test_raw_pixels_of_opaque_models_are_the_picture(opaque: Pipeline) -> None:
    [made] = opaque.stream(opaque.request(Draft(("cat",), seed=7)))
    assert made.image.tobytes() == made.pixels.permute(1, 2, 0).numpy().tobytes()


def test_an_evaluation_is_given_the_models_own_channels(pipeline: Pipeline, opaque: Pipeline) -> None:
    for model, channels in ((pipeline, 4), (opaque, 3)):
        pixels = generator(model, Draft())(["a red dragon", "cat"], [7, 8])
        assert (pixels.shape, pixels.dtype) == ((2, channels, 16, 16), torch.uint8)
        images = model.generate(["a red dragon", "cat"], seed=7)
        assert [p[:3].permute(1, 2, 0).numpy().tobytes() for p in pixels] == [image.tobytes() for image in images]


def test_steps_are_shown_on_the_background(pipeline: Pipeline) -> None:
    seen: set[tuple[str, str]] = set()

    def on_step(progress: Progress) -> None:
        seen.add((progress.decode()[0].mode, progress.previews()[0].mode))

    pipeline.generate("cat", seed=3, background="transparent", on_step=on_step)
    assert seen == {("RGBA", "RGB")}
    pipeline.generate("cat", seed=3, background="red", on_step=on_step)
    assert seen == {("RGBA", "RGB"), ("RGB", "RGB")}


@pytest.mark.parametrize("background", ["transparent", "black", "#fc0"])
def test_a_model_without_alpha_says_so(opaque: Pipeline, background: str) -> None:
    assert not opaque.draws_transparency
    with pytest.raises(InputError, match=r"background: got .*'tiny' draws no transparency; .*--background white") as caught:
        opaque.generate("cat", background=background)
    assert str(caught.value).isprintable()
    plain, white = (opaque.generate("cat", seed=1, **b)[0] for b in ({}, {"background": "#ffffff"}))
    assert plain.tobytes() == white.tobytes()
    assert plain.info == white.info


@pytest.mark.parametrize("background", ["transparant", "", "a\0b", "x" * 10_000, None, 7, "#ff000080"])
def test_unknown_backgrounds_are_refused(pipeline: Pipeline, background: object) -> None:
    assert pipeline.draws_transparency
    with pytest.raises(InputError, match=r"background: got .*expected white, transparent") as caught:
        pipeline.generate("cat", background=background)  # type: ignore[arg-type]
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("background", ["transparent", "#87ceeb"])
def test_both_texts_carry_the_background(background: str) -> None:
    parameters = Parameters("a red dragon", "blurry", 7, 20, 4.0, "dpmpp_2m", 128, 96, "emoji", "abcdef1234", background)
    assert f"Model: emoji, Background: {background}, Version: sfumato" in parameters.to_text()
    assert parse_text(parameters.to_text()) == parse_exact(parameters.to_json()) == parameters
    white = dataclasses.replace(parameters, background="white")
    assert "ackground" not in white.to_text() + white.to_json()  # as older releases wrote
    assert parse_text(white.to_text()) == parse_exact(white.to_json()) == white


@pytest.mark.parametrize("value", ['"x y"', "null", '["white"]', '"\\u0000"', "7"])
def test_a_bad_background_in_a_file_is_refused(value: str) -> None:
    with pytest.raises(InputError, match="background"):
        parse_exact(f'{{"format": 1, "background": {value}}}')


def test_a_bad_background_of_another_tool_is_refused() -> None:
    with pytest.raises(InputError, match="background"):
        parse_text("a\nSteps: 2, Seed: 1, Background: " + "x" * 9000)


@pytest.mark.parametrize("background", ["transparent", "skyblue"])
def test_sd_parsers_reads_it(pipeline: Pipeline, tmp_path: Path, background: str) -> None:
    sd_parsers = pytest.importorskip("sd_parsers")
    [image] = pipeline.generate("a red dragon", seed=7, negative="blurry", background=background)
    path = save_picture(image, tmp_path / "a.png")
    info = sd_parsers.ParserManager().parse(path)
    assert info is not None
    assert info.generator.value == "AUTOMATIC1111"
    [found] = info.samplers
    assert [p.value for p in found.prompts] == ["a red dragon"]
    assert [p.value for p in found.negative_prompts] == ["blurry"]
    assert {k: str(v) for k, v in found.parameters.items()} == {"steps": "3", "cfg_scale": "3", "seed": "7"}
    assert (found.model.name, info.metadata["Background"]) == ("tiny", read_parameters(path).background)


def tiles() -> list[Image.Image]:
    return [Image.new("RGBA", (8, 6), colour) for colour in (RED, CLEAR, HALF)]


def test_sheets_of_transparent_pictures_are_transparent() -> None:
    sheet = make_sheet(tiles(), 2)
    assert (sheet.mode, sheet.size) == ("RGBA", (16 + GAP, 12 + GAP))
    assert [sheet.getpixel(p) for p in ((0, 0), (8 + GAP, 0), (0, 6 + GAP), (8, 0), (8 + GAP, 6 + GAP))] == [
        RED, CLEAR, HALF, CLEAR, CLEAR
    ]  # fmt: skip
    assert make_sheet([*tiles()[:1], Image.new("RGB", (8, 6))], 2).mode == "RGB"
    small = make_sheet([Image.new("RGBA", (64, 64), RED)] * 4, 2, largest=50)
    assert small.getpixel((0, 0)) == RED


@pytest.mark.parametrize("suffix", SHEET_FORMATS)
def test_sheet_formats_keep_alpha_where_they_can(tmp_path: Path, suffix: str) -> None:
    with Image.open(save_sheet(make_sheet(tiles(), 2), tmp_path / f"a{suffix}")) as image:
        assert image.mode == ("RGB" if suffix in (".jpg", ".jpeg") else "RGBA")
        for at, expected in (((2, 2), (255, 0, 0)), ((12, 2), (255, 255, 255)), ((2, 10), (127, 127, 255))):
            found = on_white(image.convert("RGBA")).getpixel(at)
            assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 12, at


class Growing(torch.nn.Module):
    """Stands for a first stage: red of the alpha that the latent is."""

    preview = None

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        alpha = z.expand(-1, 1, 6, 8)
        return torch.cat([torch.ones_like(alpha), -alpha, -alpha, alpha], dim=1)


@pytest.mark.parametrize("suffix", FILM_FORMATS)
def test_films_keep_alpha_where_they_can(tmp_path: Path, suffix: str) -> None:
    film = Film(1, 1)
    for step in range(1, 5):
        z = torch.full((1, 1, 1, 1), 1 - 0.5 * step)  # fades: frames must not pile up
        film.add(Progress((Picture(0, "x", 0),), step, 4, z, Growing(), "transparent"))  # type: ignore[arg-type]
    film.finish(0, Image.new("RGBA", (8, 6), CLEAR))
    with Image.open(film.save(tmp_path / f"a{suffix}")) as found:
        alphas, greens = [], []
        for i in range(found.n_frames):
            found.seek(i)
            frame = found.convert("RGBA")
            alphas.append(frame.getpixel((4, 3))[3])
            greens.append(on_white(frame).getpixel((4, 3))[1])
    assert len(greens) >= 4
    for i, (alpha, green) in enumerate(zip(alphas, greens, strict=True)):
        shown = max(0.0, 255 * (1 - 0.25 * (i + 1)))  # step 4 and the finished picture are clear
        assert abs(green - (255 - shown)) <= 4
        assert suffix == ".gif" or abs(alpha - shown) <= 2
    assert suffix != ".gif" or set(alphas) == {255}


def test_film_of_opaque_previews_ends_transparent(tmp_path: Path) -> None:
    stage = Growing()
    stage.preview = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])  # type: ignore[assignment]
    film = Film(1, 1, previews=True)
    film.add(Progress((Picture(0, "x", 0),), 1, 1, torch.ones(1, 1, 6, 8), stage, "transparent"))  # type: ignore[arg-type]
    film.finish(0, Image.new("RGBA", (8, 6), HALF))
    with Image.open(film.save(tmp_path / "a.png")) as found:
        assert found.n_frames == 2
        assert found.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
        found.seek(1)
        assert found.convert("RGBA").getpixel((0, 0)) == HALF
