"""Pictures with a colour profile of their own: bytes and profile stay, and the model sees and draws what they mean."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import task_models
import tiny_models
from sfumato.cli.main import main
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.profile import from_srgb, profile_of, to_srgb

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from test_decode import _display_p3

P3, TO_SRGB = _display_p3()
H, W = 13, 18


def picture(channels: int) -> Image.Image:
    """Colours inside of sRGB, in P3."""
    image = Image.fromarray(np.random.default_rng(0).integers(90, 170, (H, W, channels), dtype=np.uint8))
    image.info["icc_profile"] = P3
    return image


def hole() -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    mask[3:9, 4:12] = 255
    return mask


def linear(v: np.ndarray) -> np.ndarray:
    """sRGB's curve, which Display P3 shares."""
    v = v / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("channels", [3, 4])
def test_there_and_back(channels: int) -> None:
    """By the matrix of the primaries, not by Pillow: linear light within what a byte can hold."""
    given = picture(channels)
    assert profile_of(given) == P3
    shown = to_srgb(given, P3)
    assert shown.mode == given.mode
    wanted = linear(np.asarray(given)[..., :3].astype(float)) @ TO_SRGB.T
    assert np.abs(linear(np.asarray(shown)[..., :3].astype(float)) - wanted).max() < 0.01
    back = from_srgb(shown, P3)
    assert np.abs(np.asarray(back).astype(int) - np.asarray(given)).max() <= 1
    assert np.array_equal(np.asarray(back)[..., 3:], np.asarray(given)[..., 3:])


def test_profiles_that_change_nothing() -> None:
    image = picture(3)
    for icc in (b"", b"no profile", P3[:200], ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), None, 7):
        image.info["icc_profile"] = icc
        assert profile_of(image) is None
        assert to_srgb(image, None) is image
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image.info["icc_profile"] = lab
    assert profile_of(image) is None
    assert profile_of(picture(3).convert("L")) is None


@pytest.mark.parametrize("channels", [3, 4])
def test_inpainting_keeps_bytes_and_profile(channels: int) -> None:
    given, mask = picture(channels), hole()
    if channels == 4:
        given.putalpha(255)
    pipe = Pipeline(tiny_models.loaded(task_models.mask_config()), torch.device("cpu"))
    [made] = pipe.inpaint(given, Image.fromarray(mask), seed=3)
    assert made.info["icc_profile"] == P3
    assert made.mode == given.mode
    assert np.array_equal(np.asarray(made)[mask == 0], np.asarray(given)[mask == 0])
    [seen] = pipe.inpaint(to_srgb(given, P3), Image.fromarray(mask), seed=3)
    shown, wanted = (linear(np.asarray(v)[..., :3].astype(float)) for v in (to_srgb(made, P3), seen))
    assert np.abs(shown - wanted)[mask > 0].max() < 0.01  # rounded in P3, then in sRGB


def test_inpainting_a_file_with_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_models.write_model(tmp_path / "tiny", task_models.mask_config())
    given, mask = picture(4), hole()
    given.save("a.png", icc_profile=P3)
    Image.fromarray(mask).save("m.png")
    flags = ["--model", str(model), "--seed", "3", "--device", "cpu"]
    assert main(["inpaint", "a.png", "--mask", "m.png", *flags, "--out", "b.png"]) == 0
    with Image.open("b.png") as made:
        assert made.info["icc_profile"] == P3
        assert "Task: inpaint" in made.info["parameters"]
        assert np.array_equal(np.asarray(made)[mask == 0], np.asarray(given)[mask == 0])
    buffer = io.BytesIO()
    to_srgb(given, P3).save(buffer, "PNG", icc_profile=None)
    Path("c.png").write_bytes(buffer.getvalue())
    edit = ["--model", str(tiny_models.write_model(tmp_path / "text", tiny_models.text_config())), *flags[2:], "--steps", "1"]
    for name in ("a", "c"):
        assert main(["edit", f"{name}.png", "a cat", *edit, "--out", f"{name}2.png"]) == 0
    with Image.open("a2.png") as one, Image.open("c2.png") as other:
        assert one.tobytes() == other.tobytes()
