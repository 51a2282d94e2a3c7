"""Parameter counts of the published models (arXiv 2112.10752, Tab. 8, 10, 12-15; Stable Diffusion 1), on the meta device."""

import pytest
import torch

from sfumato.networks.conv_autoencoder import AutoencoderConfig, Decoder, Encoder
from sfumato.networks.text_transformer import TextTransformer, TextTransformerConfig
from sfumato.networks.unet import UNet, UNetConfig


def millions(*modules: torch.nn.Module) -> float:
    return round(sum(p.numel() for m in modules for p in m.parameters()) / 1e6, 2)


AUTOENCODERS = {
    "kl-f4": (3, (1, 2, 4), (), True, 22.35, 32.96, 55.31),
    "kl-f8": (4, (1, 2, 4, 4), (), True, 34.16, 49.49, 83.65),
    "kl-f16": (16, (1, 1, 2, 2, 4), (16,), True, 28.27, 41.34, 69.61),
    "kl-f32": (64, (1, 1, 2, 2, 4, 4), (16, 32), True, 42.61, 61.24, 103.88),
    "vq-f4": (3, (1, 2, 4), (), True, 22.34, 32.96, 55.32),
    "vq-f4-noattn": (3, (1, 2, 4), (), False, 21.29, 31.91, 53.22),
    "vq-f8": (4, (1, 2, 2, 4), (8,), True, 27.40, 40.25, 67.72),
}
CODEBOOK = {"vq-f4": 8192 * 3, "vq-f4-noattn": 8192 * 3, "vq-f8": 16384 * 4}


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder(name):
    z, multipliers, attention, mid, encoder_m, decoder_m, total_m = AUTOENCODERS[name]
    double = name.startswith("kl")
    config = AutoencoderConfig(
        multipliers=multipliers,
        latent_channels=z,
        attention_resolution_factors=attention,
        mid_attention=mid,
        double_moments=double,
    )
    with torch.device("meta"):
        encoder, decoder = Encoder(config), Decoder(config)
        moments = 2 * z if double else z
        quant, post_quant = torch.nn.Conv2d(moments, moments, 1), torch.nn.Conv2d(z, z, 1)
        book = torch.nn.Embedding(CODEBOOK.get(name, 0) // z, z)
    assert encoder.out_channels == moments
    assert millions(encoder) == pytest.approx(encoder_m, abs=0.0101)
    assert millions(decoder) == pytest.approx(decoder_m, abs=0.0101)
    assert millions(encoder, decoder, quant, post_quant, book) == total_m


HEADS8 = {"head_channels": None, "num_heads": 8}
UNETS = {
    "ffhq256": (UNetConfig(3, 3, 224, (1, 2, 3, 4), attention_factors=(8, 4, 2)), 274.06),
    "lsun_churches256": (
        UNetConfig(
            4, 4, 192, (1, 2, 2, 4, 4), attention_factors=(1, 2, 4, 8), scale_shift=True, resblock_updown=True, **HEADS8
        ),
        294.97,
    ),
    "lsun_churches256 of Tab. 18": (UNetConfig(4, 4, 192, (1, 2, 2, 4, 4), attention_factors=(1, 2, 4, 8), **HEADS8), 256.40),
    "cin256": (UNetConfig(4, 4, 256, (1, 2, 4), attention_factors=(4, 2, 1), context_dim=512), 394.98),
    "cin256-v2": (
        UNetConfig(3, 3, 192, (1, 2, 3, 5), attention_factors=(8, 4, 2), context_dim=512, head_channels=None, num_heads=1),
        400.92,
    ),
    "txt2img-1p4B": (UNetConfig(4, 4, 320, (1, 2, 4, 4), attention_factors=(4, 2, 1), context_dim=1280, **HEADS8), 872.30),
    "text2img256": (UNetConfig(3, 3, 192, (1, 2, 3, 5), attention_factors=(8, 4, 2), context_dim=640), 403.62),
    "bsr_sr": (UNetConfig(3, 3, 160, (1, 2, 2, 4), attention_factors=(8,), concat_channels=3), 113.62),
    "inpainting_big": (
        UNetConfig(3, 3, 256, (1, 2, 3, 4), attention_factors=(8, 4, 2), concat_channels=4, resblock_updown=True, **HEADS8),
        387.25,
    ),
    "layout2img": (
        UNetConfig(3, 3, 128, (1, 2, 3, 4), attention_factors=(8, 4, 2), context_dim=512, transformer_depth=3),
        246.28,
    ),
    "rdm-768": (UNetConfig(16, 16, 448, (1, 2, 3, 4), attention_factors=(4, 2, 1), context_dim=768), 1335.48),
    "stable-diffusion-1": (UNetConfig(4, 4, 320, (1, 2, 4, 4), attention_factors=(4, 2, 1), context_dim=768, **HEADS8), 859.52),
    "stable-diffusion-2": (
        UNetConfig(
            4, 4, 320, (1, 2, 4, 4), attention_factors=(4, 2, 1), context_dim=1024, head_channels=64, linear_projection=True
        ),
        865.91,
    ),
    "stable-unclip-h": (
        UNetConfig(
            4,
            4,
            320,
            (1, 2, 4, 4),
            attention_factors=(4, 2, 1),
            context_dim=1024,
            vector_dim=2048,
            head_channels=64,
            linear_projection=True,
        ),
        870.17,
    ),
}


@pytest.mark.parametrize("name", UNETS)
def test_unet(name):
    config, wanted = UNETS[name]
    with torch.device("meta"):
        assert millions(UNet(config)) == wanted


@pytest.mark.parametrize(
    ("dim", "depth", "vocabulary", "length", "wanted"),
    [(1280, 32, 30522, 77, 581.99), (640, 32, 30522, 77, 186.15), (512, 16, 8192, 92, 58.86)],
)
def test_text_transformer(dim, depth, vocabulary, length, wanted):
    with torch.device("meta"):
        network = TextTransformer(TextTransformerConfig(vocabulary, dim, depth, length=length))
        unused = torch.nn.Linear(dim, vocabulary)  # the published class carries a map to logits that nothing reads
    assert millions(network, unused) == wanted
