"""Stages keep their keys when configs get new fields: a key that changes throws away a run's folder."""

from __future__ import annotations

import dataclasses

import pytest

from sfumato.conditioners.text import TextConfig
from sfumato.config import to_dict
from sfumato.errors import InputError
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.recipes import RECIPES
from sfumato.training.check import check
from sfumato.training.stages import ADDED, key


def test_keys_are_those_of_runs_made_before_the_fields():
    """The hexadecimal numbers are what the code before them gave."""
    assert key(DiffusionConfig(UNetConfig(4, 4)), "x") == "6270a14da9cc7438"
    assert key(UNetConfig(4, 4, transformer_depth=2)) == "3f513b82794b1070"
    assert key(TextConfig(vector_dim=192)) == "9072dd671eb30a28"


def test_a_new_field_counts_once_it_says_something():
    plain = UNetConfig(4, 4, context_dim=8)
    assert key(dataclasses.replace(plain, num_classes=3)) != key(plain)
    assert key(dataclasses.replace(plain, disable_self_attentions=(True, False, False, False))) != key(plain)
    assert key(TextConfig(reach=2)) != key(TextConfig())


def test_what_is_left_out_are_the_defaults():
    data = to_dict(UNetConfig(4, 4))
    assert {name: data[name] for name in ADDED["unet"]} == ADDED["unet"]
    assert {name: getattr(TextConfig(), name) for name in ADDED["text"]} == ADDED["text"]


def test_classes_that_nothing_gives_are_refused():
    config = RECIPES["tiny"]()
    network = dataclasses.replace(config.prior.model.network, num_classes=4)
    prior = dataclasses.replace(config.prior, model=dataclasses.replace(config.prior.model, network=network))
    with pytest.raises(InputError, match="num_classes is 4"):
        check(dataclasses.replace(config, prior=prior))
