"""What a VQ first stage promises beside the contract: the nearest code, latents before quantization, quantizing in `decode`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfumato import config as configs
from sfumato.build import FirstStageConfig, ModelConfig, build_first_stage
from sfumato.conditioners.none import NoneConfig
from sfumato.errors import InputError
from sfumato.first_stages.vq import VQConfig, VQFirstStage
from sfumato.interop.export import published_networks
from sfumato.interop.export_folder import folder_parts
from sfumato.io.pretrained import load_pretrained, save_pretrained
from sfumato.io.storage import Storage
from sfumato.latent import Codes, Grid
from sfumato.model import LatentModel
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNetConfig
from sfumato.nn import quantizers
from sfumato.nn.quantizers import FSQ, Codebook
from sfumato.noise import PictureNoise
from sfumato.priors.diffusion import DiffusionConfig, DiffusionSettings
from sfumato.samplers import SAMPLERS
from sfumato.training.prepare import with_channels
from tiny_models import random_model
from tiny_runs import awaken

NETWORK = AutoencoderConfig(channels=8, multipliers=(1, 1), num_res_blocks=1, latent_channels=4, double_moments=False)
CONFIG = VQConfig(NETWORK, codebook_size=60, embed_channels=3)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make() -> VQFirstStage:
    torch.manual_seed(0)
    stage = awaken(build_first_stage(CONFIG))
    assert isinstance(stage, VQFirstStage)
    with torch.no_grad():
        stage.quantize.embedding.weight.copy_(torch.randn(60, 3, generator=rng(4)))
    return stage.eval()


def brute_force(z: Tensor, codes: Tensor) -> Tensor:
    """(B, C, h, w), (K, C) -> (B, h, w): the distance to every code, in float64."""
    vectors = z.double().permute(0, 2, 3, 1)[..., None, :]  # (B, h, w, 1, C)
    return (vectors - codes.double()).square().sum(-1).argmin(-1)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 7, 4096])
def test_the_nearest_code_is_found(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizers, "ROWS", rows)
    book = Codebook(97, 5)
    book.embedding.weight.copy_(torch.randn(97, 5, generator=rng()))
    z = torch.randn(2, 5, 3, 4, generator=rng(1))
    found = book.indices(z)
    assert torch.equal(found, brute_force(z, book.embedding.weight))
    assert torch.equal(book(z)[1, :, 2, 3], book.embedding.weight[found[1, 2, 3]])
    assert torch.equal(book(book(z)), book(z))  # codes are their own nearest


@torch.no_grad()
def test_codes_are_compared_in_fp32_under_autocast() -> None:
    book = Codebook(2, 1)
    book.embedding.weight.copy_(torch.tensor([[1.0], [1.001]]))  # the same number in bf16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert book.indices(torch.full((1, 1, 1, 1), 1.0009)).item() == 1
        assert book.indices(torch.full((1, 1, 1, 1), 1.0001)).item() == 0


@torch.no_grad()
def test_the_posterior_is_the_latent_before_quantization() -> None:
    stage = make()
    x = torch.rand(2, 3, 8, 8, generator=rng(2)) * 2 - 1
    posterior = stage.posterior(x)
    assert posterior.log_variance is None
    torch.testing.assert_close(posterior.mean, stage.quant_conv(stage.encoder(x)))
    assert torch.equal(posterior.sample(rng()), posterior.mean)
    assert not torch.allclose(stage.quantize(posterior.mean), posterior.mean, atol=1e-2)


@torch.no_grad()
def test_decoding_quantizes_first() -> None:
    stage = make()
    z = torch.randn(1, 3, 4, 4, generator=rng(3))
    codes = stage.quantize.embedding.weight[brute_force(z, stage.quantize.embedding.weight)].permute(0, 3, 1, 2)
    torch.testing.assert_close(stage.decode(z), stage.decoder(stage.post_quant_conv(codes)))
    torch.testing.assert_close(stage.decode(z), stage.decode(codes))


def test_state_names_are_the_published_ones() -> None:
    names = {name for name in make().state_dict() if not name.startswith(("encoder.", "decoder."))}
    convolutions = {f"{part}.{end}" for part in ("quant_conv", "post_quant_conv") for end in ("weight", "bias")}
    assert names == convolutions | {"quantize.embedding.weight", "shift", "scale", "preview"}


def test_config_survives_json_and_is_told_apart() -> None:
    data = configs.to_dict(CONFIG)
    assert data["kind"] == "vq"
    assert configs.from_dict(FirstStageConfig, data) == CONFIG  # type: ignore[arg-type]


def test_config_refuses() -> None:
    with pytest.raises(InputError, match="codebook_size is 0"):
        VQConfig(NETWORK, codebook_size=0)
    with pytest.raises(InputError, match="embed_channels is -1"):
        VQConfig(NETWORK, embed_channels=-1)
    with pytest.raises(InputError, match="double_moments"):
        VQConfig(AutoencoderConfig())


def test_config_refuses_levels_that_do_not_fit() -> None:
    for size, embed, levels in ((60, 3, (4, 3, 5, 1)), (61, 3, (4, 3, 5)), (30, 2, (4, 3, 5)), (40, 3, (4, 2, 5))):
        with pytest.raises(InputError, match="VQ levels are"):
            VQConfig(NETWORK, codebook_size=size, embed_channels=embed, levels=levels)


def test_it_follows_the_pictures_channels() -> None:
    fitting = with_channels(CONFIG, 1)
    assert isinstance(fitting, VQConfig)
    assert fitting.network.image_channels == 1
    assert fitting.codebook_size == 60


@torch.no_grad()
@pytest.mark.parametrize("levels", [(), (4, 3, 5)])
def test_two_faces(levels: tuple[int, ...]) -> None:
    """Diffusion sees z in unit scale, transformers indices, whatever the unit scale; both are the same pictures."""
    torch.manual_seed(0)
    stage = awaken(build_first_stage(VQConfig(NETWORK, codebook_size=60, embed_channels=3, levels=levels))).eval()
    assert isinstance(stage, VQFirstStage)
    assert isinstance(stage.quantize, FSQ if levels else Codebook)
    x = torch.rand(2, 3, 8, 12, generator=rng(2)) * 2 - 1
    grid, codes = stage.grid(), stage.codes()
    assert grid.latent == Grid(3, 2)
    assert codes.latent == Codes((2,), 60)
    found = codes.encode(x)
    assert found.shape == (2, 4, 6)
    assert len(found.unique()) > 3
    x_hat = grid.decode(grid.posterior(x).mode())
    torch.testing.assert_close(codes.decode(found), x_hat)
    stage.set_statistics(torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.3, 2.0, 1.1]), stage.preview)
    assert torch.equal(codes.encode(x), found)
    torch.testing.assert_close(grid.decode(grid.posterior(x).mode()), x_hat)
    with pytest.raises(InputError, match="expected whole numbers from 0 to 59"):
        codes.decode(found + 60)


def test_a_whole_model_over_it_samples_and_comes_back_from_its_folder(tmp_path: Path) -> None:
    network = UNetConfig(3, 3, 32, (1,), 1, attention_factors=(), head_channels=8)
    config = ModelConfig(CONFIG, DiffusionConfig(network), NoneConfig(), (8, 12))
    model = random_model(config)
    settings = DiffusionSettings(sampler=SAMPLERS["ddim"], num_steps=2)

    def sample(made: LatentModel) -> Tensor:
        return made.sample(made.conditioner.prepare(["", ""]), settings, PictureNoise([1, 2]))

    pictures = sample(model)
    assert pictures.shape == (2, 3, 8, 12)
    assert pictures.isfinite().all()
    save_pretrained(tmp_path / "m", model, config, storage=Storage.fp32)
    loaded = load_pretrained(tmp_path / "m")
    assert loaded.config == config
    assert torch.equal(sample(loaded.model), pictures)


def test_finite_scalars_have_no_published_form() -> None:
    network = UNetConfig(3, 3, 32, (1,), 1, attention_factors=(), head_channels=8)
    first = VQConfig(NETWORK, codebook_size=60, embed_channels=3, levels=(4, 3, 5))
    config = ModelConfig(first, DiffusionConfig(network), NoneConfig(), (8, 12))
    with pytest.raises(InputError, match="finite scalar quantization has no published form"):
        published_networks(config)
    with pytest.raises(InputError, match="finite scalar quantization has no diffusers form"):
        folder_parts(config, {})
