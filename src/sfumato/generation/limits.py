"""What a request may ask for: one set of bounds that every front door shares.

Each check takes whatever a caller brought (a number, text, None, 10**5000, NaN) and returns a clean value or raises an
`InputError` that names the field, shows what was given (shortened, control characters escaped) and what was expected.
Types are strict: true is no number and "7" is text; a front door that receives text reads it with `number_from_text` first.
PyTorch is not needed here, so a wrong flag is answered at once.
"""

from __future__ import annotations

import difflib
import math
import numbers
import operator
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from PIL import ImageColor

from sfumato.errors import InputError, unknown

AUTO = "auto"
DTYPE_NAMES = (AUTO, "float32", "float16", "bfloat16")
"""Types that a model runs in, as PyTorch names them."""

# The samplers by name, as `sfumato.samplers.SAMPLERS` and `DISPLAY_NAMES` have them (a test compares); that import takes
# PyTorch, and a mistyped name should be answered without it.
SAMPLER_NAMES = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "euler": "Euler",
    "heun": "Heun",
    "euler_a": "Euler a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "plms": "PLMS",
    "lms": "LMS",
    "unipc": "UniPC",
}

# What other programs call the same samplers.
SAMPLER_ALIASES = {"euler_ancestral": "euler_a", "uni_pc": "unipc", "pndm": "plms"}

WHITE, TRANSPARENT = "white", "transparent"
"""Backgrounds with a name of their own; every other one is #rrggbb."""

PART = r"[A-Za-z_][A-Za-z0-9_]{0,39}"
"""The name of a part of a condition."""

SHOWN = 40  # characters of a bad value that a message repeats


@dataclass(frozen=True)
class Limits:
    """The largest values of a request. Seeds are those of `noise.MAX_SEED`, sides are in pixels, prompts in characters."""

    max_steps: int = 1000
    max_guidance: float = 50.0
    max_seed: int = 2**32 - 1
    max_num: int = 10_000
    max_pictures: int = 10_000
    max_batch_size: int = 256
    max_side: int = 2048
    max_text: int = 10_000
    max_temperature: float = 100.0
    max_codes: int = 2**24

    def steps(self, value: object) -> int:
        """Denoising steps."""
        return whole("steps", value, 1, self.max_steps)

    def guidance(self, value: object) -> float | dict[str, float]:
        """Guidance scale w, or one for each of some parts of the condition by their names; 1 means off."""
        if not isinstance(value, Mapping):
            return real("guidance", value, 0.0, self.max_guidance)
        if not value or not all(isinstance(name, str) and re.fullmatch(PART, name) for name in value):
            raise InputError(f"guidance: got {shorten(dict(value))}, expected scales by the names of parts, as text=3,map=1.5.")
        return {name: real(f"guidance of {name}", scale, 0.0, self.max_guidance) for name, scale in value.items()}

    def num(self, value: object) -> int:
        """Pictures for each prompt."""
        return whole("num", value, 1, self.max_num)

    def batch_size(self, value: object) -> int:
        """Pictures at once on a GPU."""
        return whole("batch_size", value, 1, self.max_batch_size)

    def seed(self, value: object, pictures: int = 1) -> int:
        """Seed of the first of `pictures` pictures; picture i has seed + i, and the last one must still be a seed."""
        seed = whole("seed", value, 0, self.max_seed)
        if seed + pictures - 1 > self.max_seed:
            expected = f"at most {self.max_seed - pictures + 1}, since picture i has seed + i"
            raise InputError(f"seed: got {seed} for {pictures} pictures, expected {expected}.")
        return seed

    def side(self, name: str, value: object, multiple: int = 1) -> int:
        """Height or width in pixels, a multiple of what the model needs."""
        low = multiple
        side = whole(name, value, low, self.max_side, extra=f", a multiple of {multiple}" if multiple > 1 else "")
        if side % multiple:
            near = min(max(round(side / multiple), 1), self.max_side // multiple) * multiple
            raise InputError(f"{name}: got {side}, expected a multiple of {multiple} for this model; the nearest is {near}.")
        return side

    def strength(self, value: object) -> float:
        """The share of the steps that a picture is changed by: above 0 to 1."""
        number = real("strength", value, 0.0, 1.0)
        if number == 0:
            raise InputError("strength: got 0, expected above 0 (nothing changes) to 1 (everything may).")
        return number

    def temperature(self, value: object) -> float:
        """What logits are divided by, or the standard deviation of noise; 1 is the model itself."""
        number = real("temperature", value, 0.0, self.max_temperature)
        if number == 0:
            raise InputError("temperature: got 0, expected above 0; for the likeliest codes give a top_k of 1.")
        return number

    def top_k(self, value: object) -> int:
        """The likeliest codes that are drawn from."""
        return whole("top_k", value, 1, self.max_codes)

    def top_p(self, value: object) -> float:
        """The probability of the fewest likeliest codes that are drawn from; 1 is all."""
        number = real("top_p", value, 0.0, 1.0)
        if number == 0:
            raise InputError("top_p: got 0, expected above 0 to 1 (all codes).")
        return number

    def sampler(self, value: object) -> str:
        """The name of a sampler; names that other programs have for one become ours."""
        if not isinstance(value, str):
            raise InputError(f"sampler: got {shorten(value)}, expected one of {', '.join(SAMPLER_NAMES)}.")
        value = SAMPLER_ALIASES.get(value, value)
        if value not in SAMPLER_NAMES:
            raise unknown("sampler", value if len(value) <= SHOWN else value[:SHOWN] + "...", SAMPLER_NAMES)
        return value

    def background(self, value: object) -> str:
        """What pictures are laid on: white, transparent, or a colour as #rrggbb from its name or from #rgb."""
        expected = "expected white, transparent, the name of a colour such as skyblue, or #rrggbb"
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z]{1,40}|#[0-9A-Fa-f]{3}|#[0-9A-Fa-f]{6}", value):
            raise InputError(f"background: got {shorten(value)}, {expected}.")
        if value.lower() == TRANSPARENT:
            return TRANSPARENT
        try:
            colour = ImageColor.getrgb(value)
        except ValueError:
            near = difflib.get_close_matches(value.lower(), [WHITE, TRANSPARENT, *ImageColor.colormap], n=1)
            hint = f"; did you mean '{near[0]}'?" if near else "."
            raise InputError(f"background: got {shorten(value)}, {expected}{hint}") from None
        return WHITE if colour == (255, 255, 255) else "#{:02x}{:02x}{:02x}".format(*colour)

    def text(self, name: str, value: object) -> str:
        """A prompt: text of limited length that UTF-8 can write, without NUL."""
        if not isinstance(value, str):
            raise InputError(f"{name}: got {shorten(value)}, expected text.")
        if len(value) > self.max_text:
            raise InputError(f"{name}: got {len(value)} characters, expected at most {self.max_text}; shorten it.")
        if "\0" in value:
            raise InputError(f"{name}: got {shorten(value)}, which holds a NUL character; remove it.")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError(f"{name}: got {shorten(value)}, which is not valid UTF-8; write it anew.") from None
        return value

    def prompts(self, values: object, num: int = 1) -> tuple[str, ...]:
        """Prompts, each `num` times; possibly none, for a model that needs none."""
        if isinstance(values, str):
            values = (values,)
        if not isinstance(values, Iterable):
            raise InputError(f"prompts: got {shorten(values)}, expected a list of texts.")
        prompts = []
        for i, value in enumerate(values):
            if (i + 1) * num > self.max_pictures:
                raise InputError(f"prompts: {i + 1} prompts x {num} are more than {self.max_pictures} pictures; ask for fewer.")
            prompts.append(self.text("prompt", value))
        return tuple(prompts)


LIMITS = Limits()


def whole(name: str, value: object, low: int, high: int, extra: str = "") -> int:
    """`value` as a whole number in [low, high]; NumPy integers count, booleans, floats and text do not."""
    message = f"{name}: got {shorten(value)}, expected a whole number from {low} to {high}{extra}."
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InputError(message)
    number = operator.index(value)
    if not low <= number <= high:
        raise InputError(message)
    return number


def real(name: str, value: object, low: float, high: float) -> float:
    """`value` as a finite number in [low, high]; booleans and text do not count. Minus zero becomes zero."""
    message = f"{name}: got {shorten(value)}, expected a number from {low:g} to {high:g}."
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(message)
    try:
        number = float(value)
    except (OverflowError, ValueError):
        raise InputError(message) from None
    if not math.isfinite(number) or not low <= number <= high:
        raise InputError(message)
    return number + 0.0


def number_from_text(text: str) -> int | float | str:
    """What a person typed as a number; text that is none comes back unchanged, for the check to refuse by its name."""
    if re.fullmatch(r"[+-]?[0-9]{1,4000}", text):  # Python itself refuses to read more than 4,300 digits
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def guidance_from_text(text: str) -> int | float | str | dict[str, int | float | str]:
    """A guidance scale as a person types it: a number, or NAME=NUMBER,... for parts of the condition.

    What is neither comes back as text, for the check to refuse. Raises `InputError` for a part that is named twice.
    """
    if "=" not in text or len(text) > 1000:
        return number_from_text(text)
    scales: dict[str, int | float | str] = {}
    for entry in text.split(","):
        name, _, number = entry.partition("=")
        if name.strip() in scales:
            raise InputError(f"guidance: {shorten(name.strip())} has two scales; give each part one.")
        scales[name.strip()] = number_from_text(number.strip())
    return scales


def size_from_text(text: str) -> tuple[int, int]:
    """`HxW`, or one number for a square, as (height, width). Raises `InputError` for anything else; bounds come later."""
    match = re.fullmatch(r"([0-9]{1,9})(?:[xX×]([0-9]{1,9}))?", text.strip())
    if match is None:
        raise InputError(f"size: got {shorten(text)}, expected HEIGHTxWIDTH in pixels, such as 128x128.")
    return int(match[1]), int(match[2] or match[1])


def shorten(value: object) -> str:
    """`value` as a message may repeat it: one line, short, control characters escaped."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of about {int(value.bit_length() * 0.30103) + 1} digits"
    if isinstance(value, str):
        return repr(value) if len(value) <= SHOWN else f"{value[:SHOWN]!r}... ({len(value)} characters)"
    try:
        text = reprlib.repr(value)
    except Exception:  # a foreign __repr__ may raise anything; its type still says enough
        text = f"a {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= 2 * SHOWN else text[: 2 * SHOWN] + "..."
