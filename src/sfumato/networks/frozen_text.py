"""Text encoders that others trained, read from a transformers folder: CLIP, T5, BERT and their relatives.

    h = encoder(ids, mask),   h (B, L, D): the last layer's states, after its norm

Radford et al. 2021 (arXiv 2103.00020), Raffel et al. 2019 (arXiv 1910.10683), Devlin et al. 2018 (arXiv 1810.04805). The
networks are transformers'; of a folder only config.json, tokenizer.json and safetensors are read, never a pickle or code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sfumato.errors import InputError
from sfumato.networks.clip import transformers

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "*.safetensors"
FILES = (CONFIG, TOKENIZER, WEIGHTS, "*.safetensors.index.json", "tokenizer_config.json")
T5 = ("t5", "mt5", "umt5")
WIDTHS = ("d_model", "hidden_size")


@dataclass(frozen=True)
class EncoderFacts:
    """dim: width of its states. pad: the id that fills a short text. digest: ten hex digits of the SHA-256 of its weights."""

    folder: Path
    dim: int
    pad: int
    digest: str


def encoder_folder(source: str, needed: tuple[str, ...] = (CONFIG, TOKENIZER)) -> Path:
    """The folder of an encoder: `source` itself, or the hub's `owner/name` on this machine, fetched where it is not there.

    Raises `InputError` where there is none or a file is missing.
    """
    if not source:
        raise InputError("encoder source is empty: expected a transformers folder, or owner/name on the hub.")
    folder = Path(source)
    if not folder.is_dir():
        folder = _fetched(source)
    for name in needed:
        if not (folder / name).is_file():
            raise InputError(f"{source} holds no {name}; save the model and its fast tokenizer there with save_pretrained.")
    if not list(folder.glob(WEIGHTS)):
        raise InputError(f"{source} holds no safetensors; save the model with save_pretrained(..., safe_serialization=True).")
    return folder


def _fetched(source: str) -> Path:
    if source.count("/") != 1 or source.startswith(("/", ".")):
        raise InputError(f"encoder source {source[:200]!r} is no folder; give a transformers folder, or owner/name.")
    try:
        import huggingface_hub
    except ImportError:
        raise InputError("a text encoder from the hub needs huggingface_hub: pip install 'sfumato[hub]'.") from None
    try:
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=list(FILES)))
    except Exception as error:  # the package raises many kinds, of the network and of names
        raise InputError(f"{source}: not on the hub, or out of reach ({str(error).splitlines()[0][:200]}).") from None


def encoder_facts(source: str) -> EncoderFacts:
    """What a config must know of an encoder. Raises `InputError`."""
    folder = encoder_folder(source)
    said = read_table(folder / CONFIG)
    part = said.get("text_config")  # of a model of texts and pictures
    inner: dict[str, Any] = part if isinstance(part, dict) else said
    dim = next((inner[name] for name in WIDTHS if isinstance(inner.get(name), int)), None)
    if dim is None:
        raise InputError(f"{folder / CONFIG} names no width ({' or '.join(WIDTHS)}); expected a text encoder.")
    pad = inner.get("pad_token_id")
    return EncoderFacts(folder, dim, pad if isinstance(pad, int) and pad >= 0 else 0, digest_of(folder))


def digest_of(folder: Path) -> str:
    """Ten hex digits of the SHA-256 of all safetensors in a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.glob(WEIGHTS)):
        with open(path, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:10]


def load_encoder(folder: Path) -> nn.Module:
    """The encoder of a folder, in fp32, frozen. Raises `InputError` for one that transformers does not read."""
    package = transformers()
    kind = str(read_table(folder / CONFIG).get("model_type", ""))
    reader: Any = package.AutoModel
    if kind in T5:
        reader = {"t5": package.T5EncoderModel, "mt5": package.MT5EncoderModel, "umt5": package.UMT5EncoderModel}[kind]
    elif kind in ("clip", "clip_text_model"):
        reader = package.CLIPTextModel
    return read_frozen(reader, folder)


def read_frozen(reader: Any, folder: Path) -> nn.Module:
    """A class of transformers filled from a folder, in fp32, frozen; every weight must be there. Raises `InputError`."""
    try:
        with quiet():
            found, told = reader.from_pretrained(folder, local_files_only=True, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        said = str(error).splitlines()[0][:200]
        raise InputError(f"{folder}: not an encoder that transformers reads ({said}).") from None
    if told["missing_keys"]:
        first = sorted(told["missing_keys"])[0]
        raise InputError(f"{folder} lacks weights of this encoder, such as {first}; expected all of them.")
    module: nn.Module = found.float().eval().requires_grad_(False)
    return module


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and reports that transformers writes while it reads weights."""
    bars = transformers().utils.logging
    shown, verbosity = bars.is_progress_bar_enabled(), bars.get_verbosity()
    bars.disable_progress_bar()
    bars.set_verbosity_error()
    try:
        yield
    finally:
        bars.set_verbosity(verbosity)
        if shown:
            bars.enable_progress_bar()


def read_table(path: Path) -> dict[str, Any]:
    """A JSON table. Raises `InputError`."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({str(error)[:100]}).") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is no table; expected a model's config.")
    return found
