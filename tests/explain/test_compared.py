"""Which models share a first stage, what a line of the legend says, and which pictures are named."""

from __future__ import annotations

import copy
import dataclasses

import torch

from sfumato.explain.compared import LONGEST, LONGEST_SIZED, Rated, note, series, stage_key
from sfumato.explain.rate_distortion import Curve, Point
from tiny_models import random_model, unconditional_config

STAGE = Point("KLFirstStage", 0.2, 10.0, "a Gaussian fitted per channel")
CURVE = Curve(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5]).double(), torch.tensor([60.0, 20.0]).double(), None, 8)


def latent(name: str, key: str = "k", shape: tuple[int, ...] = (3, 16, 16)) -> Rated:
    return Rated(name, shape, 8, CURVE, STAGE, None, key)


def test_first_stages_are_equal_by_their_weights():
    one, other = (random_model(unconditional_config(), seed).first_stage for seed in (0, 1))
    same = copy.deepcopy(one)
    assert stage_key(one) == stage_key(same) != stage_key(other)
    with torch.no_grad():
        next(same.parameters()).view(-1)[0] += 1e-3
    assert stage_key(one) != stage_key(same)


def test_an_equal_first_stage_is_drawn_once_and_named_for_all():
    found = series([latent("a"), latent("b", "other"), latent("c")])
    assert [[name for name, _ in one.curves] for one in found] == [[f"{name}: diffusion, 2 steps"] for name in "abc"]
    stages = [[name for name, _ in one.stages] for one in found]
    assert stages[0] == ["a and c: first stage, a Gaussian fitted per channel"]
    assert stages[1] == ["b: first stage, a Gaussian fitted per channel"]
    assert stages[2] == []


def test_one_first_stage_at_two_sizes_is_two_points():
    """Its rate and error depend on the pictures' size, which every name then tells."""
    found = series([latent("a"), latent("b", shape=(3, 32, 32))])
    assert [[name for name, _ in one.stages] for one in found] == [
        ["a (16 x 16 x 3): first stage, a Gaussian fitted per channel"],
        ["b (32 x 32 x 3): first stage, a Gaussian fitted per channel"],
    ]
    assert found[1].curves[0][0] == "b (32 x 32 x 3): diffusion, 2 steps"


def test_a_model_without_a_chain_gives_its_points_alone():
    prior = Point("NormalPrior", 0.3, 10.0, "its normal prior")
    vae, pixels = (dataclasses.replace(latent("a"), curve=None, stage=stage, prior=prior) for stage in (STAGE, None))
    (found,) = series([vae])
    assert (list(found.curves), found.points) == ([], [STAGE, prior])
    assert found.priors[0][0] == "a: its normal prior"
    (found,) = series([pixels])
    assert found.points == [prior]
    assert pixels.to_json() == {"curve": None, "first_stage": None, "prior": prior.to_json()}


def test_long_names_are_cut():
    """To what a line has room for, of all who share together, with and without a size."""
    name = "n" * 60
    assert series([latent(name)])[0].curves[0][0] == f"{'n' * (LONGEST - 1)}…: diffusion, 2 steps"
    both = series([latent(name), latent("b"), latent("c", shape=(3, 8, 8))])
    assert both[0].stages[0][0].startswith(f"{'n' * (LONGEST_SIZED - 1)}… (16 x 16 x 3): first stage")


def test_the_note_says_which_pictures():
    assert note([latent("a"), latent("b")]) == "8 held-out pictures of 16 x 16 x 3"
    assert note([dataclasses.replace(latent("a"), num_pictures=1)]) == "1 held-out picture of 16 x 16 x 3"
    mixed = note([latent("a"), latent("b", shape=(4, 128, 128))])
    assert mixed == "8 held-out pictures at each model's own size; rates of different sizes do not compare"
