"""The tables of the published yamls, against the numpy float64 arithmetic of the published code and diffusers' fp32 one."""

import math

import numpy as np
import pytest
import torch

from sfumato.diffusion.schedule import Discrete, ScheduleConfig, ScheduleName, cosine_betas, make_schedule, zero_terminal_betas

# linear_start and linear_end of each yaml; beta_schedule "linear" there means that sqrt(beta) is linear.
YAMLS = {
    "celebahq, ffhq, lsun_beds, cin256, cin256-v2, text2img256": (0.0015, 0.0195),
    "lsun_churches, bsr_sr": (0.0015, 0.0155),
    "inpainting_big, semantic_synthesis, layout2img": (0.0015, 0.0205),
    "rdm 768x768": (0.0015, 0.015),
    "txt2img-1p4B, Stable Diffusion 1, 2, XL, unCLIP": (0.00085, 0.012),
    "x4-upscaling, its latents and its low-resolution picture": (0.0001, 0.02),
}
every = pytest.mark.parametrize("name", list(YAMLS))


def published_betas(start: float, end: float) -> np.ndarray:
    return np.linspace(start**0.5, end**0.5, 1000, dtype=np.float64) ** 2


def row_times() -> torch.Tensor:
    return torch.arange(1, 1001, dtype=torch.float64) / 1000


@every
def test_the_table_is_that_of_the_published_code(name):
    """numpy in float64, kept as fp32: equal in every bit of fp32, and to 1e-13 before that."""
    start, end = YAMLS[name]
    expected = np.cumprod(1.0 - published_betas(start, end), axis=0)
    schedule = make_schedule(ScheduleConfig(beta_start=start, beta_end=end))
    assert schedule.alpha_bars.numpy() == pytest.approx(expected, rel=1e-13, abs=0)
    assert np.array_equal(schedule.alpha_bars.float().numpy(), expected.astype(np.float32))
    alpha, sigma = schedule(row_times())
    assert alpha.numpy() == pytest.approx(np.sqrt(expected), rel=1e-11)
    assert sigma.numpy() == pytest.approx(np.sqrt(1 - expected), rel=1e-11)


@every
def test_the_table_is_that_of_diffusers_up_to_its_precision(name):
    """diffusers multiplies 1,000 factors in fp32: a relative error of at most 1,000 * 6e-8."""
    diffusers = pytest.importorskip("diffusers")
    start, end = YAMLS[name]
    schedule = make_schedule(ScheduleConfig(beta_start=start, beta_end=end))
    other = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=start, beta_end=end)
    torch.testing.assert_close(schedule.alpha_bars.float(), other.alphas_cumprod, rtol=6e-5, atol=0)
    again = torch.cumprod(1 - torch.linspace(start**0.5, end**0.5, 1000, dtype=torch.float64) ** 2, 0)  # its formula
    torch.testing.assert_close(schedule.alpha_bars, again, rtol=1e-13, atol=0)


@every
def test_rescaled_to_zero_terminal_snr(name):
    """Lin et al. 2023, algorithm 1, in numpy: shift the last sqrt(alphabar) to 0, scale the first back to what it was."""
    start, end = YAMLS[name]
    root = np.sqrt(np.cumprod(1.0 - published_betas(start, end)))
    expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    schedule = make_schedule(ScheduleConfig(beta_start=start, beta_end=end, zero_terminal_snr=True))
    assert schedule.alpha_bars.numpy() == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert float(schedule.alpha_bars[-1]) == 0.0
    assert schedule.reaches_noise


def test_plain_linear_betas():
    """ "linear" of diffusers and Ho et al. 2020 (their 1e-4 ... 0.02), which CompVis' code calls sqrt_linear."""
    schedule = make_schedule(ScheduleConfig(ScheduleName.linear, 1e-4, 0.02))
    expected = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000, dtype=np.float64))
    assert schedule.alpha_bars.numpy() == pytest.approx(expected, rel=1e-13, abs=0)


def test_the_squared_cosine_of_unclips_noising():
    """squaredcos_cap_v2: beta = min(1 - f((k + 1) / T) / f(k / T), 0.999)."""
    diffusers = pytest.importorskip("diffusers")

    def f(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - f((k + 1) / 1000) / f(k / 1000), 0.999) for k in range(1000)]
    assert cosine_betas(1000).numpy() == pytest.approx(betas, rel=1e-9)
    schedule = make_schedule(ScheduleConfig(ScheduleName.cosine))
    assert schedule.alpha_bars.numpy() == pytest.approx(np.cumprod(1 - np.array(betas)), rel=1e-9)
    other = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    # Its fp32 factors near 0.001 are off by 6e-8 each: 6e-5 relative in the last rows, and the rows before as above.
    torch.testing.assert_close(schedule.alpha_bars.float(), other.alphas_cumprod, rtol=3e-4, atol=0)


def test_published_numbers_that_people_know():
    """Stable Diffusion's largest and smallest sigma / alpha, 14.6146 and 0.0292, as k-diffusion prints them."""
    schedule = make_schedule(ScheduleConfig(beta_start=0.00085, beta_end=0.012))
    assert float(schedule.sigma_ratio(torch.tensor(1.0, dtype=torch.float64))) == pytest.approx(14.6146, abs=5e-5)
    assert float(schedule.sigma_ratio(torch.tensor(0.001, dtype=torch.float64))) == pytest.approx(0.0292, abs=5e-5)
    again = Discrete(zero_terminal_betas(schedule.betas))
    assert float(again.alpha_bars[0]) == pytest.approx(float(schedule.alpha_bars[0]), rel=1e-12)
