"""What a two-level VQ first stage promises beside the contract: algorithm 1 by hand, both faces, the bottom told of the top."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato import config as configs
from sfumato.build import FirstStageConfig, ModelConfig, build_first_stage
from sfumato.conditioners.none import NoneConfig
from sfumato.errors import InputError
from sfumato.first_stages.vq2 import VQ2Config, VQ2FirstStage
from sfumato.io.pretrained import load_pretrained, save_pretrained
from sfumato.io.storage import Storage
from sfumato.latent import Codes, Grid
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.raster import pack, unpack
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.training.fit import latent_channels, latent_factor
from sfumato.training.prepare import with_channels
from tiny_models import random_model
from tiny_runs import awaken

NETWORK = AutoencoderConfig(
    channels=8, multipliers=(1, 1), num_res_blocks=1, mid_attention=False, latent_channels=6, double_moments=False
)
CONFIG = VQ2Config(NETWORK, codebook_size=40, embed_channels=3)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(config: VQ2Config = CONFIG) -> VQ2FirstStage:
    torch.manual_seed(0)
    stage = awaken(build_first_stage(config))
    assert isinstance(stage, VQ2FirstStage)
    with torch.no_grad():
        for seed, book in enumerate((stage.quantize, stage.top_quantize)):
            book.embedding.weight.copy_(torch.randn(book.embedding.weight.shape, generator=rng(seed)))
    return stage.eval()


def pixels(height: int = 8, width: int = 12, seed: int = 2) -> Tensor:
    return torch.rand(2, 3, height, width, generator=rng(seed)) * 2 - 1


def nearest(z: Tensor, book: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h, w), by all distances in float64."""
    return (z.double().permute(0, 2, 3, 1)[..., None, :] - book.double()).square().sum(-1).argmin(-1)


def looked_up(codes: Tensor, book: Tensor) -> Tensor:
    return book[codes].permute(0, 3, 1, 2)


def test_packing_keeps_every_code_at_its_place() -> None:
    top, bottom = torch.arange(6).view(1, 2, 3), 100 + torch.arange(24).view(1, 4, 6)
    packed = pack([top, bottom])
    assert packed.shape == (1, 5, 2, 3)
    assert packed[0, :, 1, 2].tolist() == [5, 116, 117, 122, 123]
    assert [torch.equal(a, b) for a, b in zip(unpack(packed, (1, 2)), (top, bottom), strict=True)] == [True, True]
    three = [top, bottom, torch.arange(6 * 16).view(1, 8, 12)]
    assert all(torch.equal(a, b) for a, b in zip(unpack(pack(three), (1, 2, 4)), three, strict=True))


def test_the_shape_of_packed_codes() -> None:
    assert Codes((8, 4), 512).shape(32, 64) == (5, 4, 8)
    assert Codes((16, 4), 512).shape(32, 64) == (17, 2, 4)
    assert Codes((1,), 256, channels=3).shape(32, 32) == (3, 32, 32)
    with pytest.raises(InputError, match="the coarsest first"):
        Codes((4, 8), 512).shape(32, 32)


@torch.no_grad()
@pytest.mark.parametrize("ratio", [2, 4])
def test_it_is_algorithm_1(ratio: int) -> None:
    stage = made(VQ2Config(NETWORK, codebook_size=40, embed_channels=3, top_factor=ratio))
    x = pixels(16, 24)
    top_book, book = stage.top_quantize.embedding.weight, stage.quantize.embedding.weight
    h = stage.encoder(x)
    z_t = stage.top_quant_conv(stage.top_encoder(h))
    assert z_t.shape == (2, 3, 8 // ratio, 12 // ratio)
    t = nearest(z_t, top_book)
    e_t = looked_up(t, top_book)
    z_b = stage.quant_conv(torch.cat([h, stage.top_decoder(stage.top_post_quant_conv(e_t))], 1))
    b = nearest(z_b, book)
    wide = e_t.repeat_interleave(ratio, 2).repeat_interleave(ratio, 3)
    x_hat = stage.decoder(stage.post_quant_conv(torch.cat([wide, looked_up(b, book)], 1)))
    assert len(t.unique()) > 2
    assert len(b.unique()) > 2
    z = stage.posterior(x)
    assert z.log_variance is None
    torch.testing.assert_close(z.mean[:, 3:], z_b)
    torch.testing.assert_close(z.mean[:, :3], z_t.repeat_interleave(ratio, 2).repeat_interleave(ratio, 3))
    torch.testing.assert_close(stage.decode(z.mode()), x_hat, atol=1e-4, rtol=1e-4)
    codes = stage.codes().encode(x)
    assert codes.shape[1:] == stage.codes().latent.shape(16, 24)
    assert codes.dtype == torch.int64
    assert all(torch.equal(found, wanted) for found, wanted in zip(unpack(codes, (1, ratio)), (t, b), strict=True))
    torch.testing.assert_close(stage.codes().decode(codes), x_hat, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_two_faces_whatever_the_unit_scale() -> None:
    stage, x = made(), pixels()
    assert stage.latent == Grid(6, 2)
    assert stage.codes().latent == Codes((4, 2), 40)
    codes = stage.codes()
    found, x_hat = codes.encode(x), stage.decode(stage.posterior(x).mode())
    shift, scale = torch.tensor([0.5, -1.0, 2.0, 0.1, 0.2, 0.3]), torch.tensor([0.3, 2.0, 1.1, 1.5, 0.7, 0.9])
    stage.set_statistics(shift, scale, stage.preview)
    assert torch.equal(codes.encode(x), found)
    torch.testing.assert_close(stage.decode(stage.posterior(x).mode()), x_hat, atol=1e-4, rtol=1e-4)
    assert stage.last_layer is stage.decoder.conv_out.weight
    with pytest.raises(InputError, match="expected whole numbers from 0 to 39"):
        codes.decode(found + 40)


def test_gradients_pass_both_quantizers_straight_through() -> None:
    """Of the reconstruction alone, at everything but the codebooks; with the codebook losses at these too."""
    stage = made().train()
    levels = stage.levels(stage.posterior(pixels()).mode())
    stage.decode_levels(levels).square().sum().backward(retain_graph=True)
    asleep = {name for name, p in stage.named_parameters() if p.grad is None or not p.grad.any()}
    assert asleep == {"quantize.embedding.weight", "top_quantize.embedding.weight"}
    sum(level.found.loss(0.25).sum() for level in levels.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in stage.parameters())


def test_the_losses_are_those_of_each_level() -> None:
    """||z - e||^2 of a level summed over its own grid: the top's is not counted for each place of the bottom."""
    stage = made()
    levels = stage.levels(stage.posterior(pixels()).mode())
    for level, size in ((levels["top"], (2, 3)), (levels["bottom"], (4, 6))):
        assert level.z.shape[2:] == size
        torch.testing.assert_close(level.found.commitment, (level.z - level.found.z_q).square().flatten(1).sum(1))


def test_state_names() -> None:
    own = {n for n in made().state_dict() if not n.startswith(("encoder.", "decoder.", "top_encoder.", "top_decoder."))}
    parts = [f"{top}{part}" for top in ("", "top_") for part in ("quant_conv", "post_quant_conv")]
    convolutions = {f"{part}.{end}" for part in parts for end in ("weight", "bias")}
    assert own == convolutions | {f"{top}quantize.embedding.weight" for top in ("", "top_")} | {"shift", "scale", "preview"}


def test_config_survives_json_and_refuses() -> None:
    data = configs.to_dict(CONFIG)
    assert data["kind"] == "vq2"
    assert configs.from_dict(FirstStageConfig, data) == CONFIG  # type: ignore[arg-type]
    assert VQ2Config().top_network().factor == 2
    for changes, words in (
        ({"codebook_size": 0}, "codebook_size is 0"), ({"embed_channels": -1}, "embed_channels is -1"),
        ({"top_factor": 3}, "top_factor is 3"), ({"top_factor": 1}, "top_factor is 1"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            VQ2Config(NETWORK, **changes)
    with pytest.raises(InputError, match="double_moments"):
        VQ2Config(AutoencoderConfig())


def test_what_the_run_asks_of_a_first_stage() -> None:
    assert (latent_channels(CONFIG), latent_factor(CONFIG)) == (6, 2)
    fitting = with_channels(CONFIG, 1)
    assert isinstance(fitting, VQ2Config)
    assert fitting.network.image_channels == 1
    with pytest.raises(InputError, match="height 6 is not a positive multiple of 4"):
        made().posterior(pixels(6, 8))


def test_the_published_architecture_has_its_size() -> None:
    """512 codes of 64 channels at factors 4 and 8 (Razavi et al. 2019, Tab. 4): 32 x 32 and 64 x 64 codes at 256 px."""
    with torch.device("meta"):
        stage = VQ2FirstStage(VQ2Config())
    assert stage.codes_latent == Codes((8, 4), 512)
    assert stage.codes_latent.shapes(256, 256) == ((1, 32, 32), (1, 64, 64))
    assert stage.quantize.embedding.weight.shape == (512, 64)


def test_a_model_over_its_grid_comes_back_from_its_folder(tmp_path: Path) -> None:
    config = ModelConfig(
        CONFIG,
        DiffusionConfig(UNetConfig(6, 6, 32, (1,), 1, attention_factors=(), head_channels=8)),
        NoneConfig(),
        (8, 12),
    )
    model = random_model(config)
    save_pretrained(tmp_path / "m", model, config, storage=Storage.fp32)
    loaded = load_pretrained(tmp_path / "m")
    assert loaded.config == config
    stage = loaded.model.first_stage
    assert isinstance(stage, VQ2FirstStage)
    own = model.first_stage
    assert isinstance(own, VQ2FirstStage)
    z = torch.randn(1, 6, 4, 6, generator=rng(3))
    assert torch.equal(stage.decode(z), own.decode(z))


@torch.no_grad()
def test_halves_for_the_half_size_loss() -> None:
    """Averages of 2 x 2 latents are latents of a picture of half the size: the top's among them."""
    stage, z = made(), torch.randn(1, 6, 8, 8, generator=rng(5))
    half = stage.decode_levels(stage.levels(F.avg_pool2d(z, 2)))
    assert half.shape == (1, 3, 8, 8)
