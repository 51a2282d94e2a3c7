"""The table of families and what an equal budget is to each."""

from __future__ import annotations

import dataclasses

import pytest

from sfumato.conditioners.none import NoneConfig
from sfumato.errors import InputError
from sfumato.first_stages.identity import IdentityConfig
from sfumato.io.storage import Storage
from sfumato.priors.normal import NormalConfig
from sfumato.recipes import RECIPES
from sfumato.studies.families import FAMILIES, Family, budgeted, choose, shares
from sfumato.training.stages import key

TINY = Family("tiny", "tiny", "tiny", "", "")


def test_two_stages_share_the_budget_and_one_has_it_all() -> None:
    config = RECIPES["tiny"]()
    assert shares(config) == (0.4, 0.6)
    pixels = dataclasses.replace(config, first_stage=dataclasses.replace(config.first_stage, model=IdentityConfig()))
    frozen = dataclasses.replace(config, first_stage=dataclasses.replace(config.first_stage, frozen="somewhere"))
    assert shares(pixels) == shares(frozen) == (0.0, 1.0)
    alone = dataclasses.replace(config, prior=dataclasses.replace(config.prior, model=NormalConfig()))  # type: ignore[arg-type]
    assert shares(alone) == (1.0, 0.0)


def test_a_budgeted_recipe_ends_by_time_alone() -> None:
    config = budgeted(TINY, 300.0, 48, seed=7)
    assert config.first_stage.train.seconds == pytest.approx(120)
    assert config.prior.train.seconds == pytest.approx(180)
    assert min(config.first_stage.train.steps, config.prior.train.steps) >= 10**8
    assert (config.data.size, config.seed, config.storage) == (48, 7, Storage.fp32)
    assert isinstance(config.prior.conditioner, NoneConfig)


def test_all_families_read_the_same_pictures() -> None:
    """Whatever their recipes say of mirroring or of pictures that count."""
    tables = {key(budgeted(Family(n, n, n, "", ""), 60.0, 32).data) for n in ("tiny", "folder", "unconditional", "emoji")}
    assert len(tables) == 1


def test_families_are_chosen_by_name_and_recipes_are_families_too() -> None:
    assert [f.recipe for f in choose(["vq-tiny", "tiny", "tiny"])] == ["vq-tiny", "tiny"]
    with pytest.raises(InputError, match="unknown family 'tinny': did you mean 'tiny'"):
        choose(["tinny"])
    with pytest.raises(InputError, match="got none"):
        choose([])


def test_the_table() -> None:
    numbers = [float(family.source) for family in FAMILIES.values()]
    assert len(set(FAMILIES)) == 12
    assert all(1300 < number < 2400 for number in numbers)
    assert [f.name for f in FAMILIES.values() if not f.likelihood] == ["gan"]
    assert [f.name for f in FAMILIES.values() if f.latent] == ["ldm", "ldm-vq", "dit", "rectified"]
