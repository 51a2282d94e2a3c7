"""Samples by seed, timed after a warm-up, and fewer of them where time is up."""

from __future__ import annotations

import pytest
import torch

from sfumato.errors import InputError
from sfumato.generation.pipeline import Pipeline, load
from sfumato.studies.sampling import draw
from tiny_models import unconditional_config, write_model


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return load(write_model(tmp_path_factory.mktemp("model") / "m", unconditional_config()), "cpu")


class Watch:
    """Passes `seconds` between two looks."""

    def __init__(self, *seconds: float):
        self.left, self.time = list(seconds), 0.0

    def __call__(self) -> float:
        if self.left:
            self.time += self.left.pop(0)
        return self.time


def test_a_sample_is_its_seeds_in_any_batch(pipeline: Pipeline) -> None:
    whole = draw(pipeline, 5, 7, 5, 100.0).pixels
    parts = draw(pipeline, 5, 7, 2, 100.0).pixels
    assert whole.shape == (5, 3, 16, 16)
    assert (whole.int() - parts.int()).abs().max() <= 1  # kernels of other shapes round otherwise
    later = draw(pipeline, 3, 9, 3, 100.0).pixels
    assert (whole[2:].int() - later.int()).abs().max() <= 1
    assert (whole[0].int() - whole[1].int()).abs().max() > 1


def test_the_first_batch_warms_up_and_time_ends_it(pipeline: Pipeline) -> None:
    # looks: begin; then start, end and the check of the time for each batch
    watch = Watch(0, 0, 50, 0, 0, 8, 0, 0, 4, 0)
    drawn = draw(pipeline, 10, 0, 2, 60.0, now=watch)
    assert len(drawn.pixels) == 6  # 62 seconds are over after the third batch
    assert drawn.seconds_per_sample == pytest.approx((8 + 4) / 4)
    alone = draw(pipeline, 2, 0, 2, 60.0, now=Watch(0, 0, 50, 0))
    assert alone.seconds_per_sample == pytest.approx(25)


def test_what_is_not_finite_is_an_error(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        type(pipeline.model), "sample", lambda self, prepared, *_: torch.full((len(prepared), 3, 4, 4), torch.nan)
    )
    with pytest.raises(InputError, match="samples 0 to 1 are not finite"):
        draw(pipeline, 2, 0, 2, 60.0)
