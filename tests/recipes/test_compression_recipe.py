"""The runs of the compression study: equal parameters, the right latents, and refusals."""

from __future__ import annotations

import dataclasses
import statistics

import pytest
import torch

from sfumato.build import build_first_stage, build_prior
from sfumato.errors import InputError
from sfumato.recipes.compression import FACTORS, LATENT_CHANNELS, compression, compression_tiny


def built(config):
    with torch.device("meta"):
        first = build_first_stage(config.first_stage.model)
        return first, build_prior(config.prior.model, first)


@pytest.mark.parametrize("size", [128, 256])
def test_denoisers_have_one_number_of_parameters(size):
    counts = {}
    for factor in FACTORS:
        first, prior = built(compression(factor, size))
        assert first.latent.factor == factor
        assert first.latent.channels == {1: 3, **LATENT_CHANNELS}[factor]
        counts[factor] = sum(p.numel() for p in prior.parameters())
        assert (size // factor) % prior.config.network.factor == 0
    middle = statistics.mean(counts.values())
    assert all(abs(count / middle - 1) < 0.1 for count in counts.values()), counts
    assert middle == pytest.approx(16.3e6, rel=0.04)


def test_every_stage_has_the_same_time():
    for factor in FACTORS:
        config = compression(factor, seconds=7.5)
        assert config.prior.train.seconds == config.first_stage.train.seconds == 7.5
        assert config.prior.train.decay == "constant"  # a curve over time is of one run, whose end is not known to it


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_the_tiny_ones_fit_together(factor):
    first, prior = built(compression_tiny(factor))
    z = torch.zeros((2, *first.latent.shape(16, 16)))
    assert z.shape[1] == prior.config.network.in_channels
    assert sum(p.numel() for p in prior.parameters()) < 500_000


@pytest.mark.parametrize(
    ("factor", "size", "words"), [(3, 128, "expected one of 1, 2, 4"), (4, 100, "power of two"), (32, 64, "take --size 128")]
)
def test_what_does_not_go_together_is_refused(factor, size, words):
    with pytest.raises(InputError, match=words):
        compression(factor, size)


def test_only_latents_differ():
    """Between factors nothing but the first stage, the U-Net's shape and the batch."""
    four, eight = compression(4), compression(8)
    assert four.first_stage.loss == eight.first_stage.loss
    assert four.first_stage.train == eight.first_stage.train
    assert dataclasses.replace(four.prior.train, batch_size=1) == dataclasses.replace(eight.prior.train, batch_size=1)
