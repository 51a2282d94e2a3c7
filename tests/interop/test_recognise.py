"""What a file is, from names and shapes alone: every published model, its parts, its relatives, and damaged ones."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch

from sfumato.build import build_first_stage
from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.interop import compvis
from sfumato.interop.cards import CARDS, FIRST_STAGES, Card, FirstStageCard, find_card
from sfumato.interop.recognise import Index, Kind, recognise
from sfumato.interop.shapes import normal
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNet, UNetConfig

SAME_SHAPES = [
    {"celeba256", "ffhq256", "lsun_beds256"}, {"semantic_synthesis256", "semantic_synthesis512"}, {"sd2-base", "sd2-v"},
]  # fmt: skip
SCHEDULE_TABLES = ("betas", "alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_mean_coef1", "scale_factor")


def unet_index(config: UNetConfig, prefix: str = compvis.UNET) -> dict[str, Any]:
    with torch.device("meta"):
        theirs = compvis.unet_keys(config).to_theirs(dict(UNet(config).named_parameters()))
    return {prefix + name: (tuple(value.shape), torch.float32) for name, value in theirs.items()}


def stage_index(config: KLConfig | VQConfig, prefix: str = compvis.FIRST_STAGE) -> dict[str, Any]:
    with torch.device("meta"):
        theirs = compvis.first_stage_keys(config).to_theirs(dict(build_first_stage(config).named_parameters()))
    return {prefix + name: (tuple(value.shape), torch.float16) for name, value in theirs.items()}


def averages(index: Index) -> dict[str, Any]:
    found = {compvis.ema_name(name): value for name, value in index.items()}
    return found | dict.fromkeys(compvis.EMA_COUNTERS, ((), torch.int32))


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_published_checkpoint(card: Card):
    unet = unet_index(card.unet)
    tables = dict.fromkeys(SCHEDULE_TABLES, ((1000,), torch.float32)) | {"cond_stage_model.x": ((2,), torch.float32)}
    found = recognise(unet | averages(unet) | stage_index(card.first_stage) | tables)
    names = {one.name for one in found.cards}
    assert names == next((group for group in SAME_SHAPES if card.name in group), {card.name})
    assert found.kind is Kind.checkpoint
    assert found.unet is not None
    assert normal(found.unet) == normal(card.unet)  # heads too
    assert found.first_stage == card.first_stage
    assert found.has_ema
    assert found.rest == ("cond_stage_model.x",)
    assert set(found.keys().pairs.values()) == set(unet) | set(stage_index(card.first_stage))
    assert set(found.keys(ema=True).pairs.values()) == set(averages(unet)) - set(compvis.EMA_COUNTERS) | set(
        stage_index(card.first_stage)
    )


@pytest.mark.parametrize("prefix", ["", compvis.FIRST_STAGE])
@pytest.mark.parametrize("card", FIRST_STAGES, ids=lambda card: card.name)
def test_every_first_stage_alone(card: FirstStageCard, prefix: str):
    extras = {f"{prefix}loss.logvar": ((), torch.float32), "loss.discriminator.main.0.weight": ((64, 3, 4, 4), torch.float32)}
    found = recognise(stage_index(card.config, prefix) | extras)
    assert found.kind is Kind.first_stage
    assert found.first_stage == card.config
    assert [one.name for one in found.first_stage_cards] == [card.name]
    assert (found.unet, found.cards, found.has_ema, found.rest) == (None, (), False, ())
    assert found.keys().pairs["first_stage.quant_conv.bias"] == f"{prefix}quant_conv.bias"


@pytest.mark.parametrize("prefix", ["", compvis.UNET])
def test_a_unet_alone(prefix: str):
    found = recognise(unet_index(find_card("sdxl-base").unet, prefix))
    assert found.kind is Kind.unet
    assert [card.name for card in found.cards] == ["sdxl-base"]
    assert found.keys().pairs["prior.denoiser.network.out_norm.bias"] == f"{prefix}out.0.bias"
    with pytest.raises(InputError, match="no averaged"):
        found.keys(ema=True)


def test_a_relative_lends_its_heads():
    card = find_card("sd2-base")
    found = recognise(unet_index(dataclasses.replace(card.unet, concat_channels=7)))
    assert found.cards == ()
    assert found.relative is not None
    assert found.relative.name == "sd2-base"
    assert found.unet is not None
    assert (found.unet.concat_channels, found.unet.head_channels, found.unet.num_heads) == (7, 64, None)


def small(**fields: Any) -> UNetConfig:
    common: dict[str, Any] = {"channels": 64, "multipliers": (1, 2, 3), "head_channels": None, "num_heads": 8}
    return UNetConfig(**{"in_channels": 4, "out_channels": 4, "attention_factors": (1, 2, 4)} | common | fields)


@pytest.mark.parametrize(
    "config",
    [
        small(context_dim=12),
        small(context_dim=12, num_res_blocks=1, transformer_depth=3),
        small(context_dim=12, multipliers=(1,), attention_factors=(), num_res_blocks=3),
        small(context_dim=12, num_res_blocks=3, transformer_depth=(0, 2, 4), attention_factors=(2,)),
        small(context_dim=12, linear_projection=True, head_channels=64, num_heads=None),
        small(context_dim=12, disable_self_attentions=(True, False, True), concat_channels=2, num_classes=6),
        small(head_channels=32, num_heads=None, vector_dim=9, scale_shift=True),
        small(head_channels=32, num_heads=None, resblock_updown=True, attention_factors=(2,)),
        small(head_channels=32, num_heads=None, resblock_updown=True, attention_factors=(), num_res_blocks=1),
    ],
)
def test_models_of_their_own_are_derived(config: UNetConfig):
    found = recognise(unet_index(config))
    assert found.unet == normal(config)  # with the heads that are usual for the kind
    assert found.cards == ()
    assert found.relative is None


@pytest.mark.parametrize(
    "config",
    [
        KLConfig(AutoencoderConfig(channels=32, multipliers=(1, 2, 3), num_res_blocks=1, image_channels=4), embed_channels=6),
        VQConfig(  # a VQGAN of taming-transformers has this form
            AutoencoderConfig(
                channels=32,
                multipliers=(1, 1, 2),
                attention_resolution_factors=(4,),
                latent_channels=16,
                double_moments=False,
            ),
            codebook_size=77,
            embed_channels=5,
        ),
    ],
)
def test_first_stages_of_their_own_are_derived(config: KLConfig | VQConfig):
    found = recognise(stage_index(config, ""))
    assert found.first_stage == config
    assert found.first_stage_cards == ()


def damaged(change: str) -> dict[str, Any]:
    index = unet_index(small(context_dim=12)) | stage_index(KLConfig(AutoencoderConfig(channels=32, multipliers=(1, 2))))
    weight = f"{compvis.UNET}middle_block.0.in_layers.2.weight"
    match change:
        case "missing":
            del index[weight]
        case "unexpected":
            index[f"{compvis.UNET}control.weight"] = ((3,), torch.float32)
        case "shape":
            index[weight] = ((192, 191, 3, 3), torch.float32)
        case "type":
            index[weight] = (index[weight][0], torch.int8)
        case "averages":
            ema = averages({k: v for k, v in index.items() if k.startswith(compvis.UNET)})
            del ema["model_ema.diffusion_modelout2bias"]
            index |= ema
        case "no first convolution":
            index = {k: v for k, v in index.items() if "conv_in" not in k and "input_blocks.0" not in k}
        case "half a first stage":
            index = {k: v for k, v in index.items() if ".decoder." not in k}
        case "nothing wide":
            index[f"{compvis.UNET}input_blocks.0.0.weight"] = ((0, 4, 3, 3), torch.float32)
        case "enormous":
            index["first_stage_model.encoder.conv_in.weight"] = ((32, 2**40, 3, 3), torch.float32)
        case "flat":
            index[f"{compvis.UNET}input_blocks.0.0.weight"] = ((4, 3), torch.float32)
    return index


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", r"x.ckpt, the U-Net is of no known architecture: middle_block.0.in_layers.2.weight is missing"),
        ("unexpected", "control.weight is unexpected"),
        ("shape", r"middle_block.0.in_layers.2.weight has shape \(192, 191, 3, 3\), expected \(192, 192, 3, 3\)"),
        ("type", "torch.int8"),
        ("averages", r"averaged U-Net.* 1 missing \(model_ema.diffusion_modelout2bias\)"),
        ("no first convolution", "neither a U-Net nor a first stage"),
        ("half a first stage", "decoder"),
        ("nothing wide", "no network has"),
        ("enormous", "no network has"),
        ("flat", "expected 4 dimensions"),
    ],
)
def test_damaged_files_are_refused(change: str, words: str):
    with pytest.raises(InputError, match=words) as error:
        recognise(damaged(change), "x.ckpt")
    assert "\n" not in str(error.value)


def test_an_empty_file_is_refused():
    with pytest.raises(InputError, match="none at all"):
        recognise({})


def test_random_damage_is_refused_or_harmless():
    """Names lost and shapes changed at random: an `InputError`, or a model that has exactly the weights given."""
    config = UNetConfig(4, 4, 32, (1, 2), 1, attention_factors=(2,), context_dim=8, vector_dim=5)
    whole = unet_index(config) | stage_index(
        VQConfig(AutoencoderConfig(channels=32, multipliers=(1,), num_res_blocks=1, double_moments=False), 9)
    )
    names, refused = sorted(whole), 0
    chance = random.Random(0)
    for _ in range(40):
        index = dict(whole)
        for name in chance.sample(names, chance.choice([1, 1, 2, 40])):
            shape, kind = index[name]
            if chance.random() < 0.4:
                del index[name]
            else:
                other = list(shape)
                other[chance.randrange(len(other))] = chance.choice([0, 1, 2, 7, 96, 2**30, -1])
                index[name] = (tuple(other[: chance.choice([0, 1, len(other), len(other)])]), kind)
        try:
            found = recognise(index)
        except InputError:
            refused += 1
        else:
            assert set(found.keys().pairs.values()) <= index.keys()
    assert refused > 36
