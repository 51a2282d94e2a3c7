"""Colour profiles: models draw in sRGB, and a picture that carries another profile keeps its own bytes under it."""

from __future__ import annotations

import io

from PIL import Image, ImageCms


def profile_of(image: Image.Image) -> bytes | None:
    """The profile of an RGB or RGBA picture; None for sRGB, for none, and for a broken one, which programs ignore."""
    icc = image.info.get("icc_profile")
    if not isinstance(icc, bytes) or not icc or image.mode not in ("RGB", "RGBA"):
        return None
    try:
        profile = _read(icc)
        usual = "sRGB" in (profile.profile.profile_description or "")
        colours = profile.profile.xcolor_space.strip() == "RGB"
        from_srgb(to_srgb(Image.new("RGB", (1, 1)), icc), icc)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return icc if colours and not usual else None


def to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """An RGB or RGBA picture as its profile, one that `profile_of` has found, shows it, in sRGB; alpha stays."""
    return image if icc is None else _converted(image, _read(icc), _srgb())


def from_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """An RGB or RGBA picture in sRGB as bytes of a profile that `profile_of` has found; alpha stays."""
    return _converted(image, _srgb(), _read(icc))


def _read(icc: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(icc))


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _converted(image: Image.Image, given: ImageCms.ImageCmsProfile, wanted: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(image.convert("RGB"), given, wanted, outputMode="RGB")
    assert converted is not None, "not in place"
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    return converted
