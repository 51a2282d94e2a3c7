"""Forward strips, watched sampling and pictures between: identities with the schedule, the sampler and `generate`."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
import torch

from sfumato.build import ModelConfig
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError
from sfumato.explain import forward
from sfumato.explain.between import between_seeds, line, redrawn, weights
from sfumato.explain.walk import watched
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.pixels import to_pictures
from sfumato.generation.request import Draft
from sfumato.noise import PictureNoise
from sfumato.recipes import RECIPES
from tiny_models import loaded, text_config, unconditional_config

LINEAR = make_schedule(ScheduleConfig(ScheduleName.linear, 1e-4, 0.02))
PROMPT = "a red dragon"


def pipeline(config=text_config) -> Pipeline:
    return Pipeline(loaded(config()), torch.device("cpu"))


def test_a_strip_is_the_closed_form():
    """At every time alpha_t z_0 + sigma_t eps with one eps; SNR is alpha^2 / sigma^2 of the table's running product."""
    z_0 = torch.randn(1, 3, 4, 4)
    times = forward.even_times(LINEAR, 5)
    found = forward.strip(LINEAR, z_0, times, seed=3)
    assert times.tolist() == [0, 0.25, 0.5, 0.75, 1]
    eps = PictureNoise([3])(z_0)
    bars = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    for index, row in enumerate((249, 499, 749, 999), start=1):
        there = bars[row].sqrt().float() * z_0 + (1 - bars[row]).sqrt().float() * eps
        torch.testing.assert_close(found.z_t[index : index + 1], there, rtol=1e-5, atol=1e-6)
        assert float(found.snr[index]) == pytest.approx(float(bars[row] / (1 - bars[row])))
    assert torch.equal(found.z_t[:1], z_0)
    assert found.to_json()["snr"][0] is None
    with pytest.raises(InputError, match="from 2 to 1000"):
        forward.even_times(LINEAR, 1)


def test_a_strips_figure_shows_every_time():
    model = pipeline().model
    stage = model.first_stage
    stage.preview.normal_()
    found = forward.strip(LINEAR, torch.randn(1, *model.latent_shape(16, 16)), forward.even_times(LINEAR, 4))
    rows = forward.rows(stage, found.z_t)
    assert [row.name for row in rows] == ["z_t, preview", "z_t, decoded"]
    text = forward.figure(rows, found, LINEAR, "title").svg()
    assert text.count("<image") == 8
    assert re.findall(r">SNR ([\d.e+-]+)<", text) == [f"{float(snr):.2g}" for snr in found.snr[1:]]


def test_what_is_watched_is_what_is_made():
    """The picture is `generate`'s; each state follows from the one before by the DDIM update of the estimate beside it."""
    model = pipeline()
    request = model.request(Draft(prompts=(PROMPT,), seed=4, steps=5, sampler="ddim", guidance=2.0))
    moments, image = watched(model, request)
    assert image.tobytes() == model.generate(PROMPT, seed=4, steps=5, sampler="ddim", guidance=2.0)[0].tobytes()
    assert len(moments) == 5
    assert moments[0].t == 1
    schedule = model.model.prior.denoiser.schedule
    for now, then in pairwise(moments):
        assert then.t < now.t
        (a, s), (a2, s2) = (schedule(torch.tensor(m.t, dtype=torch.float64)) for m in (now, then))
        eps = (now.z_t.double() - a * now.z_0.double()) / s
        torch.testing.assert_close(then.z_t.double(), a2 * now.z_0.double() + s2 * eps, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moments[0].z_t, PictureNoise([4])(moments[0].z_t))


def test_a_sampler_that_asks_twice_a_step_has_two_moments_a_step():
    """Heun's second call of each step but the last, at the time that the step ends at."""
    model = pipeline()
    moments, _ = watched(model, model.request(Draft(prompts=(PROMPT,), seed=4, steps=3, sampler="heun")))
    times = [moment.t for moment in moments]
    assert len(times) == 5
    assert times[1] == times[2]
    assert times[3] == times[4]


def test_the_ends_between_two_seeds_are_their_own_pictures():
    model = pipeline()
    request = model.request(Draft(prompts=(PROMPT,), seed=1, sampler="euler_a"))
    found = between_seeds(model, request, 1, 6, 3)
    for image, seed in ((found[0], 1), (found[2], 6)):
        assert image.tobytes() == model.generate(PROMPT, seed=seed, sampler="euler_a")[0].tobytes()
    assert found[1].tobytes() not in (found[0].tobytes(), found[2].tobytes())
    with pytest.raises(InputError, match="from 2"):
        weights(1)


def test_latents_on_a_line_and_drawn_anew():
    model = pipeline(unconditional_config)
    shape = (1, *model.model.latent_shape(16, 16))
    a, b = torch.zeros(shape), torch.ones(shape)
    z = line(a, b, 3)
    assert z.flatten(1).mean(1).tolist() == [0, 0.5, 1]
    request = model.request(Draft(seed=2))
    anew = redrawn(model, request, z, 0.5)
    there = [made.image for made in model.stream(request, start=model.start_at(torch.zeros(1, 3, 16, 16), 0.5))]
    assert len(anew) == 3
    assert anew[0].size == there[0].size == (16, 16)
    assert anew[0].tobytes() != anew[2].tobytes()


@pytest.mark.parametrize("family", ["gan", "vae", "flow"])
def test_between_two_seeds_of_one_step(family):
    """A vector's, a grid's and a flow's noise: the ends are `generate`'s, the middle is what the arc's middle decodes to."""
    run = RECIPES[f"family-{family}-tiny"]()
    config = ModelConfig(run.first_stage.model, run.prior.model, run.prior.conditioner, (16, 16))
    model = pipeline(lambda: config)
    found = between_seeds(model, model.request(Draft(seed=1)), 1, 6, 3)
    for image, seed in ((found[0], 1), (found[2], 6)):
        assert image.tobytes() == model.generate(seed=seed)[0].tobytes()
    if family != "flow":
        like = torch.empty(1, *model.model.latent_shape(16, 16))
        a, b = PictureNoise([1])(like), PictureNoise([6])(like)
        half = math.acos(float((a * b).sum() / (a.norm() * b.norm()))) / 2
        with torch.inference_mode():
            x = model.model.decode((a + b) / (2 * math.cos(half)))
        there = to_pictures(x)[0]
        assert max(abs(p - q) for p, q in zip(found[1].tobytes(), there.tobytes(), strict=True)) <= 1


def test_codes_have_no_arc():
    run = RECIPES["family-vqvae-tiny"]()
    model = pipeline(lambda: ModelConfig(run.first_stage.model, run.prior.model, run.prior.conditioner, (16, 16)))
    with pytest.raises(InputError, match="draws no noise that could be interpolated"):
        between_seeds(model, model.request(Draft(seed=1)), 1, 6, 3)
