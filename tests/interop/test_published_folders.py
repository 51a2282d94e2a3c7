"""Settings as the published folders have them, with the words of the release that wrote them, name the card of the model."""

from __future__ import annotations

from typing import Any

import pytest

from sfumato.interop import diffusers_config
from sfumato.interop.cards import find_card
from sfumato.interop.recognise import cards_of
from sfumato.interop.shapes import normal

_OLD = {
    "act_fn": "silu", "center_input_sample": False, "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0,
    "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32,
}  # fmt: skip
_CROSS = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
_SD2: dict[str, Any] = _OLD | {
    "_class_name": "UNet2DConditionModel", "attention_head_dim": [5, 10, 20, 20], "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1024, "down_block_types": _CROSS[0], "up_block_types": _CROSS[1], "dual_cross_attention": False,
    "in_channels": 4, "out_channels": 4, "num_class_embeds": None, "only_cross_attention": False, "sample_size": 64,
    "use_linear_projection": True, "upcast_attention": True,
}  # fmt: skip
_VAE = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512], "in_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "latent_channels": 4,
    "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3, "sample_size": 512,
}  # fmt: skip
_VQ = {
    "_class_name": "VQModel", "act_fn": "silu", "block_out_channels": [128, 256, 512], "in_channels": 3, "latent_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3, "layers_per_block": 2,
    "num_vq_embeddings": 8192, "out_channels": 3, "sample_size": 256,
}  # fmt: skip
_PLAIN: dict[str, Any] = _OLD | {
    "_class_name": "UNet2DModel", "attention_head_dim": 32, "in_channels": 3, "out_channels": 3, "sample_size": 64,
    "time_embedding_type": "positional",
}  # fmt: skip
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sd2-depth": (_SD2 | {"in_channels": 5}, _VAE),
    "sd2-inpainting": (_SD2 | {"in_channels": 9}, _VAE),
    "sd2-unclip-h": (
        _SD2 | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048, "sample_size": 96}, _VAE
    ),
    "sd2-unclip-l": (
        _SD2 | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 1536, "sample_size": 96}, _VAE
    ),
    "sd2-x4-upscaler": (
        _SD2 | {
            "attention_head_dim": 8, "block_out_channels": [256, 512, 512, 1024], "in_channels": 7, "num_class_embeds": 1000,
            "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3, "sample_size": 128,
            "up_block_types": ["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"], "only_cross_attention": [True, True, True, False],
        },
        _VAE | {
            "block_out_channels": [128, 256, 512], "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3, "sample_size": 256, "scaling_factor": 0.08333,
        },
    ),
    "sdxl-refiner": (
        _SD2 | {
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "attention_head_dim": [6, 12, 24, 24],
            "block_out_channels": [384, 768, 1536, 1536], "cross_attention_dim": 1280, "sample_size": 128,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "projection_class_embeddings_input_dim": 2560, "transformer_layers_per_block": 4, "num_attention_heads": None,
        },
        _VAE | {"scaling_factor": 0.13025, "force_upcast": True},
    ),
    "celeba256": (
        _PLAIN | {
            "block_out_channels": [224, 448, 672, 896], "down_block_types": ["DownBlock2D"] + ["AttnDownBlock2D"] * 3,
            "up_block_types": ["AttnUpBlock2D"] * 3 + ["UpBlock2D"],
        },
        _VQ,
    ),
    "bsr_sr": (
        _PLAIN | {
            "block_out_channels": [160, 320, 320, 640], "down_block_types": ["DownBlock2D"] * 3 + ["AttnDownBlock2D"],
            "in_channels": 6, "up_block_types": ["AttnUpBlock2D"] + ["UpBlock2D"] * 3,
        },
        _VQ,
    ),
    "text2img-large": (
        _OLD | {
            "_class_name": "UNet2DConditionModel", "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": 1280, "down_block_types": _CROSS[0], "up_block_types": _CROSS[1], "in_channels": 4,
            "out_channels": 4, "sample_size": 32,
        },
        _VAE | {"sample_size": 256},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_name_the_card(name):
    unet, stage = PUBLISHED[name]
    found = diffusers_config.unet_config(unet)
    cards, _ = cards_of(found, diffusers_config.first_stage_config(stage))
    assert cards[0].name == name
    card = find_card(name).unet
    levels = [level for level in range(len(card.multipliers)) if 2**level in card.attention_factors or level == 3]
    widths = [card.channels * card.multipliers[level] for level in levels]
    assert [found.heads(width) for width in widths] == [card.heads(width) for width in widths]
    assert normal(found).concat_channels == card.concat_channels
