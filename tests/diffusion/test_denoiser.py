import pytest
import torch
from torch import nn

from sfumato.conditioning import Conditioning
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.guidance import Guidance, GuidedDenoiser, rescaled
from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError


class Toy(nn.Module):
    """output = gain * x + vector, remembering how it was called."""

    def __init__(self, dtype: torch.dtype | None = None):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.calls: list[tuple[int, list[float]]] = []
        self.dtype = dtype

    def forward(self, x, k, cond):
        self.calls.append((len(x), k.tolist()))
        shift = 0 if cond.vector is None else cond.vector[:, :, None, None]
        result = self.gain * x + shift
        return result if self.dtype is None else result.to(self.dtype)


def says(value: float, batch: int = 2) -> Conditioning:
    return Conditioning(vector=torch.full((batch, 3), value))


def denoiser(prediction: Prediction = Prediction.x0, **config) -> Denoiser:
    return Denoiser(Toy(), make_schedule(ScheduleConfig(**config)), prediction)


@pytest.mark.parametrize("prediction", list(Prediction))
def test_a_perfect_network_gives_back_x0(prediction):
    schedule = make_schedule(ScheduleConfig())
    rng = torch.Generator().manual_seed(0)
    x_0, eps = (torch.randn(2, 3, 4, 4, generator=rng) for _ in range(2))
    t = torch.tensor([0.2, 0.7])

    class Perfect(nn.Module):
        def forward(self, x, k, cond):
            assert k.tolist() == [199, 699]
            return model.target(x_0, eps, t)

    model = Denoiser(Perfect(), schedule, prediction)
    result = model(model.noised(x_0, eps, t), t, Conditioning())
    torch.testing.assert_close(result.x_0, x_0, rtol=1e-4, atol=1e-4)
    assert result.log_variance is None


def test_the_estimate_is_fp32_whatever_the_network_answers_in():
    model = Denoiser(Toy(torch.bfloat16), make_schedule(ScheduleConfig()), Prediction.v)
    x_t, t = torch.randn(2, 3, 4, 4), torch.tensor([0.5, 1.0])
    assert model.output(x_t, t, Conditioning()).dtype == torch.bfloat16
    assert model(x_t, t, Conditioning()).x_0.dtype == torch.float32
    assert model(x_t.bfloat16(), t, Conditioning()).x_0.dtype == torch.float32


def test_eps_under_a_schedule_that_ends_in_noise_is_refused_at_construction():
    with pytest.raises(InputError, match="eps"):
        denoiser(Prediction.eps, name=ScheduleName.rectified)


def test_parameters_of_the_denoiser_are_those_of_the_network():
    assert [name for name, _ in denoiser().named_parameters()] == ["network.gain"]


def test_twins_go_through_the_network_in_one_call_and_are_combined_by_weight():
    model = denoiser()
    x_t, t = torch.ones(2, 3, 4, 4), torch.tensor([0.5, 0.5])
    guided = GuidedDenoiser(model, [(says(1.0), 3.0), (says(0.0), -2.0)])
    torch.testing.assert_close(guided(x_t, t), torch.full_like(x_t, 0.5 + 3.0))
    assert model.network.calls == [(4, [499.0] * 4)]


def test_three_twins_keep_their_order():
    guided = GuidedDenoiser(denoiser(), [(says(1.0), 2.0), (says(10.0), -0.5), (says(100.0), -0.5)])
    torch.testing.assert_close(guided(torch.zeros(2, 3, 1, 1), torch.ones(2)), torch.full((2, 3, 1, 1), 2.0 - 5 - 50))


def test_one_twin_is_not_doubled():
    model = denoiser()
    x_t, t = torch.ones(2, 3, 4, 4), torch.tensor([0.5, 0.5])
    result = GuidedDenoiser(model, [(says(1.0), 1.0)])(x_t, t)
    assert torch.equal(result, model(x_t, t, says(1.0)).x_0)
    assert [batch for batch, _ in model.network.calls] == [2, 2]


@pytest.mark.parametrize("prediction", [Prediction.eps, Prediction.v, Prediction.velocity])
def test_combining_x0_is_combining_outputs(prediction):
    model = denoiser(prediction)
    x_t, t = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0.3, 0.6])
    by_x0 = GuidedDenoiser(model, [(says(1.0), 4.0), (says(0.0), -3.0)])(x_t, t)
    by_output = model(x_t, t, says(4.0)).x_0  # the toy is linear in its condition: 4 * 1 - 3 * 0
    torch.testing.assert_close(by_x0, by_output, rtol=1e-4, atol=1e-4)


def test_outside_its_interval_guidance_is_the_first_condition():
    model = denoiser()
    guided = GuidedDenoiser(model, [(says(1.0), 3.0), (says(0.0), -2.0)], Guidance(interval=(0.2, 0.6)))
    x_t = torch.zeros(2, 3, 1, 1)
    assert guided(x_t, torch.tensor([0.9, 0.9])).flatten().tolist() == [1.0] * 6
    assert guided(x_t, torch.tensor([0.1, 0.1])).flatten().tolist() == [1.0] * 6
    assert [batch for batch, _ in model.network.calls] == [2, 2]
    assert guided(x_t, torch.tensor([0.5, 0.9])).flatten().tolist() == [3.0] * 3 + [1.0] * 3
    assert guided(x_t, torch.tensor([0.2, 0.6])).flatten().tolist() == [3.0] * 6


def test_rescaling_gives_back_the_spread_of_the_condition():
    rng = torch.Generator().manual_seed(2)
    guided, reference = 5 * torch.randn(3, 4, 8, 8, generator=rng), torch.randn(3, 4, 8, 8, generator=rng)
    over = (1, 2, 3)
    torch.testing.assert_close(rescaled(guided, reference, 1.0).std(over), reference.std(over))
    expected = 0.7 * guided * (reference.std(over) / guided.std(over)).view(-1, 1, 1, 1) + 0.3 * guided
    torch.testing.assert_close(rescaled(guided, reference, 0.7), expected)
    assert rescaled(guided, reference, 0.0) is guided
    assert rescaled(torch.zeros(1, 4), torch.ones(1, 4), 1.0).isfinite().all()


def test_rescaling_and_clipping_reach_the_estimate():
    x_t, t = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([0.5, 0.5])
    model = denoiser()
    reference = model(x_t, t, says(1.0)).x_0
    twins = [(says(1.0), 3.0), (Conditioning(vector=torch.randn(2, 3, generator=torch.Generator().manual_seed(4))), -2.0)]
    full = GuidedDenoiser(model, twins, Guidance(rescale=1.0))(x_t, t)
    torch.testing.assert_close(full.std((1, 2, 3)), reference.std((1, 2, 3)))
    assert GuidedDenoiser(model, twins, Guidance(clip=0.4))(x_t, t).abs().max().item() == pytest.approx(0.4)


@pytest.mark.parametrize(
    "values", [{"interval": (0.6, 0.2)}, {"interval": (-0.1, 0.2)}, {"rescale": 1.5}, {"rescale": float("nan")}, {"clip": 0.0}]
)
def test_silly_guidance_is_refused(values):
    with pytest.raises(InputError, match="expected"):
        Guidance(**values)
