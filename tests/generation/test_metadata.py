"""PNG text: what is written is read back, by us and by sd-parsers; whatever a file holds, reading it is safe."""

from __future__ import annotations

import dataclasses
import io
import json
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from sfumato.errors import InputError
from sfumato.generation.limits import SAMPLER_NAMES
from sfumato.generation.metadata import EXACT, PARAMETERS, Parameters, parse_exact, parse_text, png_info, read_parameters

FULL = Parameters("a red dragon", "blurry", 7, 20, 4.0, "dpmpp_2m", 128, 96, "emoji", "abcdef1234")

# No surrogates, as the limits demand.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)
LINES = [
    "two\nlines",
    "commas, colons: and 'quotes' \"double\"",
    "Steps: 1, Sampler: Euler, CFG scale: 9, Seed: 3",
    "first\nSteps: 1, Sampler: Euler, CFG scale: 9, Seed: 3\nlast",
    "Size: 512x512",
    '{"json": [1, 2]}',
    "(((((weights:1.3))))) <lora:x:1>",
    "tabs\tand  spaces",
    "日本語 \u202e emoji 🐉 é",
    "back\\slash \\n",
    "a\n\nb",
    "\nleading and trailing lines\n",
    "",
]


def png(chunks: dict[str, str], size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG", pnginfo=png_info(chunks))
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_text_is_in_the_web_uis_format() -> None:
    lines = FULL.to_text().split("\n")
    assert lines[0] == "a red dragon"
    assert lines[1] == "Negative prompt: blurry"
    values = (
        "Steps: 20, Sampler: DPM++ 2M, CFG scale: 4, Seed: 7, Size: 96x128, Model hash: abcdef1234, Model: emoji, Version: "
    )
    assert lines[2].startswith(values + "sfumato ")


@pytest.mark.parametrize("prompt", LINES)
@pytest.mark.parametrize("negative", [None, "plain", "with\nlines, and: colons"])
def test_prompts_survive_both_texts(prompt: str, negative: str | None) -> None:
    parameters = dataclasses.replace(FULL, prompt=prompt, negative=negative)
    assert parse_exact(parameters.to_json()) == parameters
    assert parse_text(parameters.to_text()) == parameters


@given(TEXT, st.none() | TEXT, st.floats(0, 50), st.integers(0, 2**32 - 1), st.sampled_from(sorted(SAMPLER_NAMES)), TEXT)
@settings(deadline=None)
def test_exact_text_is_exact(prompt: str, negative: str | None, guidance: float, seed: int, sampler: str, model: str) -> None:
    parameters = Parameters(prompt, negative, seed, 20, guidance, sampler, 8, 8, model, "x")
    with Image.open(io.BytesIO(png(parameters.to_info()))) as image:
        assert parse_exact(image.info[EXACT]) == parameters
        assert image.info[PARAMETERS] == parameters.to_text()


@given(st.floats(0, 50), st.sampled_from(sorted(SAMPLER_NAMES)), st.text('ab,:"\\ \n.é', max_size=12))
@settings(deadline=None)
def test_web_ui_text_keeps_values(guidance: float, sampler: str, model: str) -> None:
    model = model.strip() or "m"
    parameters = dataclasses.replace(FULL, guidance=guidance, sampler=sampler, model=model)
    assert parse_text(parameters.to_text()) == parameters


@pytest.mark.parametrize("prompt", [p for p in LINES if p])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_a"])
def test_sd_parsers_reads_it(tmp_path: Path, prompt: str, sampler: str) -> None:
    sd_parsers = pytest.importorskip("sd_parsers")
    parameters = dataclasses.replace(FULL, prompt=prompt, sampler=sampler)
    path = write(tmp_path / "a.png", png(parameters.to_info()))
    info = sd_parsers.ParserManager().parse(path)
    assert info is not None
    assert info.generator.value == "AUTOMATIC1111"
    [found] = info.samplers
    assert found.name == SAMPLER_NAMES[sampler]
    assert [p.value for p in found.prompts] == [prompt.strip()]
    assert [p.value for p in found.negative_prompts] == ["blurry"]
    assert (found.model.name, found.model.hash) == ("emoji", "abcdef1234")
    assert {k: str(v) for k, v in found.parameters.items()} == {"steps": "20", "cfg_scale": "4", "seed": "7"}
    assert info.metadata["Size"] == "96x128"


def test_text_of_another_tool_is_read(tmp_path: Path) -> None:
    text = (
        "masterpiece, a cat\nNegative prompt: lowres, bad\nSteps: 28, Sampler: Euler a, Schedule type: Karras, CFG scale: 7.5, "
        'Seed: 123, Size: 512x768, Model hash: cc6cb27103, Model: v1-5, Lora hashes: "a: 1, b: 2", Version: v1.9.3'
    )
    found = read_parameters(write(tmp_path / "a.png", png({PARAMETERS: text})))
    assert found == Parameters("masterpiece, a cat", "lowres, bad", 123, 28, 7.5, "euler_a", 768, 512, "v1-5", "cc6cb27103")


def test_exact_text_wins(tmp_path: Path) -> None:
    prompt = "a\nNegative prompt: this line belongs to the prompt"
    parameters = dataclasses.replace(FULL, prompt=prompt)
    assert read_parameters(write(tmp_path / "a.png", png(parameters.to_info()))) == parameters


def test_nothing_of_this_machine_is_written() -> None:
    fields = {f.name for f in dataclasses.fields(Parameters)}
    assert set(
        json.loads(dataclasses.replace(FULL, background="transparent", temperature=0.9, top_k=5, top_p=0.9).to_json())
    ) == {"format", "version", *fields}


BAD_EXACT = [
    "", "x", "null", "[]", "{}", "[1]", "7",
    '{"format": 2, "prompt": "a"}', '{"format": 1}junk', "[" * 100_000, '{"format": 1, "prompt": 7}',
    '{"format": 1, "prompt": "a", "seed": -1}', '{"format": 1, "prompt": "a", "seed": 1e3}', '{"format": 1, "steps": NaN}',
    '{"format": 1, "guidance": NaN}', '{"format": 1, "guidance": 1e999}', '{"format": 1, "guidance": "4"}',
    '{"format": 1, "height": true}', '{"format": 1, "width": 1000000}', '{"format": 1, "prompt": null}',
    '{"format": 1, "seed": ' + "9" * 5000 + "}", '{"format": 1, "prompt": "\\ud800"}', '{"format": 1, "prompt": "\\u0000"}',
    '{"format": 1, "sampler": ["ddim"]}', '{"format": NaN}', '{"format": "1"}', '{"format": 1, "model": {"a": 1}}',
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_EXACT, ids=range(len(BAD_EXACT)))
def test_bad_exact_text_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_exact(text)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["", "a cat", "Steps: 20", "Steps: x, Seed: 7", "Steps: 20, Seed: -7", "Steps: 0, Seed: 1",
                                  "Steps: 2, Seed: 1, CFG scale: nan", "Steps: 2, Seed: 1, Size: 0x8",
                                  "Steps: " + "9" * 9000 + ", Seed: 1"])  # fmt: skip
def test_bad_web_ui_text_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_text(text)


def only_input_errors(call: object, *args: object) -> None:
    try:
        call(*args)  # type: ignore[operator]
    except InputError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


@given(st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    only_input_errors(parse_text, text)
    only_input_errors(parse_exact, text)


@given(
    TEXT,
    st.dictionaries(st.sampled_from(["Steps", "Seed", "CFG scale", "Size", "Sampler", "Model", "x"]), st.text(max_size=20)),
)
@settings(max_examples=300, deadline=None)
def test_any_fields_are_read_or_refused(prompt: str, fields: dict[str, str]) -> None:
    only_input_errors(parse_text, f"{prompt}\n" + ", ".join(f"{k}: {v}" for k, v in fields.items()))


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.text(max_size=5), PLAIN, max_size=3)


@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Parameters)]), JSON))
@settings(max_examples=300, deadline=None)
def test_any_json_is_read_or_refused(data: dict[str, object]) -> None:
    only_input_errors(parse_exact, json.dumps({"format": 1} | data))


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_read_or_refused(tmp_path: Path, data: bytes, headed: bool) -> None:
    path = write(tmp_path / "fuzz.png", (b"\x89PNG\r\n\x1a\n" if headed else b"") + data)
    with pytest.raises(InputError):
        read_parameters(path)


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_read_or_refused(tmp_path: Path, position: int, byte: int) -> None:
    data = bytearray(png(FULL.to_info()))
    data[position % len(data)] = byte
    only_input_errors(read_parameters, write(tmp_path / "fuzz.png", bytes(data)))
    only_input_errors(read_parameters, write(tmp_path / "fuzz.png", bytes(data[: position % len(data)])))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def headed(*chunks: bytes, size: tuple[int, int] = (1, 1)) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)) + b"".join(chunks)


def test_bombs_are_refused(tmp_path: Path) -> None:
    text = zlib.compress(b"0" * (PngImagePlugin.MAX_TEXT_CHUNK * 20))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    for data in (headed(chunk(b"zTXt", b"parameters\0\0" + text), pixels), headed(pixels, size=(2**31 - 1, 2**31 - 1))):
        with pytest.raises(InputError):
            read_parameters(write(tmp_path / "bomb.png", data))


def test_other_files_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    write(tmp_path / "empty.png", b"")
    for name, words in [("a.jpg", "not a PNG"), ("plain.png", "no generation parameters"), ("none.png", "No such file"),
                        ("", "directory"), ("empty.png", "not a PNG"), ("a\0b.png", "readable"), ("a.jpg/b.png", "directory"),
                        ("n" * 5000, "readable")]:  # fmt: skip
        with pytest.raises(InputError, match=words):
            read_parameters(tmp_path / name)
