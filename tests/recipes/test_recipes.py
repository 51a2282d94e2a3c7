"""Every recipe is a run that could start: its parts agree, its docstring says what to type."""

from __future__ import annotations

import pytest
import torch

from sfumato.build import TrainedConditionerConfig, build_conditioner, build_first_stage, build_prior
from sfumato.cli.train import memory, read_config
from sfumato.conditioners.text import TextEncoder
from sfumato.errors import InputError
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.priors.regression import RegressionConfig
from sfumato.recipes import RECIPES
from sfumato.training.check import check
from sfumato.training.run import parameter_counts


@pytest.mark.parametrize("name", RECIPES)
def test_parts_agree(name: str) -> None:
    config = RECIPES[name]()
    check(config)
    with torch.device("meta"):
        first = build_first_stage(config.first_stage.model)
        prior = build_prior(config.prior.model, first)
    kind = config.prior.model.kind
    assert prior.latent == (first.codes().latent if kind in ("autoregressive", "hierarchical") else first.latent)
    if isinstance(config.prior.model, DiffusionConfig | RegressionConfig):
        assert config.prior.model.network.in_channels == first.latent.channels
    assert config.name == name
    counts = parameter_counts(config)
    assert (counts["prior"] > 0) == (kind != "normal")
    assert (counts["first stage"] > 0) == (config.first_stage.model.kind != "identity")
    assert all(size >= 20 * counts["prior"] for key, size in memory(config, counts).items() if "prior" in key)


@pytest.mark.parametrize("name", RECIPES)
def test_docstrings_say_what_to_type(name: str) -> None:
    text = RECIPES[name].__doc__ or ""
    assert f"sfumato train {name} --data DIR --out RUN" in text
    assert "Hardware:" in text


@pytest.mark.parametrize("name", RECIPES)
def test_conditioner_can_be_built(name: str) -> None:
    part = RECIPES[name]().prior.conditioner
    assert isinstance(part, TrainedConditionerConfig)
    tokenizer = TextEncoder.learn_tokenizer(["a", "b"], 300)
    with torch.device("meta"):
        build_conditioner(part, tokenizer.to_str(), lambda x: x)


def test_recipes_are_values() -> None:
    """Two calls give equal configs, and no call changes another's."""
    for make in RECIPES.values():
        assert make() == make()
        assert hash(make()) == hash(make())


def test_published_denoisers() -> None:
    """LDM-4 of the unconditional rows: 274 M parameters (arXiv 2112.10752, table 12), beside our cross-attention."""
    config = RECIPES["ldm-f4"]()
    assert config.prior.model.network.channels == 224
    assert (config.prior.model.schedule.beta_start, config.prior.model.schedule.beta_end) == (0.0015, 0.0195)
    assert config.first_stage.loss.kl_weight == 1e-6
    assert config.first_stage.loss.gan_start == 50_001


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown recipe 'emojy': did you mean 'emoji'"):
        read_config("emojy", [])
