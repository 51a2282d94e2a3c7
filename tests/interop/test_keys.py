"""Key maps are strict, move no bits, and refuse what the other side cannot express."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from sfumato.build import build_first_stage
from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig
from sfumato.interop import compvis, diffusers
from sfumato.interop.cards import find_card
from sfumato.interop.diffusers_config import first_stage_config, first_stage_settings, unet_config, unet_settings
from sfumato.interop.keys import Joint, KeyMap
from sfumato.interop.shapes import normal
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNet, UNetConfig

UNET = UNetConfig(4, 4, 32, (1, 2), 1, attention_factors=(2,), context_dim=8, head_channels=16)
KL = KLConfig(AutoencoderConfig(channels=32, multipliers=(1, 2), num_res_blocks=1, attention_resolution_factors=(2,)))


def test_what_is_missing_and_what_is_too_much_is_said():
    keys = KeyMap({f"a{i}": f"b{i}" for i in range(30)})
    given = {f"b{i}": torch.zeros(1) for i in range(18)} | {"c": torch.zeros(1)}
    with pytest.raises(InputError) as error:
        keys.to_ours(given, "x.ckpt")
    text = str(error.value)
    assert text.startswith("x.ckpt does not hold this model's weights: 12 missing (b18, b19, ")
    assert text.count("b") >= 10
    assert "b28" not in text  # the first ten only
    assert "1 unexpected (c)" in text
    assert "\n" not in text


def test_two_names_that_meet_are_refused():
    with pytest.raises(InputError, match="would both be called"):
        KeyMap({"a": "x", "b": "x"})


@pytest.mark.parametrize("side", ["compvis", "diffusers"])
def test_weights_come_back_bit_by_bit(side):
    library = {"compvis": compvis, "diffusers": diffusers}[side]
    torch.manual_seed(0)
    for keys, module in (
        (library.unet_keys(UNET), UNet(UNET)),
        (library.first_stage_keys(KL), build_first_stage(KL)),
    ):
        ours = dict(module.named_parameters())
        theirs = keys.to_theirs(ours)
        back = keys.to_ours(theirs)
        assert back.keys() == ours.keys()
        assert all(torch.equal(back[k], ours[k]) and back[k].shape == ours[k].shape for k in ours)
        assert all(theirs[b].data_ptr() == ours[a].data_ptr() for a, b in keys.pairs.items())  # no copies


@pytest.mark.parametrize("qkv_first", [False, True])
@pytest.mark.parametrize("end", [(), (1,)])
def test_joint_maps_come_apart_by_head(qkv_first, end):
    """Rows are numbered by (which of q, k, v; head; d), so that the order can be read off."""
    heads, width = 3, 2
    number = {(x, h, d): 100 * x + 10 * h + d for x in range(3) for h in range(heads) for d in range(width)}
    order = (lambda key: key) if qkv_first else (lambda key: (key[1], key[0], key[2]))
    rows = torch.tensor([float(number[key]) for key in sorted(number, key=order)])
    ours = rows[:, None, None].expand(-1, 6, 1) if end else rows
    joint = Joint(("q", "k", "v"), heads, qkv_first)
    parts = joint.split(ours)
    for x, part in enumerate(parts):
        assert part.shape == ((6, 6) if end else (6,))
        assert (part[:, 0] if end else part).tolist() == [number[x, h, d] for h in range(heads) for d in range(width)]
    assert torch.equal(joint.join(parts), ours)


def test_prefixes_and_joint_maps():
    one = KeyMap({"a": "b"}, {"a": 2}, {"qkv": Joint(("q", "k", "v"), 1)}).prefixed("x.", "y.")
    assert one.ours() == ["x.a", "x.qkv"]
    assert one.theirs() == ["y.b", "y.q", "y.k", "y.v"]
    assert set((one | KeyMap({"c": "d"})).theirs()) == {"y.b", "y.q", "y.k", "y.v", "d"}
    with pytest.raises(InputError, match=r"would both be called y\.q"):
        one | KeyMap({"c": "y.q"})


def test_names_of_earlier_folders_are_read():
    keys = diffusers.first_stage_keys(KL)
    now = {name: torch.zeros(1) for name in keys.pairs.values()}
    was = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out": "proj_attn"}
    earlier = {}
    for name, value in now.items():
        for new, old in was.items():
            name = name.replace(f"attentions.0.{new}.0." if new == "to_out" else f"attentions.0.{new}.", f"attentions.0.{old}.")  # noqa: PLW2901
        earlier[name] = value
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in earlier
    assert diffusers.today(earlier).keys() == now.keys()
    assert diffusers.today(now).keys() == now.keys()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"qk_norm": True}, "norm_"),
        ({"channels": 48}, "32 groups"),
    ],
)
def test_compvis_refuses(fields: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        compvis.unet_keys(dataclasses.replace(UNET, **fields))


def test_compvis_refuses_other_norms():
    narrow = dataclasses.replace(KL, network=dataclasses.replace(KL.network, norm_groups=8))
    with pytest.raises(InputError, match="8 groups"):
        compvis.first_stage_keys(narrow)


def test_diffusers_has_norms_of_any_groups_if_all_have_as_many():
    network = dataclasses.replace(KL.network, channels=48, multipliers=(1, 2), norm_groups=16)
    same = dataclasses.replace(KL, network=network)
    assert diffusers.norm_groups(network) == 16
    diffusers.first_stage_keys(same)
    odd = dataclasses.replace(KL, network=dataclasses.replace(network, channels=16, norm_groups=32))
    with pytest.raises(InputError, match="norms of 16 and of 32 groups"):
        diffusers.first_stage_keys(odd)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"context_dim": None, "vector_dim": 8}, "without a context"),
        ({"context_dim": None, "head_channels": None, "num_heads": 4, "attention_factors": (1, 2)}, "other widths"),
        ({"scale_shift": True}, "scale_shift"),
        ({"resblock_updown": True}, "resblock_updown"),
        ({"qk_norm": True}, "qk_norm"),
        ({"channels": 48}, "32 groups"),
        ({"multipliers": (2, 4)}, "always 1"),
    ],
)
def test_diffusers_refuses(fields: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        diffusers.unet_keys(dataclasses.replace(UNET, **fields))


def test_diffusers_refuses_a_latent_of_other_channels():
    with pytest.raises(InputError, match="latent of 3"):
        diffusers.first_stage_keys(dataclasses.replace(KL, embed_channels=3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "UNet3DConditionModel"}, "UNet3DConditionModel"),
        ({"_class_name": "UNet2DModel"}, "CrossAttnDownBlock2D"),
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos False"),
        ({"encoder_hid_dim": 4}, "encoder_hid_dim 4"),
        ({"class_embed_type": "timestep"}, "projection or text_time"),
        ({"addition_embed_type": "image"}, "projection or text_time"),
        ({"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}, "AttnDownBlock2D"),
        ({"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}, "mirror image"),
        ({"block_out_channels": [32, 48]}, "multiples of the first"),
        ({"block_out_channels": "wide"}, "whole numbers"),
        ({"layers_per_block": [1, 2]}, "one whole number"),
        ({"transformer_layers_per_block": [1, 1, 1]}, "3 entries"),
        (
            {
                "down_block_types": ["CrossAttnDownBlock2D"] * 2, "up_block_types": ["CrossAttnUpBlock2D"] * 2,
                "attention_head_dim": [1, 4],
            },
            "one width of a head",
        ),
    ],
)  # fmt: skip
def test_a_unets_config_json_is_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        unet_config(unet_settings(UNET) | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm_num_groups": [8, 16]}, "norm_num_groups is"),
        ({"use_quant_conv": False}, "use_quant_conv False"),
        ({"down_block_types": ["DownEncoderBlock2D", "Foreign"]}, "Foreign"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 2}, "mirror image"),
    ],
)
def test_a_first_stages_config_json_is_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        first_stage_config(first_stage_settings(KL) | changes)


def test_published_config_json_files_are_read():
    """Settings as they stand in the folders of Stable Diffusion 1.5, 2.1 and SDXL: facts from their model pages."""
    sd1 = unet_config(
        {
            "in_channels": 4, "out_channels": 4, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
            "attention_head_dim": 8, "cross_attention_dim": 768, "center_input_sample": False, "act_fn": "silu",
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "norm_eps": 1e-05, "norm_num_groups": 32,
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "mid_block_scale_factor": 1, "sample_size": 64,
        }
    )  # fmt: skip
    faces = unet_config(
        {
            "_class_name": "UNet2DModel", "attention_head_dim": 32, "block_out_channels": [224, 448, 672, 896],
            "down_block_types": ["DownBlock2D"] + ["AttnDownBlock2D"] * 3, "in_channels": 3, "layers_per_block": 2,
            "up_block_types": ["AttnUpBlock2D"] * 3 + ["UpBlock2D"], "norm_num_groups": 32, "sample_size": 64,
        }
    )  # fmt: skip
    assert normal(faces) == normal(find_card("celeba256").unet)
    assert (sd1.num_heads, sd1.head_channels, sd1.context_dim, sd1.attention_factors) == (8, None, 768, (1, 2, 4))
    sd2 = unet_config(
        {
            "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True,
            "dual_cross_attention": False, "num_class_embeds": None, "only_cross_attention": False, "upcast_attention": True,
        }
    )  # fmt: skip
    assert (sd2.num_heads, sd2.head_channels, sd2.linear_projection) == (None, 64, True)
    sdxl = unet_config(
        {
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "attention_head_dim": [5, 10, 20],
            "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048, "use_linear_projection": True,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "projection_class_embeddings_input_dim": 2816, "transformer_layers_per_block": [1, 2, 10],
        }
    )  # fmt: skip
    assert sdxl.transformer_depth == (1, 2, 10)
    assert normal(sdxl) == normal(find_card("sdxl-base").unet)
    assert normal(sd1) == normal(find_card("sd1").unet)
    assert normal(sd2) == normal(find_card("sd2-base").unet)
