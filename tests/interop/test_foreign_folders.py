"""diffusers folders are data: known classes, files inside the folder, and the tensors that diffusers itself wrote."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sfumato.errors import InputError
from sfumato.interop.checkpoint import open_checkpoint
from sfumato.interop.files import Kind
from sfumato.interop.folders import Part, read_folder

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b.weight": torch.ones(4)}
INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.2.2",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": [None, None],
    "requires_safety_checker": True,
}


def write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline by hand."""
    root = tmp_path / "model"
    write(root / "model_index.json", INDEX)
    write(root / "scheduler" / "scheduler_config.json", {"_class_name": "PNDMScheduler", "beta_start": 0.00085})
    for name in ("unet", "vae"):
        write(root / name / "config.json", {"_class_name": INDEX[name][1], "sample_size": 64})
        save_file(TENSORS, root / name / "diffusion_pytorch_model.safetensors")
    return root


def refused(path: Path, why: str, **options: Any) -> None:
    before = set(sys.modules)
    with pytest.raises(InputError, match=why) as caught:
        open_checkpoint(path, **options)
    assert str(caught.value).isprintable()
    assert not set(sys.modules) - before


def test_a_folder_by_hand(folder: Path) -> None:
    found = open_checkpoint(folder)
    assert (found.kind, found.pipeline) == (Kind.folder, "StableDiffusionPipeline")
    assert {name: c.part for name, c in found.components.items()} == {
        "unet": Part.denoiser, "vae": Part.first_stage, "scheduler": Part.scheduler, "safety_checker": Part.ignored,
    }  # fmt: skip
    assert found.components["scheduler"].config["beta_start"] == 0.00085
    assert found.components["unet"].config["sample_size"] == 64
    assert found.components["safety_checker"].index is None
    assert set(found.index) == {f"{c}/{n}" for c in ("unet", "vae") for n in TENSORS}
    assert torch.equal(found.index["vae/a.weight"].read(), TENSORS["a.weight"])
    assert found.metadata.facts == {"requires_safety_checker": True}


def test_one_models_folder(folder: Path) -> None:
    found = open_checkpoint(folder / "vae")
    assert found.pipeline is None
    assert list(found.components) == ["vae"]
    assert found.components["vae"].index is not None
    assert torch.equal(found.components["vae"].index["b.weight"].read(), TENSORS["b.weight"])
    write(folder / "text" / "config.json", {"architectures": ["CLIPTextModel"]})
    save_file(TENSORS, folder / "text" / "model.safetensors")
    assert list(open_checkpoint(folder / "text").components) == ["text_encoder"]


@pytest.mark.parametrize(("safe", "variant"), [(True, None), (True, "fp16"), (False, None), (False, "fp16"), (True, "non_ema")])
@pytest.mark.parametrize("shards", ["10GB", "100KB"])
def test_what_diffusers_writes(tmp_path: Path, safe: bool, variant: str | None, shards: str) -> None:
    """diffusers 0.42 as the writer: whole and in shards, safetensors and pickles, plain and variants."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    sizes = {"block_out_channels": (32, 32), "layers_per_block": 1, "norm_num_groups": 8}
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        **sizes,
    )
    vqvae = diffusers.VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, **sizes
    )
    pipe = diffusers.LDMPipeline(vqvae=vqvae, unet=unet, scheduler=diffusers.DDIMScheduler())
    if variant == "fp16":
        pipe.to(dtype=torch.float16)
    pipe.save_pretrained(tmp_path / "x", safe_serialization=safe, variant=variant, max_shard_size=shards)
    names = sorted(p.name for p in (tmp_path / "x" / "unet").iterdir())
    assert any("index" in name for name in names) == (shards == "100KB"), names
    found = open_checkpoint(tmp_path / "x", variant=variant if variant == "non_ema" else None)
    assert found.pipeline == "LDMPipeline"
    for name, module in (("unet", pipe.unet), ("vqvae", pipe.vqvae)):
        component = found.components[name]
        assert component.index is not None
        state = module.state_dict()
        assert component.index.keys() == state.keys()
        for key, tensor in state.items():
            assert component.index[key].dtype == tensor.dtype
            assert torch.equal(component.index[key].read(), tensor)
        assert component.config["norm_num_groups"] == 8


def test_which_file_is_taken(folder: Path) -> None:
    """Plain before fp16 before bf16; what is asked for where there is any; safetensors before pickles."""
    unet = folder / "unet"
    plain = unet / "diffusion_pytorch_model.safetensors"
    save_file({"n": torch.tensor(16)}, unet / "diffusion_pytorch_model.fp16.safetensors")
    save_file({"n": torch.tensor(17)}, unet / "diffusion_pytorch_model.bf16.safetensors")
    torch.save({"n": torch.tensor(1)}, unet / "diffusion_pytorch_model.bin")

    def taken(variant: str | None = None) -> set[str]:
        index = open_checkpoint(folder, variant=variant).components["unet"].index
        assert index is not None
        return {entry.file.path.name for entry in index.values()}

    assert taken() == {plain.name}
    assert taken("fp16") == {"diffusion_pytorch_model.fp16.safetensors"}  # and vae's plain file, as it has no other
    assert taken("bf16") == {"diffusion_pytorch_model.bf16.safetensors"}
    plain.unlink()
    assert taken() == {"diffusion_pytorch_model.bin"}
    (unet / "diffusion_pytorch_model.bin").unlink()
    assert taken() == {"diffusion_pytorch_model.fp16.safetensors"}
    save_file(TENSORS, plain)
    refused(folder, "no files of the variant 'non_ema'", variant="non_ema")
    refused(folder, "unknown variant 'fp8'", variant="fp8")


@pytest.mark.parametrize(
    "value",
    [
        ["os", "system"],
        ["diffusers", "os.system"],
        ["diffusers", "UNet2DConditionModel.from_pretrained"],
        ["transformers", "AutoModel"],
        ["diffusers\x1b[2J", "a\nb"],
        ["my_module", "UNet2DConditionModel"],
        ["diffusers_modules", "UNet2DConditionModel"],
        ["sfumato", "LatentModel"],
        ["", ""],
        ["diffusers"],
        ["diffusers", "UNet2DConditionModel", "x"],
        ["diffusers", None],
        [None, "UNet2DConditionModel"],
        [["diffusers"], "UNet2DConditionModel"],
        [],
    ],
)
def test_foreign_classes(folder: Path, value: list[Any]) -> None:
    (folder / "unet" / "os.py").write_text("raise SystemExit('imported')")
    write(folder / "model_index.json", INDEX | {"unet": value})
    refused(folder, r"no class that is read here|is not \[library, class\]")


@pytest.mark.parametrize("name", ["../vae", "/etc", "a/b", "..", "a\\b", "a b", "A", "ü"])
def test_component_names_stay_names(folder: Path, name: str) -> None:
    write(folder / "model_index.json", INDEX | {name: ["diffusers", "UNet2DConditionModel"]})
    refused(folder, "unsafe name")


def test_pipelines_with_code(folder: Path) -> None:
    write(folder / "model_index.json", INDEX | {"_class_name": ["pipeline", "MyPipeline"]})
    (folder / "pipeline.py").write_text("raise SystemExit('imported')")
    refused(folder, "with its own code")
    write(folder / "model_index.json", INDEX | {"custom_pipeline": "pipeline.py"})
    write(folder / "unet" / "config.json", {"auto_map": {"AutoModel": "evil.Model"}, "trust_remote_code": True})
    assert open_checkpoint(folder).components["unet"].config["auto_map"]  # words, that nobody follows


@pytest.mark.parametrize(
    "config", [{}, {"_class_name": "os.system"}, {"architectures": ["LlamaForCausalLM"]}, {"architectures": 3}]
)
def test_single_folders_of_other_models(tmp_path: Path, config: dict[str, Any]) -> None:
    write(tmp_path / "config.json", config)
    refused(tmp_path, "none that is read here")


def sharded(folder: Path, weight_map: Any) -> None:
    unet = folder / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
    save_file({"a.weight": TENSORS["a.weight"]}, unet / "one.safetensors")
    save_file({"b.weight": TENSORS["b.weight"]}, unet / "two.safetensors")
    write(unet / "diffusion_pytorch_model.safetensors.index.json", {"weight_map": weight_map})


def test_shards(folder: Path) -> None:
    sharded(folder, {"a.weight": "one.safetensors", "b.weight": "two.safetensors"})
    index = open_checkpoint(folder).components["unet"].index
    assert index is not None
    assert all(torch.equal(index[k].read(), v) for k, v in TENSORS.items())


@pytest.mark.parametrize(
    ("weight_map", "why"),
    [
        ({"a.weight": "../secret.safetensors"}, "is no file of its folder"),
        ({"a.weight": "/etc/passwd"}, "is no file of its folder"),
        ({"a.weight": "sub/one.safetensors"}, "is no file of its folder"),
        ({"a.weight": "..\\secret"}, "is no file of its folder"),
        ({"a.weight": ".."}, "is no file of its folder"),
        ({"a.weight": "none.safetensors"}, "is no file of its folder"),
        ({"a.weight": "one.safetensors\0"}, "is no file of its folder"),
        ({"a.weight": ""}, "is no file of its folder"),
        ({"a.weight": 3}, "has no weight_map"),
        ([], "has no weight_map"),
        ({}, "names 0 shards"),
        ({f"{i}": f"{i}.safetensors" for i in range(1001)}, "names 1001 shards"),
        ({"a.weight": "one.safetensors", "b.weight": "one.safetensors"}, "where it is not"),
        ({"a.weight": "one.safetensors", "c": "two.safetensors"}, "where it is not"),
    ],
)
def test_shard_tables_that_lie(folder: Path, weight_map: Any, why: str) -> None:
    save_file(TENSORS, folder.parent / "secret.safetensors")
    save_file(TENSORS, folder / "secret.safetensors")
    (folder / "unet" / "sub").mkdir()
    sharded(folder, weight_map)
    refused(folder, why)


def test_shards_with_more_than_the_table_says(folder: Path) -> None:
    sharded(folder, {"a.weight": "one.safetensors"})
    save_file(TENSORS, folder / "unet" / "one.safetensors")
    refused(folder, "leaves 1 tensors of its shards out")


def link_file(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.move(path, folder.parent / "outside.safetensors")
    path.symlink_to(folder.parent / "outside.safetensors")


def link_relative(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.move(path, folder.parent / "outside.safetensors")
    path.symlink_to("../../outside.safetensors")


def link_folder(folder: Path) -> None:
    shutil.move(folder / "unet", folder.parent / "outside")
    (folder / "unet").symlink_to(folder.parent / "outside")


def link_config(folder: Path) -> None:
    (folder / "unet" / "config.json").unlink()
    (folder / "unet" / "config.json").symlink_to("/etc/hostname")


def link_shard(folder: Path) -> None:
    sharded(folder, {"a.weight": "one.safetensors", "b.weight": "two.safetensors"})
    shutil.move(folder / "unet" / "two.safetensors", folder.parent / "two")
    (folder / "unet" / "two.safetensors").symlink_to(folder.parent / "two")


@pytest.mark.parametrize("link", [link_file, link_relative, link_folder, link_config, link_shard], ids=lambda f: f.__name__)
def test_links_out_of_the_folder(folder: Path, link: Callable[[Path], None]) -> None:
    link(folder)
    refused(folder, "link out of its folder")


def test_links_within_and_loops(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.move(path, folder / "kept.safetensors")
    path.symlink_to("../kept.safetensors")
    assert open_checkpoint(folder).index
    path.unlink()
    path.symlink_to(path.name)
    refused(folder, "holds no weights")


def test_the_hubs_cache_links_to_its_own_blobs(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--owner--name"
    snapshot, blobs = cache / "snapshots" / "0123abcd", cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        shutil.move(path, blobs / str(number))
        place = snapshot / path.relative_to(folder)
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(os.path.relpath(blobs / str(number), place.parent))
    assert set(open_checkpoint(snapshot).index) == {f"{c}/{n}" for c in ("unet", "vae") for n in TENSORS}
    path = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(TENSORS, tmp_path / "outside")
    path.unlink()
    path.symlink_to(tmp_path / "outside")
    refused(snapshot, "link out of its folder")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not valid JSON"),
        (b"[]", "no table of fields"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"_class_name": "A", "_class_name": "B"}', "stands twice"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b'{"_class_name": "X"}', "names no model with weights"),
        (b"\xff\xfe", "not valid JSON"),
        (b" " * (25 * 10**6 + 1), "larger than"),
    ],
    ids=range(9),
)
def test_tables_that_are_none(folder: Path, data: bytes, why: str) -> None:
    (folder / "model_index.json").write_bytes(data)
    refused(folder, why)


BERT_PARTS = {"bert": ["latent_diffusion", "LDMBertModel"], "tokenizer": ["transformers", "BertTokenizer"]}


def bert(folder: Path, **parts: Any) -> Path:
    """Gives the pipeline a BERT-style text encoder and a tokenizer; returns the tokenizer's place."""
    write(folder / "model_index.json", INDEX | BERT_PARTS | parts)
    write(folder / "bert" / "config.json", {"architectures": ["LDMBertModel"]})
    save_file(TENSORS, folder / "bert" / "model.safetensors")
    write(folder / "tokenizer" / "tokenizer_config.json", {"tokenizer_class": "evil.Tokenizer"})
    return folder / "tokenizer"


def test_words_of_a_tokenizer(folder: Path) -> None:
    place = bert(folder)
    assert open_checkpoint(folder).components["tokenizer"].words == ()
    write(place / "tokenizer.json", {"model": {"type": "WordPiece", "vocab": {"b": 1, "a": 0}}})
    assert open_checkpoint(folder).components["tokenizer"].words == ("a", "b")
    (place / "vocab.txt").write_text("x\ny\n")
    assert open_checkpoint(folder).components["tokenizer"].words == ("x", "y")


def test_words_that_are_none(folder: Path) -> None:
    place = bert(folder)
    for vocab in ({"a": 1}, {"a": 0, "b": 0}, {"a": "0"}, {"a": 0, "b": 10**9}, ["a"], None, {"a": [0]}):
        write(place / "tokenizer.json", {"model": {"vocab": vocab}})
        refused(folder, "has no vocabulary")
    (place / "tokenizer.json").write_text("[]")
    refused(folder, "no table of fields")
    (place / "vocab.txt").write_bytes(b"\xff\xfe\xff")
    refused(folder, "not UTF-8")
    (place / "vocab.txt").unlink()
    (place / "vocab.txt").symlink_to("/etc/hostname")
    refused(folder, "link out of its folder")


@pytest.mark.parametrize("value", [["evil", "LDMBertModel"], ["latent_diffusion", "LDMBertModel.evil"], ["builtins", "exec"]])
def test_foreign_text_encoders(folder: Path, value: list[str]) -> None:
    bert(folder, bert=value)
    refused(folder, "no class that is read here")


def test_a_hostile_pickle_in_a_folder(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    refused(folder, r"asks for os\.system")


def test_missing_weights_and_parts(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    refused(folder, "holds no weights")
    with pytest.raises(InputError, match="holds neither"):
        read_folder(folder / "scheduler", lambda path: open_checkpoint(path).index)
