"""Which published model a file is, where shapes leave it open: by the caller, a yaml, notes, or a name; else a question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfumato.diffusion.prediction import Prediction
from sfumato.errors import InputError
from sfumato.interop.cards import CARDS, Card, find_card
from sfumato.interop.checkpoint import Checkpoint, Metadata
from sfumato.interop.choose import choose_card, name_of
from sfumato.interop.files import Kind as Format
from sfumato.interop.folders import Component, Part
from sfumato.interop.index import TensorIndex
from sfumato.interop.recognise import Kind, Recognised
from sfumato.interop.shapes import without_heads
from sfumato.interop.yamls import ReleasedYaml, read_yaml


def found(card: Card) -> Recognised:
    """What `recognise` says of a checkpoint with this card's shapes."""
    alike = [
        c for c in CARDS if c.first_stage == card.first_stage and without_heads(c.unet) == without_heads(card.unet)
    ]  # fmt: skip
    return Recognised(Kind.checkpoint, card.unet, card.first_stage, tuple(alike), None, (), False, "", "", ())


def opened(name: str, yaml: ReleasedYaml | None = None, **notes: str) -> Checkpoint:
    return Checkpoint(Path(name), Format.safetensors, TensorIndex({}), Metadata(facts=notes), yaml=yaml)


def released(**params: Any) -> ReleasedYaml:
    return ReleasedYaml(Path("a.yaml"), {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params})


def chosen(card: str, name: str = "model.ckpt", yaml: ReleasedYaml | None = None, **notes: str) -> str:
    return choose_card(found(find_card(card)), opened(f"/there/{name}", yaml, **notes)).name


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_file_of_the_card_s_name(card: Card):
    one = choose_card(found(card), opened(f"/there/{card.name}/model.ckpt"))
    assert replace(one, name=card.name, source=card.source) == card
    assert choose_card(found(card), opened("/there/a.ckpt"), card.name) is card
    assert choose_card(found(card), opened("/there/a.ckpt"), card) is card


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v2-1_768-ema-pruned.safetensors", "sd2-v"), ("768-v-ema.ckpt", "sd2-v"), ("512-base-ema.ckpt", "sd2-base"),
        ("v2-1_512-ema-pruned.ckpt", "sd2-base"), ("stable-diffusion-2/model.safetensors", "sd2-v"),
        ("stable-diffusion-2-1-base/model.safetensors", "sd2-base"),
    ],
)  # fmt: skip
def test_names_of_releases(name, expected):
    assert chosen(expected, name) == expected


def test_the_yaml_says_it():
    v = released(parameterization="v", linear_start=0.00085, linear_end=0.012, image_size=96, scale_factor=0.18215)
    eps = released(linear_start=0.00085, linear_end=0.012, image_size=64, scale_factor=0.18215)
    assert [chosen("sd2-v", yaml=yaml) for yaml in (v, eps)] == ["sd2-v", "sd2-base"]
    assert chosen("semantic_synthesis256", yaml=released(image_size=128)) == "semantic_synthesis512"
    assert chosen("sd2-base", "512-base-ema.ckpt", v) == "sd2-v"  # before the name


def test_the_notes_of_a_file_say_it():
    assert chosen("sd2-v", **{"modelspec.prediction_type": "v"}) == "sd2-v"
    assert chosen("sd2-v", **{"modelspec.prediction_type": "epsilon"}) == "sd2-base"


def test_several_that_fit_are_a_question():
    for name in ("sd2-v", "semantic_synthesis256"):
        with pytest.raises(InputError, match=f"may be .*{name}.*; say which") as caught:
            chosen(name, "mine.ckpt")
        assert "\n" not in str(caught.value)


def test_faces_and_bedrooms_are_one_model_by_every_measure():
    assert chosen("lsun_beds256", "mine.ckpt") == "celeba256"


def test_a_yaml_that_contradicts_every_card_is_believed():
    yaml = released(parameterization="v", linear_start=0.001, linear_end=0.02, image_size=32, scale_factor=0.5)
    card = choose_card(found(find_card("sd1")), opened("/there/mine.ckpt", yaml))
    assert card.prior.prediction is Prediction.v
    assert (card.prior.schedule.beta_start, card.prior.schedule.beta_end) == (0.001, 0.02)
    assert (card.image_size, card.scale_factor) == ((256, 256), 0.5)
    assert card.prior.network == find_card("sd1").prior.network


def test_an_unknown_parameterization_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    parameterization: x9\n")
    with pytest.raises(InputError, match="parameterization 'x9'; expected eps or v"):
        chosen("sd1", yaml=read_yaml(path))


def test_a_relative_is_named():
    base = found(find_card("sd1"))
    with pytest.raises(InputError, match="the nearest is sd1, with other input channels; give its card"):
        choose_card(replace(base, cards=(), relative=find_card("sd1")), opened("a.ckpt"))


def test_names_that_say_nothing_give_way_to_the_folder_s(tmp_path):
    folder = tmp_path / "ffhq256"
    folder.mkdir()
    assert name_of(folder / "model.ckpt") == "ffhq256"
    assert name_of(folder / "sd-v1-4.ckpt") == "sd-v1-4"
    assert name_of(folder) == "ffhq256"


def in_folder(card: Card, **scheduler: Any) -> Checkpoint:
    parts = {Part.denoiser: {"sample_size": 96}, Part.first_stage: {"scaling_factor": 0.18215}, Part.scheduler: scheduler}
    components = {p.name: Component(p.name, p, "", Path("/there"), config, None) for p, config in parts.items()}
    return Checkpoint(Path("/there/mine"), Format.folder, TensorIndex({}), components=components)


def test_a_folder_s_own_configs_say_it():
    v = find_card("sd2-v")
    assert (
        choose_card(found(v), in_folder(v, prediction_type="v_prediction", beta_start=0.00085, beta_end=0.012)).name == "sd2-v"
    )
    zero = choose_card(found(v), in_folder(v, prediction_type="v_prediction", rescale_betas_zero_snr=True))
    assert zero.prior.schedule.zero_terminal_snr
    assert (zero.prior.prediction, zero.image_size) == (Prediction.v, (768, 768))
    for wrong in (
        {"beta_schedule": "linear"},
        {"prediction_type": "sample"},
        {"num_train_timesteps": 400},
        {"trained_betas": [0.1, 0.2]},
    ):
        with pytest.raises(InputError, match=r"expected (scaled_linear and epsilon or v_prediction|1000 betas)"):
            choose_card(found(v), in_folder(v, **wrong))
