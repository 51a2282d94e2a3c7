"""The yaml beside a checkpoint is data within limits; its targets are words of a table, and nothing is imported."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from sfumato.errors import InputError
from sfumato.interop.checkpoint import open_checkpoint
from sfumato.interop.yamls import MAX_BYTES, TARGETS, beside, read_yaml

GOOD = """
model:
  base_learning_rate: 2.0e-06
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params: &params
    linear_start: 0.0015
    timesteps: 1000
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params: {image_size: 64, attention_resolutions: [8, 4, 2]}
    first_stage_config:
      target: ldm.models.autoencoder.VQModelInterface
      params:
        lossconfig: {target: torch.nn.Identity}
    cond_stage_config: __is_unconditional__
data:
  target: main.DataModuleFromConfig
lightning:
  callbacks:
    image_logger: {target: main.ImageLogger, again: *params}
"""


def test_a_released_yaml_is_plain_data(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(GOOD)
    found = read_yaml(tmp_path / "x.yaml")
    assert found.model == yaml.safe_load(GOOD)["model"]
    assert dict(found.targets()) == {
        "model": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "model.params.unet_config": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
        "model.params.first_stage_config": "ldm.models.autoencoder.VQModelInterface",
        "model.params.first_stage_config.params.lossconfig": "torch.nn.Identity",
    }
    assert set(dict(found.targets()).values()) <= TARGETS


def test_the_one_that_belongs_to_a_checkpoint(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "model.ckpt")
    assert open_checkpoint(tmp_path / "model.ckpt").yaml is None
    (tmp_path / "config.yaml").write_text("settings: of something else\n")
    assert beside(tmp_path / "model.ckpt") is None
    (tmp_path / "config.yaml").write_text(GOOD)
    found = open_checkpoint(tmp_path / "model.ckpt").yaml
    assert found is not None
    assert found.path.name == "config.yaml"
    (tmp_path / "model.yaml").write_text(GOOD.replace("0.0015", "0.00085"))
    found = open_checkpoint(tmp_path / "model.ckpt").yaml
    assert found is not None
    assert found.model["params"]["linear_start"] == 0.00085


def nested(levels: int) -> str:
    return "model:\n  target: torch.nn.Identity\n  params: " + "[" * levels + "]" * levels


def laughs(levels: int, times: int) -> str:
    """Aliases of aliases: times^levels parts for who follows them."""
    lines = ["model:", "  target: torch.nn.Identity", "  a0: &a0 [x, x]"]
    lines += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * times)}]" for n in range(1, levels)]
    return "\n".join(lines)


def target(name: str) -> str:
    return GOOD.replace("ldm.models.autoencoder.VQModelInterface", name)


HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "a python object": ("model: !!python/object/apply:os.system ['touch canary']", "not valid yaml"),
    "a python name": ("model: !!python/name:os.system", "not valid yaml"),
    "a python module": ("model: !!python/module:antigravity", "not valid yaml"),
    "a python tuple": (GOOD.replace("[8, 4, 2]", "!!python/tuple [8, 4, 2]"), "not valid yaml"),
    "a new object": ("!!python/object/new:type {args: [x]}", "not valid yaml"),
    "a tag of its own": (GOOD.replace("1000", "!evil 1000"), "not valid yaml"),
    "laughs": (laughs(12, 8), "deeper or has more parts"),
    "few laughs": (laughs(9, 4), "deeper or has more parts"),
    "many aliases": (laughs(2, 101), "deeper or has more parts"),
    "a loop": (GOOD.replace("[8, 4, 2]", "&l [*l]"), "deeper or has more parts"),
    "a loop of tables": (GOOD.replace("[8, 4, 2]", "&l {a: *l}"), "deeper or has more parts"),
    "depth": (nested(60), "deeper or has more parts"),
    "great depth": (nested(50_000), "deeper or has more parts"),
    "depth without end": ("[" * 100_000, "deeper or has more parts"),
    "many parts": ("model: [" + "1, " * 20_000 + "1]", "deeper or has more parts"),
    "size": ("#" * (MAX_BYTES + 1), "larger than"),
    "a merge": (GOOD.replace("lossconfig:", "<<: {a: 1}\n        lossconfig:"), "merges"),
    "merges of merges": ("a: &a {x: 1}\nb: &b {<<: [*a, *a]}\nc: {<<: [*b, *b]}", "merges"),
    "a key twice": (GOOD.replace("timesteps: 1000", "timesteps: 1000\n    timesteps: 10"), "stands twice"),
    "a target twice": (GOOD.replace("  params: &params", "  target: os.system\n  params: &params"), "stands twice"),
    "a key that is a list": ("model: {[a, b]: 1}", "no text"),
    "two documents": (GOOD + "\n---\na: 1", "not valid yaml"),
    "no text": (b"\xff\xfe\xff\x00\x01", "not valid yaml"),
    "a NUL": (GOOD + "\n# \0", "not valid yaml"),
    "control characters": (GOOD + "\n# \x1b[2J", "not valid yaml"),
    "nothing": ("", "no section `model`"),
    "a list": ("[1, 2]", "no section `model`"),
    "a number": ("3", "no section `model`"),
    "no target": ("model: {params: {}}", "no section `model`"),
    "a target that is a table": ("model: {target: {a: 1}}", "no section `model`"),
    "digits": ("model: {target: torch.nn.Identity, x: %s}" % ("9" * 5000), "not valid yaml"),
    "an unknown target": (target("os.system"), r"'os\.system' at model\.params\.first_stage_config"),
    "builtins": (target("builtins.eval"), r"'builtins\.eval'"),
    "another module": (target("evil.AutoencoderKL"), r"'evil\.AutoencoderKL'"),
    "a target that goes on": (target("ldm.models.autoencoder.VQModelInterface.__init__"), "in no released yaml"),
    "a target in a list": (GOOD.replace("[8, 4, 2]", "[{target: os.system}]"), r"attention_resolutions\[0\]"),
    "control characters in a key": (
        GOOD.replace("lossconfig:", r'"a\e[2J\nb":').replace("torch.nn.Identity", "x.y"),
        "in no released",
    ),
    "control characters in a target": (target(r'"a\e[2J\nb"'), "in no released"),
    "a number as a target": (GOOD.replace("torch.nn.Identity", "3"), "in no released yaml"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_yaml(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    text, why = HOSTILE[what]
    (tmp_path / "x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    before, start = set(sys.modules), time.perf_counter()
    with pytest.raises(InputError, match=why) as caught:
        read_yaml(tmp_path / "x.yaml")
    assert time.perf_counter() - start < 5
    assert str(caught.value).isprintable()
    assert set(sys.modules) == before
    assert not (tmp_path / "canary").exists()


def test_words_that_other_programs_expand_stay_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OmegaConf would look these up."""
    monkeypatch.setenv("SECRET", "leaked")
    words = ["${oc.env:SECRET}", "${oc.decode:x}", "${now:%Y}", "$SECRET", "{{ SECRET }}", "__class__", "1e999"]
    text = GOOD.replace("[8, 4, 2]", "[" + ", ".join(f"'{word}'" for word in words) + "]")
    (tmp_path / "x.yaml").write_text(text)
    assert read_yaml(tmp_path / "x.yaml").model["params"]["unet_config"]["params"]["attention_resolutions"] == words


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path)
