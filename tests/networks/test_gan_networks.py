"""Generator and discriminator of whole pictures: shapes, the projection and the batch's deviation by hand."""

from __future__ import annotations

import pytest
import torch

from sfumato.errors import InputError
from sfumato.first_stages.generator import GeneratorFirstStage
from sfumato.latent import Vector
from sfumato.networks.discriminator import Discriminator, DiscriminatorConfig, MinibatchDeviation
from sfumato.networks.generator import GeneratorConfig
from tiny_runs import awaken

RNG = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_generator_decodes_vectors(skip: bool, channels: int) -> None:
    stage = awaken(GeneratorFirstStage(GeneratorConfig(channels, dim=5, widths=(8, 6, 4), mapping_width=8, skip=skip)))
    assert isinstance(stage, GeneratorFirstStage)
    assert (stage.latent, stage.size, stage.preview) == (Vector(5), 16, None)
    z = torch.randn(3, 5, generator=RNG)
    x = stage.decode(z)
    assert x.shape == (3, channels, 16, 16)
    assert not torch.allclose(x[0], x[1])
    # a picture is its own vector's alone: other rows change no more than last bits
    torch.testing.assert_close(stage.decode(z[1:2])[0], x[1], rtol=1e-4, atol=1e-5)
    assert len(stage.network.to_pixels) == (3 if skip else 1)


@pytest.mark.parametrize("shape", [(2, 4), (2, 5, 1), (5,)])
def test_latents_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    stage = GeneratorFirstStage(GeneratorConfig(dim=5, widths=(4, 4), mapping_width=4))
    with pytest.raises(InputError, match=r"expected \(B, 5\)"):
        stage.decode(torch.zeros(shape))


def test_untrained_pictures_differ_by_their_vectors() -> None:
    """A large part of their square is variance between vectors, not a picture common to all: else training ignores the noise.

    Six seeds gave 0.53 to 0.86; layers as they come from PyTorch, 0.16 to 0.28.
    """
    torch.manual_seed(0)
    stage = GeneratorFirstStage(GeneratorConfig(dim=16, widths=(32, 16, 8), mapping_width=32))
    with torch.no_grad():
        x = stage.decode(torch.randn(64, 16, generator=RNG))
    assert x.var(0).mean() > 0.4 * x.square().mean()


def test_every_level_draws_from_the_first_step() -> None:
    """With skips the coarsest picture reaches the pixels directly: all levels get a gradient."""
    stage = GeneratorFirstStage(GeneratorConfig(3, dim=5, widths=(8, 6, 4), mapping_width=8))
    stage.decode(torch.randn(2, 5, generator=RNG)).square().sum().backward()
    assert all(level.conv.weight.grad.any() for level in stage.network.to_pixels)


def test_logit_is_projected_on_the_class() -> None:
    network = Discriminator(DiscriminatorConfig(3, widths=(4, 6, 8), num_classes=3))
    x, labels = torch.randn(4, 3, 16, 16, generator=RNG), torch.tensor([2, 0, 1, 2])
    phi = network.features(x)
    assert phi.shape == (4, 8)
    wanted = phi @ network.out.weight[0] + network.out.bias + torch.einsum("bc,bc->b", network.classes.weight[labels], phi)
    found = network(x, labels)
    assert found.shape == (4,)
    torch.testing.assert_close(found, wanted)


def test_without_classes_labels_are_not_looked_at() -> None:
    network = Discriminator(DiscriminatorConfig(1, widths=(4, 8)))
    x = torch.randn(4, 1, 8, 8, generator=RNG)
    assert torch.equal(network(x), network(x, torch.tensor([9, 9, 9, 9])))


def test_without_a_group_each_picture_is_judged_alone() -> None:
    network = Discriminator(DiscriminatorConfig(3, widths=(4, 8), minibatch_group=0))
    x = torch.randn(4, 3, 8, 8, generator=RNG)
    torch.testing.assert_close(network(x)[:1], network(x[:1]), rtol=1e-4, atol=1e-5)


def test_minibatch_deviation_by_hand() -> None:
    """Neighbours 1, 3 deviate by 1 from their mean in the first channel, 0, 4 by 2 in the second: 1.5 a place."""
    x = torch.tensor([[1.0, 0.0], [3.0, 4.0], [7.0, 7.0], [7.0, 7.0]]).view(4, 2, 1, 1).expand(4, 2, 3, 3)
    y = MinibatchDeviation(2)(x)
    assert torch.equal(y[:, :2], x)
    wanted = torch.tensor([1.5, 1.5, 0.0, 0.0]).view(4, 1, 1).expand(4, 3, 3)
    torch.testing.assert_close(y[:, 2], wanted, rtol=0, atol=2e-4)  # the root's floor is 1e-4
    assert MinibatchDeviation(4)(x[:3]).shape == (3, 3, 3, 3)  # three neighbours, for four do not divide three
    assert torch.isfinite(MinibatchDeviation(4)(x[:1])).all()


def test_wrong_pictures_and_settings_are_refused() -> None:
    with pytest.raises(InputError, match="expected 8x8"):
        Discriminator(DiscriminatorConfig(3, widths=(4, 8)))(torch.zeros(2, 3, 16, 16))
    for wrong in ({"widths": ()}, {"widths": (4, 0)}, {"num_classes": -1}, {"minibatch_group": -1}, {"image_channels": 0}):
        with pytest.raises(InputError, match=r"^discriminator.*expected"):
            DiscriminatorConfig(**wrong)  # type: ignore[arg-type]
    for wrong in ({"widths": ()}, {"widths": (0,)}, {"dim": 0}, {"mapping_layers": 0}, {"image_channels": 0}):
        with pytest.raises(InputError, match=r"^generator.*expected"):
            GeneratorConfig(**wrong)  # type: ignore[arg-type]
