"""Whole runs: a folder of pictures in, a model with its card out; again, changed, interrupted, refused."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_runs import go, times, weights

from sfumato.errors import InputError
from sfumato.generation.pipeline import load
from sfumato.io.pretrained import load_pretrained
from sfumato.io.storage import Storage
from sfumato.io.weights import read_storage, read_weights
from sfumato.training.run import parameter_counts, resolve
from sfumato.training.stages import Stage, key
from tiny_runs import differences, small_config, write_folder


def test_what_a_run_leaves(finished: Path) -> None:
    expected = [
        "config.json", "audit/audit.json", "first_stage/done.json", "first_stage/pairs.png", "first_stage/log.jsonl",
        "first_stage/reconstruction.json", "first_stage/samples/step-00000010.png", "latents/moments.safetensors",
        "latents/scale.safetensors", "prior/log.jsonl", "prior/samples/step-00000010.png", "model/model.safetensors",
        "model/tokenizer.json", "model/README.md", "model/manifest.json",
    ]  # fmt: skip
    assert [name for name in expected if not (finished / name).is_file()] == []
    assert list(finished.glob("tensorboard/*/events*"))
    leftovers = [p for p in finished.rglob("*") if p.name.endswith((".tmp", ".old"))]
    assert leftovers == []
    assert [p.name for p in sorted((finished / "prior" / "checkpoints").iterdir())] == ["step-00000008", "step-00000010"]
    with Image.open(finished / "prior" / "samples" / "step-00000010.png") as sheet:
        assert sheet.size == (8 * 18 + 2, 2 * 18 + 2)


def test_the_card(finished: Path) -> None:
    text = (finished / "model" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: sfumato\npipeline_tag: text-to-image\n")
    for words in (
        "# tiny",
        "23 pictures for training, 1 held out",
        "10 steps of 4",
        "PSNR",
        "| prior |",
        "Conditioned on: text",
    ):
        assert words in text
    report = json.loads((finished / "first_stage" / "reconstruction.json").read_text())
    assert f"{report['psnr']:.2f} dB" in text
    assert report["pictures"] == 1
    config = json.loads(text.split("```json")[1].split("```")[0])
    assert config == json.loads((finished / "config.json").read_text())


def test_the_model_samples(finished: Path) -> None:
    pipeline = load(finished / "model", "cpu")
    pictures = pipeline.generate(["a red square"], num=2, seed=3, steps=2)
    assert [p.size for p in pictures] == [(16, 16)] * 2
    assert load_pretrained(finished).name == "tiny"  # the run's own folder names its model too


def test_the_model_is_the_average_in_unit_scale(finished: Path) -> None:
    model = load_pretrained(finished / "model").model
    state = read_weights(finished / "prior" / "checkpoints" / "step-00000010" / "state.safetensors")
    for name, tensor in model.prior.state_dict().items():
        assert torch.equal(tensor, state[f"ema.prior.{name}"].half().float())
    scale = read_weights(finished / "latents" / "scale.safetensors")
    assert torch.equal(model.first_stage.scale, scale["scale"])
    assert not torch.equal(model.first_stage.scale, torch.ones(4))
    assert model.first_stage.preview.any()


def test_logs_have_every_number(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "first_stage" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10]
    assert {"autoencoder/total", "pixel", "perceptual", "kl", "autoencoder/grad_norm", "images_per_second"} <= rows[0].keys()
    assert {"gan/logit_gap", "gan/adaptive_weight", "gan/d_accuracy", "discriminator/total"} <= rows[-1].keys() - rows[0].keys()


def test_again_does_nothing(finished: Path, data: Path) -> None:
    before, start = times(finished), time.monotonic()
    assert go(small_config(), data, finished) == finished / "model"
    assert time.monotonic() - start < 3
    assert times(finished) == before


def test_the_same_run_elsewhere_gives_the_same_weights(finished: Path, data: Path, tmp_path: Path) -> None:
    go(small_config(), data, tmp_path / "other")
    assert differences(weights(finished), weights(tmp_path / "other")) == []


def test_the_runs_own_config_goes_on(copy: Path, data: Path) -> None:
    from sfumato.cli.train import read_config

    before = times(copy)
    go(read_config(str(copy / "config.json"), []), data, copy)
    assert times(copy) == before


def test_a_change_of_the_prior_reruns_only_the_prior(copy: Path, data: Path) -> None:
    kept = times(copy, "first_stage", "latents", "audit")
    old = weights(copy)
    go(small_config("prior.train.learning_rate=5e-4"), data, copy)
    assert times(copy, "first_stage", "latents", "audit") == kept
    changed = differences(old, weights(copy))
    assert any(n.startswith("model/prior") for n in changed)
    assert not any(n.startswith(("first_stage", "model/first_stage")) for n in changed)
    assert "0.0005" in (copy / "model" / "README.md").read_text()


def test_a_change_of_the_first_stage_reruns_all(copy: Path, data: Path) -> None:
    before = times(copy, "first_stage", "latents", "prior", "model")
    kept = times(copy, "audit")
    go(small_config("first_stage.loss.kl_weight=1e-5"), data, copy)
    after = times(copy, "first_stage", "latents", "prior", "model")
    assert [name for name, when in before.items() if after.get(name) == when] == []
    assert times(copy, "audit") == kept


def test_more_steps_continue(copy: Path, data: Path) -> None:
    kept = times(copy, "first_stage", "latents")
    go(small_config("prior.train.steps=12"), data, copy)
    assert times(copy, "first_stage", "latents") == kept
    rows = [json.loads(line)["step"] for line in (copy / "prior" / "log.jsonl").read_text().splitlines()]
    assert rows == [2, 4, 6, 8, 10, 12]


def test_cadence_changes_nothing(copy: Path, data: Path) -> None:
    before = times(copy)
    go(small_config("prior.train.log_every=3", "first_stage.train.checkpoint_every=7"), data, copy)
    assert times(copy) == before


def test_other_sampling_defaults_need_no_training(copy: Path, data: Path) -> None:
    kept, old = times(copy, "first_stage", "latents"), weights(copy)
    go(small_config("sampling.guidance=5.5", "name=mine"), data, copy)
    assert times(copy, "first_stage", "latents") == kept
    assert differences(old, weights(copy)) == []
    model = load_pretrained(copy)
    assert (model.defaults.guidance, model.name) == (5.5, "mine")


def test_another_storage_needs_no_training(copy: Path, data: Path) -> None:
    kept = {p: (copy / p).read_bytes() for p in ("first_stage/stage.json", "latents/stage.json", "prior/stage.json")}
    before, exact = times(copy, "first_stage", "latents"), load_pretrained(copy).model.state_dict()
    go(small_config("storage=int8"), data, copy)
    assert times(copy, "first_stage", "latents") == before
    assert all((copy / path).read_bytes() == text for path, text in kept.items())  # the keys
    assert read_storage(copy / "model" / "model.safetensors") is Storage.int8
    for name, tensor in load_pretrained(copy).model.state_dict().items():
        if tensor.ndim > 1 and name != "first_stage.preview":  # half a step, and what fp16 had rounded of `exact`
            limit = exact[name].flatten(1).abs().amax(1, keepdim=True) * (1 / 254 + 2**-10)
            assert ((tensor - exact[name]).flatten(1).abs() <= limit).all(), name
        else:
            assert torch.equal(tensor, exact[name]), name
    saved = times(copy, "model")
    go(small_config("storage=int8"), data, copy)
    assert times(copy, "model") == saved
    with pytest.raises(InputError, match="did you mean 'int8'"):
        small_config("storage=int")


def test_a_new_picture_reruns_all(copy: Path, data: Path, tmp_path: Path) -> None:
    more = Path(shutil.copytree(data, tmp_path / "more"))
    Image.new("RGB", (20, 20), "pink").save(more / "new.png")
    before = times(copy, "first_stage", "latents", "prior", "audit")
    go(small_config(), more, copy)
    after = times(copy, "first_stage", "latents", "prior", "audit")
    assert [name for name, when in before.items() if after.get(name) == when] == []
    assert "24 pictures for training" in (copy / "model" / "README.md").read_text()


@pytest.mark.parametrize("part", ["model", "latents", "prior/done.json"])
def test_a_lost_part_is_made_again(copy: Path, data: Path, part: str) -> None:
    old = weights(copy)
    shutil.rmtree(copy / part) if (copy / part).is_dir() else (copy / part).unlink()
    go(small_config(), data, copy)
    assert differences(old, weights(copy)) == []
    load_pretrained(copy)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pictures(count: int, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_folder(tmp_path / "data", count)
    with pytest.raises(InputError, match="picture"):
        go(small_config(), tmp_path / "data", tmp_path / "run")
    assert not (tmp_path / "run" / "first_stage").exists()


def test_two_pictures_are_enough(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 2)
    load_pretrained(go(small_config(), tmp_path / "data", tmp_path / "run"))


def test_bad_files_are_listed_and_left_out(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", 12)
    (folder / "broken.png").write_bytes((folder / "000.png").read_bytes()[:60])
    go(small_config(), folder, tmp_path / "run")
    bad = [json.loads(line) for line in (tmp_path / "run" / "audit" / "bad_files.jsonl").read_text().splitlines()]
    assert ["broken.png" in entry.values() for entry in bad] == [True]
    assert "11 pictures for training, 1 held out, 1 unreadable" in (tmp_path / "run" / "model" / "README.md").read_text()


@pytest.mark.parametrize("kind", ["class", "none"])
def test_conditions_follow_the_data(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(small_config(), write_folder(tmp_path / "data", 12, kind), out)
    model = load_pretrained(out)
    assert model.config.conditioner.kind == kind
    assert json.loads((out / "config.json").read_text())["prior"]["condition"] == kind
    card = (out / "model" / "README.md").read_text()
    assert "pipeline_tag: unconditional-image-generation" in card
    assert not (out / "model" / "tokenizer.json").exists()
    if kind == "class":
        assert model.config.conditioner.names == ("blue", "green", "red", "yellow")
    pictures = load(out, "cpu").generate(["blue"] if kind == "class" else [""], seed=1, steps=2)
    assert pictures[0].size == (16, 16)


def test_text_can_be_put_aside(data: Path, tmp_path: Path) -> None:
    config, prepared = resolve(small_config("prior.condition=none"), data)
    assert config.prior.conditioner.kind == "none"
    assert config.prior.model.network.context_dim is None
    with pytest.raises(InputError, match=r"condition=class, but the data has 0 class folders"):
        resolve(small_config("prior.condition=class"), data)
    with pytest.raises(InputError, match=r"condition=text, but no picture has a caption"):
        resolve(small_config("prior.condition=text"), write_folder(tmp_path / "bare", 4, "none"))
    assert len(prepared.train) == 23


IDENTITY = 'first_stage.model={"kind": "identity", "image_channels": 1}'


def test_the_first_stage_follows_the_data(data: Path) -> None:
    for channels in (1, 4):
        kl = resolve(small_config(f"data.channels={channels}"), data)[0]
        assert kl.first_stage.model.network.image_channels == channels
        assert kl.prior.model.network.in_channels == 4
        identity = resolve(small_config(f"data.channels={channels}", 'first_stage.model={"kind": "identity"}'), data)[0]
        assert identity.first_stage.model.image_channels == identity.prior.model.network.in_channels == channels


def test_grey_pictures(data: Path, tmp_path: Path) -> None:
    go(small_config("data.channels=1"), data, tmp_path / "run")
    model = load_pretrained(tmp_path / "run").model
    assert model.first_stage.channels == 1
    picture = load(tmp_path / "run", "cpu").generate(["a red disc"], seed=1, steps=2)[0]
    assert picture.size == (16, 16)
    for first, name in (("network.", "first_stage.model.network.image_channels=1"), ("", IDENTITY)):
        with pytest.raises(InputError, match=rf"data.channels is 3, but first_stage.model.{first}image_channels is 1"):
            resolve(small_config(name), data)


def test_mirrored_pictures(data: Path, tmp_path: Path) -> None:
    go(small_config("data.flip=true"), data, tmp_path / "run")
    plain, mirrored = (read_weights(tmp_path / "run" / "latents" / f"{n}.safetensors") for n in ("moments", "flipped"))
    assert plain["mean"].shape == mirrored["mean"].shape
    assert not torch.equal(plain["mean"], mirrored["mean"])


def test_diffusion_on_pixels(data: Path, tmp_path: Path) -> None:
    """The identity first stage: nothing to train in stage 1."""
    identity = ('first_stage.model={"kind": "identity", "image_channels": 3}', "data.size=8")
    go(small_config(*identity), data, tmp_path / "run")
    model = load_pretrained(tmp_path / "run")
    assert model.config.prior.network.in_channels == 3
    assert load(tmp_path / "run", "cpu").generate(["a red disc"], seed=1, steps=2)[0].size == (8, 8)
    before = times(tmp_path / "run")
    go(small_config(*identity), data, tmp_path / "run")
    assert times(tmp_path / "run") == before


def test_a_discriminator_that_never_starts_may_be_too_large(data: Path) -> None:
    resolve(small_config("first_stage.loss.discriminator_layers=3", "first_stage.loss.gan_start=never"), data)


def test_parameter_counts_are_those_of_the_model(finished: Path, data: Path) -> None:
    model = load_pretrained(finished).model
    counts = parameter_counts(resolve(small_config(), data)[0])
    assert counts == {
        "first stage": sum(p.numel() for p in model.first_stage.parameters()),
        "prior": sum(p.numel() for p in model.prior.parameters()),
        "conditioner": sum(p.numel() for p in model.conditioner.parameters()),
    }


def test_stage_keys() -> None:
    tiny = small_config()
    assert key("a", tiny.prior.train) == key("a", small_config("prior.train.steps=99", "prior.train.compile=true").prior.train)
    assert key("a", tiny.prior.train) != key("a", small_config("prior.train.batch_size=5").prior.train)
    assert key("a", tiny.prior.train) != key("b", tiny.prior.train)


def test_stage_folder(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "s", "k1", 10)
    assert not stage.open()
    assert stage.results() is None
    stage.finish({"x": 1})
    assert Stage(tmp_path / "s", "k1", 10).results() == {"x": 1}
    assert Stage(tmp_path / "s", "k1", 11).results() is None  # more steps were asked for
    assert not Stage(tmp_path / "s", "k1", 11).open()
    assert Stage(tmp_path / "s", "k2", 10).results() is None
    assert Stage(tmp_path / "s", "k2", 10).open()
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["stage.json"]
