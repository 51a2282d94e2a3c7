"""A diffusers folder, read as data: model_index.json names components, each a folder with config.json and weights.

    model_index.json    {"_class_name": pipeline, component: [library, class], ...}
    component/          config.json, then NAME[.VARIANT].safetensors or .bin, whole or in shards that
                        NAME.safetensors.index[.VARIANT].json lists

Class names are looked up in the table below and nowhere else; no file with code is read, and no file outside the folder (but
for the hub's cache, whose files are links to its own `blobs`).
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sfumato.conditioners.wordpiece import read_vocabulary
from sfumato.errors import InputError
from sfumato.interop.index import TensorIndex
from sfumato.interop.rebuild import shown

MODEL_INDEX, CONFIG = "model_index.json", "config.json"
MAX_JSON, MAX_SHARDS = 25 * 10**6, 1000
VARIANTS = ("fp16", "bf16", "non_ema")


class Part(enum.Enum):
    """What a component is for."""

    denoiser = "denoiser"
    first_stage = "first stage"
    text_encoder = "text encoder"
    image_encoder = "image encoder"
    depth_estimator = "depth estimator"
    noise_augmentation = "noise augmentation"
    tokenizer = "tokenizer"
    scheduler = "scheduler"
    processor = "image processor"
    ignored = "ignored"


_SCHEDULERS = (
    "DDIM DDPM PNDM LMSDiscrete EulerDiscrete EulerAncestralDiscrete HeunDiscrete DPMSolverMultistep DPMSolverSinglestep "
    "DEISMultistep UniPCMultistep KDPM2Discrete KDPM2AncestralDiscrete EDMEuler EDMDPMSolverMultistep LCM TCD SASolver"
)
_PROCESSORS = ("", "Fast", "Pil")  # the same, by what it is made with; folders name whichever was there
#: Library and class -> what it is for. A model of another class is refused.
CLASSES: Final[Mapping[tuple[str, str], Part]] = {
    ("diffusers", "UNet2DConditionModel"): Part.denoiser,
    ("diffusers", "UNet2DModel"): Part.denoiser,
    ("diffusers", "AutoencoderKL"): Part.first_stage,
    ("diffusers", "VQModel"): Part.first_stage,
    ("transformers", "CLIPTextModel"): Part.text_encoder,
    ("transformers", "CLIPTextModelWithProjection"): Part.text_encoder,
    ("latent_diffusion", "LDMBertModel"): Part.text_encoder,
    ("transformers", "CLIPVisionModelWithProjection"): Part.image_encoder,
    ("transformers", "DPTForDepthEstimation"): Part.depth_estimator,
    ("stable_diffusion", "StableUnCLIPImageNormalizer"): Part.noise_augmentation,
    ("transformers", "CLIPTokenizer"): Part.tokenizer,
    ("transformers", "CLIPTokenizerFast"): Part.tokenizer,
    ("transformers", "BertTokenizer"): Part.tokenizer,
    ("transformers", "BertTokenizerFast"): Part.tokenizer,
    ("transformers", "CLIPFeatureExtractor"): Part.processor,
    ("transformers", "DPTFeatureExtractor"): Part.processor,
    ("stable_diffusion", "StableDiffusionSafetyChecker"): Part.ignored,
    **{("transformers", f"{name}ImageProcessor{kind}"): Part.processor for name in ("CLIP", "DPT") for kind in _PROCESSORS},
    **{("diffusers", f"{name}Scheduler"): Part.scheduler for name in _SCHEDULERS.split()},
}
_WITH_WEIGHTS = {
    Part.denoiser, Part.first_stage, Part.text_encoder, Part.image_encoder, Part.noise_augmentation,
}  # fmt: skip
_LIBRARIES = {  # where releases have put the same class
    "latent_diffusion": "latent_diffusion", "stable_diffusion": "stable_diffusion", "diffusers": "diffusers",
    "transformers": "transformers", "diffusers.pipelines.stable_diffusion": "stable_diffusion",
    "diffusers.pipelines.latent_diffusion": "latent_diffusion",
    "diffusers.pipelines.stable_diffusion.safety_checker": "stable_diffusion",
}  # fmt: skip


@dataclass(frozen=True)
class Component:
    """One part of a pipeline. `config`: its config.json (a scheduler's own); `index`: None for parts without weights, and for
    a depth estimator, which nothing here runs. `words`: of BERT's tokenizer, in the order of their ids."""

    name: str
    part: Part
    class_name: str
    directory: Path
    config: Mapping[str, Any]
    index: TensorIndex | None
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folder:
    """`class_name`: the pipeline's, none for a folder of a single model; `settings`: the plain values beside the components."""

    class_name: str | None
    components: Mapping[str, Component]
    settings: Mapping[str, Any]


ReadIndex = Callable[[Path], TensorIndex]


def read_folder(directory: Path, read_file: ReadIndex, variant: str | None = None) -> Folder:
    """A pipeline's folder or that of one of its models. `read_file` gives the index of a file of weights.

    `variant`: "fp16", "bf16" or "non_ema"; by default the plain files, else fp16, else bf16. Raises `InputError` for a class
    outside the table, a path out of the folder, a missing file or what is wrong in one.
    """
    if variant is not None and variant not in VARIANTS:
        raise InputError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}.")
    inside = _Inside(directory)
    if inside.find(MODEL_INDEX) is not None:
        found = _pipeline(inside, read_file, variant)
        _check_variant(inside, found, variant)
        return found
    if inside.find(CONFIG) is None:
        raise InputError(f"{directory} holds neither {MODEL_INDEX} nor {CONFIG}; expected a diffusers folder.")
    return _single(inside, read_file, variant)


def _check_variant(inside: _Inside, folder: Folder, variant: str | None) -> None:
    """A variant that no component has is a mistake, and not one that falls back to plain files in silence."""
    files = {e.file.path.name for c in folder.components.values() if c.index for e in c.index.values()}
    if variant is not None and not any(f".{variant}" in file for file in files):
        raise InputError(f"{inside.root} has no files of the variant {variant!r}; leave it out to read the plain ones.")


def _pipeline(inside: _Inside, read_file: ReadIndex, variant: str | None) -> Folder:
    data = inside.json(MODEL_INDEX)
    class_name = data.get("_class_name")
    if not isinstance(class_name, str):
        raise InputError(f"{inside.root / MODEL_INDEX} names a pipeline with its own code; only standard classes are read.")
    components: dict[str, Component] = {}
    settings: dict[str, Any] = {}
    for name, value in data.items():
        if name.startswith("_"):
            continue
        if not isinstance(value, list):
            settings[name] = value
        elif value != [None, None]:
            components[name] = _component(inside, name, _part(inside, name, value), str(value[1]), read_file, variant)
    found = [c for c in components.values() if c.index is not None]
    if not found:
        raise InputError(f"{inside.root / MODEL_INDEX} names no model with weights; the folder is incomplete, get it again.")
    return Folder(class_name, components, settings)


def _part(inside: _Inside, name: str, value: list[Any]) -> Part:
    place = inside.root / MODEL_INDEX
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", name):
        raise InputError(f"{place} has a component of the unsafe name {name[:60]!r}.")
    if len(value) != 2 or not all(isinstance(word, str) for word in value):
        raise InputError(f"{place}: {name} is not [library, class].")
    library, class_name = value
    part = CLASSES.get((_LIBRARIES.get(library, ""), class_name))
    if part is None:
        raise InputError(f"{place} names {shown(library)}.{shown(class_name)} as {name}, which is no class that is read here.")
    return part


def _component(inside: _Inside, name: str, part: Part, class_name: str, read_file: ReadIndex, variant: str | None) -> Component:
    files = _CONFIGS.get(part, (CONFIG,))
    config = next((inside.json(f"{name}/{file}") for file in files if inside.find(f"{name}/{file}") is not None), {})
    index = _weights(inside, name, read_file, variant) if part in _WITH_WEIGHTS else None
    words = _words(inside, name) if part is Part.tokenizer and class_name.startswith("Bert") else ()
    return Component(name, part, class_name, inside.root / name, config, index, words)


def _words(inside: _Inside, folder: str) -> tuple[str, ...]:
    """BERT's vocabulary: vocab.txt, or the table in tokenizer.json that newer releases write in its place."""
    plain = inside.find(f"{folder}/vocab.txt")
    if plain is not None:
        return tuple(read_vocabulary(plain))
    if inside.find(f"{folder}/tokenizer.json") is None:
        return ()
    model = inside.json(f"{folder}/tokenizer.json").get("model")
    table = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(table, dict) or sorted(map(repr, table.values())) != sorted(map(repr, range(len(table)))):
        raise InputError(f"{inside.root / folder / 'tokenizer.json'} has no vocabulary (word -> id from 0); get it again.")
    return tuple(sorted(table, key=table.__getitem__))


_CONFIGS = {
    Part.scheduler: ("scheduler_config.json",),
    Part.tokenizer: ("tokenizer_config.json",),
    Part.processor: ("preprocessor_config.json",),
}
_NAMES = {  # what a single model's folder is called in a pipeline
    Part.denoiser: "unet", Part.first_stage: "vae", Part.text_encoder: "text_encoder", Part.image_encoder: "image_encoder",
    Part.noise_augmentation: "image_normalizer",
}  # fmt: skip


def _single(inside: _Inside, read_file: ReadIndex, variant: str | None) -> Folder:
    config = inside.json(CONFIG)
    architectures = config.get("architectures")
    named = config.get("_class_name") or (architectures[0] if isinstance(architectures, list) and architectures else None)
    part = next((p for (_, name), p in CLASSES.items() if name == named and p in _WITH_WEIGHTS), None)
    if part is None:
        raise InputError(f"{inside.root / CONFIG} is of the class {str(named)[:60]!r}, which is none that is read here.")
    name = _NAMES[part]
    index = _weights(inside, "", read_file, variant)
    return Folder(None, {name: Component(name, part, str(named), inside.root, config, index)}, {})


def _weights(inside: _Inside, folder: str, read_file: ReadIndex, variant: str | None) -> TensorIndex:
    """The best file of weights: of the variant, safetensors before pickles, whole before shards."""
    prefix = f"{folder}/" if folder else ""
    # A variant that a component lacks falls back to its plain files, as its publishers mean it.
    for wanted in (variant, "") if variant else ("", "fp16", "bf16"):
        dot = f".{wanted}" if wanted else ""
        for stem, suffix in (
            ("diffusion_pytorch_model", "safetensors"), ("model", "safetensors"),
            ("diffusion_pytorch_model", "bin"), ("pytorch_model", "bin"),
        ):  # fmt: skip
            whole = inside.find(f"{prefix}{stem}{dot}.{suffix}")
            if whole is not None:
                return read_file(whole)
            for table in (f"{prefix}{stem}.{suffix}.index{dot}.json", f"{prefix}{stem}{dot}.{suffix}.index.json"):
                if inside.find(table) is not None:
                    return _shards(inside, prefix, table, read_file)
    raise InputError(f"{inside.root / folder} holds no weights (diffusion_pytorch_model or model, .safetensors or .bin).")


def _shards(inside: _Inside, prefix: str, table: str, read_file: ReadIndex) -> TensorIndex:
    weight_map = inside.json(table).get("weight_map")
    place = inside.root / table
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise InputError(f"{place} has no weight_map (name -> file); get it again.")
    files = sorted(set(weight_map.values()))
    if not 0 < len(files) <= MAX_SHARDS:
        raise InputError(f"{place} names {len(files)} shards; expected 1 to {MAX_SHARDS}.")
    shards: dict[str, TensorIndex] = {}
    for file in files:
        if not re.fullmatch(r"[\w][\w.\-]{0,200}", file, re.ASCII) or (path := inside.find(prefix + file)) is None:
            raise InputError(f"{place} names the shard {file[:100]!r}, which is no file of its folder.")
        shards[file] = read_file(path)
    entries = {}
    for name, file in weight_map.items():
        if name not in shards[file]:
            raise InputError(f"{place} says that {name[:100]!r} is in {file}, where it is not; get the shards again.")
        entries[name] = shards[file][name]
    left = sum(map(len, shards.values())) - len(entries)
    if left:
        raise InputError(f"{place} leaves {left} tensors of its shards out; get the folder again.")
    return TensorIndex(entries)


class _Inside:
    """Files of a folder and nothing else: a link may lead within it, or within `blobs` of the hub's cache that it stands in."""

    def __init__(self, root: Path):
        self.root = root
        real = root.resolve()
        self.homes = [real]
        if real.parent.name == "snapshots":  # models--OWNER--NAME/snapshots/REVISION, files in models--OWNER--NAME/blobs
            self.homes.append(real.parent.parent / "blobs")

    def find(self, name: str) -> Path | None:
        """The file of that name, None when there is none. Raises `InputError` when it lies elsewhere."""
        path = self.root / name
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError, ValueError):  # missing, a loop of links
            return None
        if not any(real.is_relative_to(home) for home in self.homes):
            raise InputError(f"{path} is a link out of its folder; put the file itself there.")
        return path if real.is_file() else None

    def json(self, name: str) -> dict[str, Any]:
        """A table from a file, each key once."""
        path = self.find(name)
        if path is None:
            raise InputError(f"no such file: {self.root / name}.")
        if path.stat().st_size > MAX_JSON:
            raise InputError(f"{path} is larger than {MAX_JSON} bytes.")
        try:
            data = json.loads(path.read_bytes(), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not valid JSON ({str(error)[:150]}); get it again.") from None
        if not isinstance(data, dict):
            raise InputError(f"{path} holds no table of fields; get it again.")
        return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice")
    return table
