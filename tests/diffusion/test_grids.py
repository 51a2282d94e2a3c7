import math
from itertools import pairwise

import pytest
import torch

from sfumato.diffusion.grids import LARGEST_RATIO, Spacing, times
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError

PAPER = make_schedule(ScheduleConfig())
SCHEDULES = [PAPER] + [
    make_schedule(c)
    for c in (
        ScheduleConfig(ScheduleName.rectified),
        ScheduleConfig(zero_terminal_snr=True),
        ScheduleConfig(ScheduleName.cosine, zero_terminal_snr=True),
    )
]


def rows(t: torch.Tensor) -> list[float]:
    return [round(float(v) * 1000 - 1, 6) for v in t]


@pytest.mark.parametrize("spacing", list(Spacing))
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 20, 50, 333, 999, 1000])
def test_every_plan_descends_from_noise_to_clean(spacing, schedule, num_steps):
    t = times(spacing, schedule, num_steps)
    assert t.shape == (num_steps + 1,)
    assert t.dtype == torch.float64
    assert (t.diff() < 0).all()
    assert t[0] <= 1
    assert t[-1] >= 0
    if spacing not in (Spacing.leading, Spacing.leading_clean):
        assert t[0] == 1
    if spacing not in (Spacing.leading, Spacing.uniform):
        assert t[-1] == 0


def test_leading_is_the_grid_of_the_papers_code():
    t = times(Spacing.leading, PAPER, 50)
    assert rows(t[:-1]) == [float(k) for k in reversed(range(1, 1000, 20))]
    assert t[-1] == 1 / 1000  # alphabar_0, not 1


def test_leading_in_as_many_steps_as_rows_ends_clean():
    assert rows(times(Spacing.leading, PAPER, 1000)) == [float(k) for k in range(999, -2, -1)]
    assert rows(times(Spacing.leading, PAPER, 999)) == [float(k) for k in range(999, -1, -1)]


def test_trailing():
    assert rows(times(Spacing.trailing, PAPER, 4)) == [999, 749, 499, 249, -1]
    assert rows(times(Spacing.trailing, PAPER, 3)) == [999, 666, 332, -1]
    assert times(Spacing.trailing, SCHEDULES[1], 3).tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])


def test_linspace():
    assert rows(times(Spacing.linspace, PAPER, 4)) == [999, 666, 333, 0, -1]
    assert rows(times(Spacing.linspace, PAPER, 3)) == [999, 499.5, 0, -1]


def test_karras_is_equation_5():
    t = times(Spacing.karras, PAPER, 10)
    ratio = PAPER.sigma_ratio(t)
    high, low = (float(PAPER.sigma_ratio(torch.tensor(v, dtype=torch.float64))) for v in (1.0, 0.001))
    expected = [(high ** (1 / 7) + i / 9 * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(10)]
    assert ratio.tolist() == pytest.approx([*expected, 0.0], rel=1e-9)


def test_karras_after_pure_noise_goes_on_at_a_finite_ratio():
    ratio = SCHEDULES[1].sigma_ratio(times(Spacing.karras, SCHEDULES[1], 10))
    assert math.isinf(ratio[0])
    assert ratio[1] == pytest.approx(LARGEST_RATIO)


def test_leading_clean_asks_where_leading_does_and_ends_clean():
    for num_steps in (1, 20, 30, 1000):
        t = times(Spacing.leading_clean, PAPER, num_steps)
        assert torch.equal(t[:-1], times(Spacing.leading, PAPER, num_steps)[:-1])
        assert t[-1] == 0


def test_uniform_goes_from_the_last_row_to_the_first():
    assert rows(times(Spacing.uniform, PAPER, 3)) == [999, 666, 333, 0]
    assert rows(times(Spacing.uniform, PAPER, 2)) == [999, 499.5, 0]


def test_exponential_has_equal_factors():
    ratio = PAPER.sigma_ratio(times(Spacing.exponential, PAPER, 10))
    high, low = (float(PAPER.sigma_ratio(torch.tensor(v, dtype=torch.float64))) for v in (1.0, 0.001))
    assert ratio[:-1].tolist() == pytest.approx([high * (low / high) ** (i / 9) for i in range(10)], rel=1e-9)


STABLE_DIFFUSION = make_schedule(ScheduleConfig(beta_start=0.00085, beta_end=0.012))
ALIGNED_SIGMAS = {  # as the authors print them beside the rows, to three digits
    Spacing.ays_sd1: [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152],
    Spacing.ays_sdxl: [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113],
}


@pytest.mark.parametrize("spacing", list(ALIGNED_SIGMAS))
def test_aligned_rows_have_the_published_sigmas(spacing):
    t = times(spacing, STABLE_DIFFUSION, 10)
    assert all(float(r).is_integer() for r in rows(t))
    assert STABLE_DIFFUSION.sigma_ratio(t[:-1]).tolist() == pytest.approx(ALIGNED_SIGMAS[spacing], rel=0.03)  # half a row


@pytest.mark.parametrize("spacing", list(ALIGNED_SIGMAS))
def test_aligned_rows_are_interpolated_in_the_logarithm(spacing):
    """The authors: interpolate the log of the eleven sigmas over equal parts."""
    eleven = [*STABLE_DIFFUSION.sigma_ratio(times(spacing, STABLE_DIFFUSION, 10)[:-1]).tolist(), 0.02917]
    ratio = STABLE_DIFFUSION.sigma_ratio(times(spacing, STABLE_DIFFUSION, 20)[:-1]).tolist()
    assert ratio[::2] == pytest.approx(eleven[:-1], rel=1e-9)
    assert ratio[1::2] == pytest.approx([math.sqrt(a * b) for a, b in pairwise(eleven)], rel=1e-3)  # 0.02917 is rounded


@pytest.mark.parametrize("num_steps", [0, -1, 1001, 10**9])
@pytest.mark.parametrize("spacing", list(Spacing))
def test_impossible_counts_are_refused(spacing, num_steps):
    with pytest.raises(InputError, match="1 to 1000"):
        times(spacing, PAPER, num_steps)
