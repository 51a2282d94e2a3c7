"""What a picture's file says about how it was made, and reading it back.

Two text chunks of the PNG:
`parameters` - the format of the AUTOMATIC1111 web UI, which many tools read:

    <prompt>
    Negative prompt: <negative prompt>
    Steps: 20, Sampler: DPM++ 2M, CFG scale: 4, Seed: 7, Size: 128x128, Model hash: abcdef1234, Model: emoji, Version: ...

  (Size is WIDTHxHEIGHT there; a value with a comma, colon or line break is written as JSON; a background other than white
  follows the model, as "Background: transparent", and a temperature and truncation where a model that is no diffusion had
  them, as "Temperature: 0.9, Top K: 100, Top P: 0.95"; a task that began from a picture follows that, as "Task: edit, Denoising
  strength: 0.75, Source: cat.png".) A prompt that itself holds the line "Negative prompt: ..." is ambiguous
  in it, as in the web UI; hence
`sfumato` - the same as JSON with a format number, exact for any prompt. It is read first.

File content is data: nothing in it is executed or followed, every value passes the same limits as a typed flag.
"""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS, SAMPLER_NAMES, WHITE, guidance_from_text, number_from_text, shorten

FORMAT = 1
PARAMETERS, EXACT = "parameters", "sfumato"

_FIELD = re.compile(r'\s*([\w ./+-]+):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_NEGATIVE = "Negative prompt:"
_TRUNCATION = {"temperature": "Temperature", "top_k": "Top K", "top_p": "Top P"}  # of models that are no diffusion


@dataclass(frozen=True)
class Parameters:
    """How one picture was made; None where a file does not say, white for the background.

    Values are checked on construction (`InputError`).
    """

    prompt: str
    negative: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | dict[str, float] | None = None
    sampler: str | None = None
    height: int | None = None
    width: int | None = None
    model: str | None = None
    model_hash: str | None = None
    background: str = WHITE
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "negative", "sampler", "model", "model_hash"):
            self._check(name, partial(LIMITS.text, name))
        for name in ("height", "width"):
            self._check(name, partial(LIMITS.side, name))
        self._check("seed", LIMITS.seed)
        self._check("steps", LIMITS.steps)
        self._check("guidance", LIMITS.guidance)
        for name in _TRUNCATION:
            self._check(name, getattr(LIMITS, name))
        object.__setattr__(self, "background", LIMITS.background(self.background))

    def _check(self, name: str, check: Callable[[object], object]) -> None:
        value = getattr(self, name)
        if value is not None or name == "prompt":
            object.__setattr__(self, name, check(value))

    def _values(self) -> dict[str, object]:
        """What the last line of the `parameters` text says, in its order; None is left out."""
        return {
            "Steps": self.steps,
            "Sampler": SAMPLER_NAMES.get(self.sampler or "", self.sampler),
            "CFG scale": None if self.guidance is None else _scale(self.guidance),
            "Seed": self.seed,
            "Size": None if self.width is None else f"{self.width}x{self.height}",
            "Model hash": self.model_hash,
            "Model": self.model,
            "Background": None if self.background == WHITE else self.background,
            **{shown: getattr(self, name) for name, shown in _TRUNCATION.items()},
        }

    def to_text(self) -> str:
        """The `parameters` text."""
        values = self._values() | {"Version": f"sfumato {_version()}"}
        lines = [self.prompt] + ([f"{_NEGATIVE} {self.negative}"] if self.negative else [])
        return "\n".join([*lines, ", ".join(f"{k}: {_quote(str(v))}" for k, v in values.items() if v is not None)])

    def to_json(self) -> str:
        """The `sfumato` text."""
        fields = dataclasses.asdict(self)
        if self.background == WHITE:
            del fields["background"]
        for name in _TRUNCATION:
            if fields[name] is None:
                del fields[name]
        return json.dumps({"format": FORMAT, "version": _version()} | fields, ensure_ascii=False)

    def to_info(self) -> dict[str, str]:
        """Both texts, as an image's `info` and as a PNG's chunks."""
        return {PARAMETERS: self.to_text(), EXACT: self.to_json()}


@dataclass(frozen=True)
class TaskParameters(Parameters):
    """How a picture was made of another one. task: edit, inpaint, ...; source: the other one's file name, without its folder.

    strength: the share of the steps, where only some were walked.
    """

    task: str = ""
    strength: float | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("task", partial(LIMITS.text, "task"))
        self._check("source", partial(LIMITS.text, "source"))
        self._check("strength", LIMITS.strength)

    def _values(self) -> dict[str, object]:
        return super()._values() | {"Task": self.task, "Denoising strength": self.strength, "Source": self.source}


def parse_exact(text: str) -> Parameters:
    """Read the `sfumato` text. Raises `InputError` when it is damaged or of a later release."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("the picture's sfumato text is not valid JSON; give the flags instead of --from.") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = shorten(data.get("format")) if isinstance(data, dict) else "none"
        raise InputError(f"the picture's sfumato text has format {found}, this release reads {FORMAT}; give the flags instead.")
    kind = TaskParameters if "task" in data else Parameters
    names = {f.name for f in dataclasses.fields(kind)}
    return kind(**{"prompt": ""} | {k: v for k, v in data.items() if k in names})


def parse_text(text: str) -> Parameters:
    """Read a `parameters` text, ours or another tool's. Unknown fields are left out. Raises `InputError`."""
    *lines, last = text.rstrip("\n").split("\n")
    fields = {match[1].strip(): _unquote(match[2].strip()) for match in _FIELD.finditer(last)}
    if "Steps" not in fields or "Seed" not in fields:
        raise InputError(
            "the picture's parameters text does not end in a line 'Steps: ..., Seed: ...'; give the flags instead."
        )
    split = next((i for i, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(lines[split:]).removeprefix(_NEGATIVE).removeprefix(" ")
    names = {shown.casefold(): name for name, shown in SAMPLER_NAMES.items()}
    sampler = fields.get("Sampler")
    size = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", fields.get("Size", ""))
    return Parameters(
        prompt="\n".join(lines[:split]),
        negative=negative or None,
        seed=_number(fields.get("Seed")),  # type: ignore[arg-type]  # text that is no number is refused by its check
        steps=_number(fields.get("Steps")),  # type: ignore[arg-type]
        guidance=None if "CFG scale" not in fields else guidance_from_text(fields["CFG scale"]),  # type: ignore[arg-type]
        sampler=None if sampler is None else names.get(sampler.casefold(), sampler),
        height=int(size[2]) if size else None,
        width=int(size[1]) if size else None,
        model=fields.get("Model"),
        model_hash=fields.get("Model hash"),
        background=fields.get("Background", WHITE),
        **{name: _number(fields.get(shown)) for name, shown in _TRUNCATION.items()},  # type: ignore[arg-type]
    )


def read_parameters(path: str | Path) -> Parameters:
    """How the picture in a PNG file was made. Raises `InputError` when it is no PNG, says nothing, or is damaged."""
    shown = shorten(str(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # pixels are never decoded here
            with Image.open(path, formats=["PNG"]) as image:
                info = {k: v for k, v in image.info.items() if k in (PARAMETERS, EXACT) and isinstance(v, str)}
    except (FileNotFoundError, IsADirectoryError, PermissionError, NotADirectoryError) as error:
        raise InputError(f"{shown}: {error.strerror}; expected a PNG picture made by sfumato.") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{shown} is not a PNG picture; --from reads PNG files made by sfumato or an A1111-style tool."
        ) from None
    except Exception as error:  # a decoder fed with garbage may raise anything
        raise InputError(f"{shown} is not a readable PNG picture ({type(error).__name__}); give an undamaged one.") from None
    if EXACT in info:
        return parse_exact(info[EXACT])
    if PARAMETERS in info:
        return parse_text(info[PARAMETERS])
    raise InputError(f"{shown} carries no generation parameters; it was not made by sfumato, or they were stripped.")


def png_info(info: Mapping[Any, Any]) -> PngInfo:
    """The text chunks for Pillow's PNG writer, from an image's `info`."""
    chunks = PngInfo()
    for key in (PARAMETERS, EXACT):
        value = info.get(key)
        if isinstance(value, str):
            chunks.add_text(key, value)
    return chunks


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"\n]', text) else text


def _unquote(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else text


def _number(text: str | None) -> object:
    return None if text is None else number_from_text(text)


def _scale(guidance: float | dict[str, float]) -> str:
    scales = guidance if isinstance(guidance, dict) else {"": guidance}
    return ",".join(f"{name}{'=' if name else ''}{scale!r}".removesuffix(".0") for name, scale in scales.items())


def _version() -> str:
    import sfumato

    return sfumato.__version__
