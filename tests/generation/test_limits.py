"""The boundary table of requests: every value at every front door of this package gets the same verdict."""

from __future__ import annotations

import argparse
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageColor

from sfumato.cli import generate as cli
from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS, SAMPLER_ALIASES, SAMPLER_NAMES, number_from_text, shorten, size_from_text
from sfumato.generation.request import Draft, Request
from sfumato.noise import MAX_SEED
from sfumato.samplers import DISPLAY_NAMES, SAMPLERS

HUGE = 10**5000


class Hostile:
    """An object whose text forms raise."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


NEVER_WHOLE = [None, True, False, "7", "", "x", "7.0", 3.7, 7.0, math.nan, math.inf, -math.inf, 1j, [1], (1,), {}, b"7"]
NEVER_WHOLE += [Hostile(), object(), np.float32(3), np.array([3]), Fraction(7, 2), int, HUGE, -HUGE]

WHOLE = {
    "steps": ([1, 2, 20, 999, 1000, np.int64(5)], [0, -1, 1001, 10**9, 2**31, 2**63, 2**64, -(2**63)]),
    "num": ([1, 2, 9_999, 10_000], [0, -1, 10_001, 10**6, 2**64]),
    "batch_size": ([1, 255, 256], [0, -1, 257, 10**6, 2**64]),
    "seed": ([0, 1, 2**31, 2**32 - 1, np.uint32(2**32 - 1)], [-1, -(2**31), 2**32, 2**64, 2**70]),
    "height": ([1, 7, 16, 2048], [0, -1, -8, 2049, 10**6, 2**64]),
    "width": ([1, 7, 16, 2048], [0, -1, -8, 2049, 10**6, 2**64]),
}
GUIDANCE_GOOD = [0, 0.0, -0.0, 1, 1.0, 4.5, 49.999, 50, 50.0, np.float32(2.5), Fraction(1, 2), 5e-324]
GUIDANCE_BAD = [None, True, False, "4", "nan", math.nan, math.inf, -math.inf, float("1e999"), -1, -1e-9, 50.0001, 1e308]
GUIDANCE_BAD += [HUGE, -HUGE, 1j, [4], {}, b"4", Hostile(), np.array([1.0, 2.0]), np.float64("nan")]

GOOD = [(name, value) for name, (good, _) in WHOLE.items() for value in good] + [("guidance", v) for v in GUIDANCE_GOOD]
BAD = [(name, value) for name, (_, bad) in WHOLE.items() for value in [*bad, *NEVER_WHOLE]]
BAD += [("guidance", value) for value in GUIDANCE_BAD]
BAD += [
    ("sampler", value) for value in (None, 7, True, "", "dimm", "DDIM", "ddim ", "x" * 10_000, "\x1b[31m", "ddim\0", b"ddim")
]
BACKGROUNDS_BAD = [
    None,
    7,
    True,
    b"white",
    (255, 255, 255),
    "",
    " white",
    "white\0",
    "whit",
    "w" * 10_000,
    "\x1b[31m",
    "\ud800",
]
BACKGROUNDS_BAD += ["#", "#ff", "#ffff", "#ff000080", "#gggggg", "ffffff", "rgb(1,2,3)", "#fff\n", "\u212ahaki", Hostile()]
BAD += [("background", value) for value in BACKGROUNDS_BAD]
TEXTS_BAD = [None, 7, b"a", ["a"], "a\0b", "\ud800", "a" * 10_001, Hostile()]
BAD += [(name, value) for name in ("negative", "prompts") for value in TEXTS_BAD]

REQUEST = {"prompts": ("a",), "num": 1, "seed": 0, "steps": 20, "guidance": 4.0, "sampler": "ddim", "height": 16, "width": 16}


def ident(row: tuple[str, object]) -> str:
    value = row[1]
    text = type(value).__name__ if isinstance(value, Hostile) or type(value) is object else shorten(value)  # no addresses
    return f"{row[0]}={text[:30].encode('ascii', 'replace').decode()}"


def test_table_is_large() -> None:
    assert len(GOOD) + len(BAD) >= 200


@pytest.mark.parametrize("row", GOOD, ids=ident)
def test_good_value_is_kept(row: tuple[str, object]) -> None:
    name, value = row
    request = Request(**REQUEST | {name: value})
    assert getattr(request, name) == value
    assert type(getattr(request, name)) in (int, float)
    assert getattr(Draft(**{name: value}), name) == value


@pytest.mark.parametrize("row", BAD, ids=ident)
def test_bad_value_is_refused_in_one_line(row: tuple[str, object]) -> None:
    name, value = row
    bad = [value] if name == "prompts" else value
    for make in (lambda: Request(**REQUEST | {name: bad}), lambda: Draft(**{name: bad})):
        if value is None and name in ("seed", "steps", "guidance", "sampler", "height", "width", "negative"):
            continue  # None leaves the choice to the model
        with pytest.raises(InputError) as caught:
            make()
        message = str(caught.value)
        assert name.rstrip("s") in message
        assert len(message) < 400
        assert message.isprintable()


@pytest.mark.parametrize("name", ["steps", "num", "batch_size", "seed", "guidance", "height", "width", "sampler"])
def test_request_has_no_place_for_none(name: str) -> None:
    if name in ("num", "batch_size"):
        with pytest.raises(InputError):
            Request(**REQUEST | {name: None})
    else:
        check = getattr(LIMITS, name, lambda v: LIMITS.side(name, v))
        with pytest.raises(InputError):
            check(None)


TYPED = [
    *[("steps", t) for t in ("0", "-1", "1001", "1e3", "3.7", "ten", "", " ", "0x10", "1_0", "٣", "9" * 5000, "nan", "True")],
    *[("seed", t) for t in ("-1", "4294967296", "1180591620717411303424", "1.5", "inf", "9" * 5000, "--1", "7\n8")],
    *[("guidance", t) for t in ("nan", "inf", "-inf", "1e999", "-0.1", "51", "four", "", "9" * 5000, "0x1p3")],
    *[("num", t) for t in ("0", "-3", "10001", "2.5", "many")],
    *[("batch_size", t) for t in ("0", "257", "1000000", "auto")],
    *[
        ("size", t)
        for t in ("0x0", "0", "16x", "x16", "16x16x16", "-16x16", "1000000x16", "16,16", "big", "", "9" * 50, "2049x16")
    ],
    *[("sampler", t) for t in ("", "dimm", "DPM++ 2M Karras", "../ddim", "ddim\n")],
    *[("background", t) for t in ("", "whit", "#ff000080", "white\0", "w" * 10_001, "\udcff", "transparent\n", "rgb(0,0,0)")],
    *[("negative", t) for t in ("\udcff", "a\0", "n" * 10_001)],
    *[("device", t) for t in ("", "gpu", "cuda2", "tpu:0", "../cpu")],
]


def parsed(**flags: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return argparse.Namespace(**vars(parser.parse_args(["a cat"])) | flags)


@pytest.mark.parametrize("row", TYPED, ids=ident)
def test_typed_flag_is_refused_in_one_line(row: tuple[str, str]) -> None:
    name, text = row
    with pytest.raises(InputError) as caught:
        cli.plan(parsed(**{name: text}))
    message = str(caught.value)
    assert len(message) < 400
    assert message.isprintable()
    assert any(word in message for word in (name, "height", "width"))


def test_typed_flags_are_read() -> None:
    flags = {
        "num": "2",
        "seed": "+7",
        "steps": "1000",
        "guidance": "1e0",
        "size": "32x64",
        "batch_size": "3",
        "sampler": "heun",
    }
    draft = cli.plan(parsed(**flags)).draft
    assert draft == Draft(("a cat",), None, 2, 7, 1000, 1.0, "heun", 32, 64, 3)


@pytest.mark.parametrize(("given", "kept"), [
    ("white", "white"), ("White", "white"), ("#fff", "white"), ("#FFFFFF", "white"), ("transparent", "transparent"),
    ("Transparent", "transparent"), ("black", "#000000"), ("skyblue", "#87ceeb"), ("SkyBlue", "#87ceeb"), ("#fc0", "#ffcc00"),
    ("#FFCC01", "#ffcc01"),
])  # fmt: skip
def test_a_background_has_one_name(given: str, kept: str) -> None:
    assert Request(**REQUEST | {"background": given}).background == kept
    assert cli.plan(parsed(background=given)).draft.background == kept
    assert LIMITS.background(kept) == kept


def test_a_mistyped_background_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'transparent'"):
        LIMITS.background("transparant")


def test_every_named_colour_is_a_background() -> None:
    for colour in ImageColor.colormap:
        kept = LIMITS.background(colour)
        assert ImageColor.getrgb(kept) == ImageColor.getrgb(colour)


@given(st.one_of(st.text(), st.binary(), st.integers(), st.none(), st.lists(st.text())))
def test_any_background_is_read_or_refused_in_one_line(value: object) -> None:
    message = ""
    try:
        assert LIMITS.background(LIMITS.background(value)) == LIMITS.background(value)
    except InputError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 400


def test_minus_zero_guidance_is_zero() -> None:
    assert math.copysign(1, LIMITS.guidance(-0.0)) == 1


def test_last_picture_must_have_a_seed() -> None:
    top = LIMITS.max_seed
    assert Request(**REQUEST | {"seed": top - 5, "num": 6}).pictures()[-1].seed == top
    with pytest.raises(InputError, match="seed"):
        Request(**REQUEST | {"seed": top - 4, "num": 6})
    with pytest.raises(InputError, match="seed"):
        Request(**REQUEST | {"seed": top, "prompts": ("a", "b")})


def test_number_of_pictures_is_bounded() -> None:
    assert len(Request(**REQUEST | {"prompts": ("a",) * 100, "num": 100}).pictures()) == 10_000
    with pytest.raises(InputError, match="prompts"):
        Request(**REQUEST | {"prompts": ("a",) * 101, "num": 100})


def test_pictures_are_prompt_by_prompt_with_consecutive_seeds() -> None:
    pictures = Request(**REQUEST | {"prompts": ("a", "b"), "num": 2, "seed": 5}).pictures()
    assert [(p.index, p.prompt, p.seed) for p in pictures] == [(0, "a", 5), (1, "a", 6), (2, "b", 7), (3, "b", 8)]


@pytest.mark.parametrize(("value", "multiple", "nearest"), [(17, 16, 16), (31, 16, 32), (20, 8, 16), (2047, 64, 2048)])
def test_odd_size_names_the_nearest(value: int, multiple: int, nearest: int) -> None:
    with pytest.raises(InputError, match=f"multiple of {multiple} .*nearest is {nearest}"):
        LIMITS.side("height", value, multiple)


def test_draft_takes_the_models_defaults() -> None:
    defaults = {"steps": 9, "guidance": 2.0, "sampler": "euler", "image_size": (32, 16), "multiple": 16}
    request = Draft(("a",), seed=3).complete(**defaults, needs_prompt=True)
    assert request == Request(("a",), 1, 3, 9, 2.0, "euler", 32, 16)
    assert Draft(seed=3).complete(**defaults, needs_prompt=False).prompts == ("",)
    with pytest.raises(InputError, match="prompt"):
        Draft().complete(**defaults, needs_prompt=True)
    with pytest.raises(InputError, match="multiple of 16"):
        Draft(("a",), height=24).complete(**defaults, needs_prompt=True)


def test_seed_by_chance_leaves_room() -> None:
    defaults = {"steps": 9, "guidance": 2.0, "sampler": "euler", "image_size": (16, 16), "multiple": 16, "needs_prompt": True}
    seeds = {Draft(("a",), num=10_000).complete(**defaults).seed for _ in range(4)}
    assert len(seeds) > 1


def test_tables_agree_with_the_samplers() -> None:
    assert SAMPLER_NAMES == DISPLAY_NAMES
    assert set(SAMPLER_NAMES) == set(SAMPLERS)
    assert LIMITS.max_seed == MAX_SEED


def test_names_of_other_programs_become_ours() -> None:
    assert LIMITS.sampler("euler_ancestral") == "euler_a"
    assert set(SAMPLER_ALIASES.values()) <= set(SAMPLERS)
    assert not set(SAMPLER_ALIASES) & set(SAMPLERS)
    assert Draft(("cat",), sampler="uni_pc").sampler == "unipc"


@given(st.text())
def test_any_text_as_number_is_a_number_or_itself(text: str) -> None:
    value = number_from_text(text)
    assert isinstance(value, int | float) or value == text


@given(st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1))
def test_size_reads_height_first(height: int, width: int) -> None:
    assert size_from_text(f"{height}x{width}") == (height, width)
    assert size_from_text(str(height)) == (height, height)


@given(st.one_of(st.text(), st.binary(), st.lists(st.text()), st.integers(), st.floats(), st.just(HUGE), st.just([HUGE] * 9)))
def test_shortened_values_are_short_single_lines(value: object) -> None:
    text = shorten(value)
    assert len(text) < 600
    assert "\n" not in text
    assert text.isprintable()
