"""A model directory gives back the model that was saved, or says in one line why not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

import tiny_models
from sfumato.conditioners.label import LabelConfig
from sfumato.errors import InputError, MachineError
from sfumato.io import pretrained
from sfumato.io.files import MANIFEST, sha256
from sfumato.io.pretrained import SamplingDefaults, find_model, load_pretrained, save_pretrained, with_defaults
from sfumato.io.storage import Storage
from sfumato.io.weights import read_weights, save_weights
from sfumato.model import LatentModel
from sfumato.noise import PictureNoise
from sfumato.priors.diffusion import DiffusionSettings
from sfumato.samplers import SAMPLERS

from faults import Disk, refuse  # isort: skip

CONFIG = tiny_models.text_config()
DEFAULTS = SamplingDefaults(sampler="ddim", steps=7, guidance=2.5, guidance_interval=(0.1, 0.8), guidance_rescale=0.3)


@pytest.fixture(scope="module")
def model() -> LatentModel:
    model = tiny_models.random_model(CONFIG)
    odd = torch.tensor([0.1234567, -1e-5, 3.3333333, 7.0])  # of no fp16 value
    model.first_stage.set_statistics(odd, odd.abs() + 0.7654321, torch.full((5, 3), 0.1234567))
    return model


@pytest.fixture(scope="module")
def saved(model: LatentModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "saved"
    save_pretrained(path, model, CONFIG, defaults=DEFAULTS, name="red", card="# Card\n")
    return path


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def sign(path: Path) -> None:
    """Make the manifest right again after a change that it should not be the one to find."""
    manifest = json.loads((path / MANIFEST).read_text())
    for name in manifest["files"]:
        file = path / name
        manifest["files"][name] = {"sha256": sha256(file), "bytes": file.stat().st_size}
    (path / MANIFEST).write_text(json.dumps(manifest))


def change_config(path: Path, **changes: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({k: v for k, v in (config | changes).items() if v is not ...}))
    sign(path)


def refused(path: Path | str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load_pretrained(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("storage", "dtype"), [(Storage.fp32, torch.float32), (Storage.fp16, torch.float16)])
def test_round_trip_is_exact(model: LatentModel, tmp_path: Path, storage: Storage, dtype: torch.dtype) -> None:
    save_pretrained(tmp_path / "m", model, CONFIG, storage=storage)
    back = load_pretrained(tmp_path / "m")
    assert back.config == CONFIG
    own = back.model.state_dict()
    for name, tensor in model.state_dict().items():
        exact = name.split(".")[1] in ("shift", "scale", "preview")
        expected = tensor if exact else tensor.to(dtype).float()
        assert own[name].dtype == torch.float32
        assert torch.equal(own[name], expected), name
    assert not back.model.training
    assert not any(p.requires_grad for p in back.model.parameters())
    save_pretrained(tmp_path / "again", back.model, back.config, storage=storage)
    assert sha256(tmp_path / "again" / "model.safetensors") == sha256(tmp_path / "m" / "model.safetensors")


def test_int8_on_disk_is_fp32_in_use(model: LatentModel, tmp_path: Path) -> None:
    save_pretrained(tmp_path / "m", model, CONFIG, storage=Storage.int8)
    back, given = load_pretrained(tmp_path / "m").model.state_dict(), model.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in back.values())
    for name, tensor in given.items():
        if name.split(".")[1] in ("shift", "scale", "preview"):
            assert torch.equal(back[name], tensor), name
        elif tensor.ndim < 2:
            assert torch.equal(back[name], tensor.half().float()), name
        else:  # half of a step, which is a 127th of a row's largest weight up to 16 bits
            half = tensor.flatten(1).abs().amax(1, keepdim=True) / 127 / 2
            assert ((back[name] - tensor).flatten(1).abs() <= half * (1 + 1e-4)).all(), name
    loaded = load_pretrained(tmp_path / "m")
    save_pretrained(tmp_path / "again", loaded.model, loaded.config, storage=Storage.int8)
    assert sha256(tmp_path / "again" / "model.safetensors") == sha256(tmp_path / "m" / "model.safetensors")


def numbers_on_disk(path: Path) -> int:
    """Bytes of a safetensors file behind its header."""
    data = (path / "model.safetensors").read_bytes()
    return len(data) - 8 - int.from_bytes(data[:8], "little")


def test_bytes_on_disk(model: LatentModel, tmp_path: Path) -> None:
    state = model.state_dict()
    exact = sum(state[f"first_stage.{name}"].numel() for name in ("shift", "scale", "preview"))
    total = sum(tensor.numel() for tensor in state.values()) - exact
    matrices = [tensor for name, tensor in state.items() if tensor.ndim > 1 and name != "first_stage.preview"]
    inside, rows = sum(tensor.numel() for tensor in matrices), sum(len(tensor) for tensor in matrices)
    expected = {
        Storage.fp32: 4 * total,
        Storage.fp16: 2 * total,
        Storage.int8: inside + 4 * rows + 2 * (total - inside),
    }
    for storage, count in expected.items():
        save_pretrained(tmp_path / storage.value, model, CONFIG, storage=storage)
        assert numbers_on_disk(tmp_path / storage.value) == count + 4 * exact
    assert expected[Storage.int8] < 0.53 * expected[Storage.fp16]  # about half, in a model whose rows are short


def test_everything_else_survives(model: LatentModel, saved: Path) -> None:
    assert sorted(p.name for p in saved.iterdir()) == [
        "README.md", "config.json", "manifest.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    back = load_pretrained(saved)
    assert back.defaults == DEFAULTS
    assert (back.name, back.path) == ("red", saved)
    assert back.hash == sha256(saved / "model.safetensors")[:10]
    assert (saved / "README.md").read_text() == "# Card\n"
    prompts = ["a red dragon", "Ein Café", ""]
    assert torch.equal(back.model.conditioner.prepare(prompts), model.conditioner.prepare(prompts))
    changed = with_defaults(back, steps=3)
    assert (changed.defaults.steps, changed.defaults.sampler, back.defaults.steps) == (3, "ddim", 7)


def sample(model: LatentModel, steps: int) -> torch.Tensor:
    settings = DiffusionSettings(SAMPLERS["ddim"], steps)
    return model.sample(model.conditioner.prepare(["a cat"]), settings, PictureNoise([3]), 2.0)


def test_loaded_model_samples_the_same(model: LatentModel, tmp_path: Path) -> None:
    save_pretrained(tmp_path / "m", model, CONFIG, storage=Storage.fp32)
    assert torch.equal(sample(load_pretrained(tmp_path / "m").model, 2), sample(model, 2))


def test_an_int8_model_draws_nearly_the_same(model: LatentModel, tmp_path: Path) -> None:
    """Gaussian rows reach 3 to 4 sigma, so that rounding within a step adds 3.5 / 127 / sqrt(12) = 0.8 % to a layer's output.

    If each of the 119 weight tensors added its own 0.8 %, independently and none dampened by a norm or a shortcut, that
    would be 0.8 % * sqrt(119) = 9 % of a picture's contrast.
    """
    save_pretrained(tmp_path / "m", model, CONFIG, storage=Storage.int8)
    exact, rounded = sample(model, 5), sample(load_pretrained(tmp_path / "m").model, 5)
    error = float((rounded - exact).square().mean().sqrt() / exact.std())
    assert 0 < error < 0.1


@pytest.mark.parametrize("conditioner", ["none", "class"])
def test_models_without_text(tmp_path: Path, conditioner: str) -> None:
    config = tiny_models.unconditional_config()
    if conditioner == "class":
        network = dataclasses.replace(CONFIG.prior.network, context_dim=8)
        prior = dataclasses.replace(config.prior, network=network)
        config = dataclasses.replace(config, prior=prior, conditioner=LabelConfig(("cat", "Hündchen 犬"), dim=8))
    save_pretrained(tmp_path / "m", tiny_models.random_model(config), config)
    assert not (tmp_path / "m" / "tokenizer.json").exists()
    assert load_pretrained(tmp_path / "m").config == config


def test_finding(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_model(saved) == find_model(str(saved)) == saved
    shutil.copytree(saved, tmp_path / "run" / "model")
    assert find_model(tmp_path / "run") == tmp_path / "run" / "model"
    monkeypatch.setattr(pretrained, "ASSETS", saved.parent)
    assert "saved" in pretrained.shipped_models()
    assert find_model("saved") == saved
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    refused("svaed", "did you mean 'saved'")
    refused(tmp_path / "file", "is a file")
    refused(tmp_path / "empty", "holds no config.json")
    refused(tmp_path / "nothing", "unknown model")
    refused("", "holds no config.json")  # the current directory
    refused("x" * 5000, "unknown model")
    refused("a\0b", "unknown model")


@pytest.mark.parametrize("name", ["README.md", "config.json", "manifest.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("how", ["cut", "flip", "delete"])
def test_damage_is_found(copy: Path, name: str, how: str) -> None:
    data = (copy / name).read_bytes()
    middle = len(data) // 2
    if how == "delete":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(
            data[:middle] if how == "cut" else data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
        )
    refused(copy, name if name != "manifest.json" else "manifest|restore")


def test_verification_can_be_skipped(copy: Path) -> None:
    (copy / "README.md").write_text("# My own words\n")
    refused(copy, r"README\.md does not match")
    assert load_pretrained(copy, verify=False).name == "red"


def test_weights_that_do_not_fit(copy: Path) -> None:
    path = copy / "model.safetensors"
    whole = read_weights(path)
    first, second = list(whole)[:2]
    spoiled = {
        f"missing {first}": {k: v for k, v in whole.items() if k != first},
        "unexpected more": whole | {"more": torch.zeros(1)},
        f"{first} has shape": whole | {first: whole[first][None]},
        f"{second} is not finite": whole | {second: torch.full_like(whole[second], float("nan"))},
        "and [0-9]+ more": {k: v for k, v in whole.items() if k.startswith("first_stage")},
    }
    for words, tensors in spoiled.items():
        save_weights(path, tensors)
        sign(copy)
        refused(copy, words)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    sign(copy)
    refused(copy, "not a readable safetensors")


def test_configs_that_do_not_fit(copy: Path) -> None:
    model = json.loads((copy / "config.json").read_text())["model"]
    change_config(copy, format=2)
    refused(copy, "format 2")
    change_config(copy, format=1, model=...)
    refused(copy, "model")
    change_config(copy, model=[])
    refused(copy, "model")
    change_config(copy, model=model | {"first_stage": {"kind": "gan"}})
    refused(copy, r"model\.first_stage\.kind")
    change_config(copy, model=model | {"image_size": [16]})
    refused(copy, r"model\.image_size")
    change_config(copy, model=model | {"extra": 1})
    refused(copy, r"model\.extra")
    change_config(copy, model=model, sampling={"stepz": 3})
    refused(copy, r"did you mean 'sampling\.steps'")
    (copy / "config.json").write_text("[1]")
    sign(copy)
    refused(copy, "format None")


def test_text_model_needs_its_tokenizer(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    del manifest["files"]["tokenizer.json"]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    (copy / "tokenizer.json").write_text('{"version": 1}')
    refused(copy, "tokenizer")
    (copy / "tokenizer.json").unlink()
    refused(copy, "needs its tokenizer")


def test_manifest_must_name_the_weights(copy: Path) -> None:
    (copy / MANIFEST).write_text('{"files": {}}')
    refused(copy, r"model\.safetensors")


def test_failing_save_leaves_the_old_model(model: LatentModel, copy: Path) -> None:
    before = sha256(copy / MANIFEST)
    for at in range(1, 40, 3):
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(at, refuse()).install(patch)
            try:
                save_pretrained(copy, model, CONFIG, name="other")
            except MachineError:
                assert sha256(copy / MANIFEST) == before or load_pretrained(copy).name == "other"
            else:
                assert disk.count < at
        load_pretrained(copy)
        assert [p.name for p in copy.parent.iterdir()] == ["copy"]


def test_a_tokenizer_that_is_no_text(copy: Path) -> None:
    (copy / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    sign(copy)
    refused(copy, r"tokenizer\.json is not UTF-8")


def test_an_unknown_spacing(copy: Path) -> None:
    change_config(copy, sampling={"spacing": "linspce"})
    refused(copy, "sampling: unknown spacing 'linspce'")
