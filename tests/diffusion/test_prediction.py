import pytest
import torch

from sfumato.diffusion.prediction import Prediction, check, target, to_eps, to_x0, x0_slope
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError

every_prediction = pytest.mark.parametrize("prediction", list(Prediction))
every_schedule = pytest.mark.parametrize("name", list(ScheduleName))


def draw(name: ScheduleName):
    rng = torch.Generator().manual_seed(3)
    schedule = make_schedule(ScheduleConfig(name))
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    x_0, eps = (torch.randn(6, 2, 3, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    alpha, sigma = schedule(t)
    x_t = alpha.view(-1, 1, 1, 1) * x_0 + sigma.view(-1, 1, 1, 1) * eps
    return x_0, eps, x_t, alpha, sigma


@every_prediction
@every_schedule
def test_the_right_output_gives_back_x0_and_eps(prediction, name):
    x_0, eps, x_t, alpha, sigma = draw(name)
    output = target(prediction, x_0, eps, alpha, sigma)
    torch.testing.assert_close(to_x0(prediction, output, x_t, alpha, sigma), x_0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(to_eps(prediction, output, x_t, alpha, sigma), eps, rtol=1e-9, atol=1e-9)


@every_prediction
@every_schedule
def test_any_output_gives_an_x0_and_an_eps_that_make_up_x_t(prediction, name):
    x_0, _, x_t, alpha, sigma = draw(name)
    output = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    estimate, noise = (f(prediction, output, x_t, alpha, sigma) for f in (to_x0, to_eps))
    again = alpha.view(-1, 1, 1, 1) * estimate + sigma.view(-1, 1, 1, 1) * noise
    torch.testing.assert_close(again, x_t, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(target(prediction, estimate, noise, alpha, sigma), output, rtol=1e-9, atol=1e-9)


@every_prediction
@every_schedule
def test_the_slope_is_the_derivative_of_x0(prediction, name):
    _, _, x_t, alpha, sigma = draw(name)
    output = torch.zeros_like(x_t)
    moved = to_x0(prediction, output + 1, x_t, alpha, sigma) - to_x0(prediction, output, x_t, alpha, sigma)
    slope = x0_slope(prediction, alpha, sigma).view(-1, 1, 1, 1).expand_as(moved)
    torch.testing.assert_close(moved.abs(), slope, rtol=1e-9, atol=1e-9)


def test_the_velocity_is_the_slope_of_the_rectified_path():
    x_0, eps, _, _, _ = draw(ScheduleName.rectified)
    schedule = make_schedule(ScheduleConfig(ScheduleName.rectified))
    (a, s), (b, u) = (schedule(torch.tensor(t, dtype=torch.float64)) for t in (0.4, 0.41))
    slope = ((b * x_0 + u * eps) - (a * x_0 + s * eps)) / 0.01
    torch.testing.assert_close(target(Prediction.velocity, x_0, eps, a, s), slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", [Prediction.x0, Prediction.v, Prediction.velocity])
def test_pure_noise_is_no_trouble_for_other_predictions(prediction):
    x_0, eps = torch.ones(1, 4), torch.full((1, 4), 0.5)
    alpha, sigma = torch.zeros(1), torch.ones(1)
    output = target(prediction, x_0, eps, alpha, sigma)
    assert torch.equal(to_x0(prediction, output, eps, alpha, sigma), x_0)


@pytest.mark.parametrize("config", [ScheduleConfig(ScheduleName.rectified), ScheduleConfig(zero_terminal_snr=True)])
def test_eps_is_refused_where_alpha_reaches_zero(config):
    with pytest.raises(InputError, match="use prediction v"):
        check(Prediction.eps, make_schedule(config))
    check(Prediction.v, make_schedule(config))
    check(Prediction.eps, make_schedule(ScheduleConfig()))
