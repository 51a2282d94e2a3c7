"""`LatentModel` is only glue: each method is the parts' own, in unit scale."""

from __future__ import annotations

import pytest
import torch

import tiny_models
from sfumato.errors import InputError
from sfumato.model import LatentModel
from sfumato.noise import PictureNoise
from sfumato.priors.diffusion import DiffusionSettings
from sfumato.samplers import SAMPLERS

SETTINGS = DiffusionSettings(SAMPLERS["ddim"], 3)


@pytest.fixture(scope="module")
def model() -> LatentModel:
    model = tiny_models.random_model(tiny_models.text_config())
    model.first_stage.set_statistics(torch.tensor([1.0, -2, 0, 3]), torch.tensor([0.5, 2, 1, 4]), torch.zeros(5, 3))
    return model


def test_latent_shape(model: LatentModel) -> None:
    assert model.latent_shape(16, 24) == (4, 8, 12)
    for height, width in [(15, 16), (16, 0), (-2, 16)]:
        with pytest.raises(InputError, match="multiple of 2"):
            model.latent_shape(height, width)


def test_encode_is_in_unit_scale(model: LatentModel) -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = model.encode(x, torch.Generator().manual_seed(1))
    raw_mean, raw_log_variance = model.first_stage.quant_conv(model.first_stage.encoder(x)).chunk(2, 1)
    eps = torch.randn(raw_mean.shape, generator=torch.Generator().manual_seed(1))
    raw = raw_mean + (0.5 * raw_log_variance).exp() * eps
    shift, scale = torch.tensor([1.0, -2, 0, 3]).view(4, 1, 1), torch.tensor([0.5, 2, 1, 4]).view(4, 1, 1)
    torch.testing.assert_close(z, (raw - shift) / scale, rtol=1e-4, atol=1e-4)
    plain = model.first_stage.decoder(model.first_stage.post_quant_conv(raw))
    torch.testing.assert_close(model.decode((raw - shift) / scale), plain, rtol=1e-4, atol=1e-4)


def test_loss_is_the_priors_under_the_conditioners_context(model: LatentModel) -> None:
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    prepared = model.conditioner.prepare(["a red dragon", "cat", ""])
    ours = model.loss(z, prepared, torch.Generator().manual_seed(3)).total
    own = model.prior.loss(z, model.conditioner(prepared), torch.Generator().manual_seed(3)).total
    assert torch.equal(ours, own)


def test_sample_decodes_what_the_prior_samples(model: LatentModel) -> None:
    prepared = model.conditioner.prepare(["a red dragon", "cat"])
    x = model.sample(prepared, SETTINGS, PictureNoise([7, 8]), guidance=2.0)
    assert x.shape == (2, 3, 16, 16)
    assert not x.requires_grad
    z = model.prior.sample((2, 4, 8, 8), model.conditioner.twins(prepared, 2.0), SETTINGS, PictureNoise([7, 8]))
    assert torch.equal(x, model.decode(z).detach())
    other = model.sample(prepared, SETTINGS, PictureNoise([7, 8]), 2.0, negative=model.conditioner.prepare(["cat", "cat"]))
    assert not torch.equal(x[0], other[0])
