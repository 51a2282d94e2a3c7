"""Which parameters meet which loss, and the losses by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sfumato.losses.adversarial import GanStart, GanStartConfig
from sfumato.training.config import OptimConfig
from sfumato.training.state import TrainState, make_optimizer, step_seed
from sfumato.training.tasks.autoencoder import AutoencoderTask
from sfumato.training.tasks.base import Task
from tiny_runs import CPU, autoencoder_task, awaken, diffusion_task, small_optim

OPTIM = small_optim()
TASKS = {
    "first stage": lambda: autoencoder_task(gan_start=0),
    "first stage, embedded perceptual": lambda: autoencoder_task(gan_start=0, perceptual="embedded"),
    "first stage, fixed variance, no GAN": lambda: autoencoder_task(gan_start="never", learn_log_variance=False),
    "prior": diffusion_task,
}


@pytest.fixture(params=list(TASKS))
def task(request: pytest.FixtureRequest) -> Task:
    made = TASKS[request.param]()
    for name, module in made.modules().items():
        if name != "reconstruction":
            awaken(module)
    return made


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def names_of(task: Task) -> dict[int, str]:
    return {id(p): f"{m}.{n}" for m, module in task.modules().items() for n, p in module.named_parameters()}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_trainable_parameter_is_in_exactly_one_group(task: Task, optimizer: str) -> None:
    state = TrainState(task, small_optim(optimizer=optimizer), CPU)
    names = names_of(task)
    held = [id(p) for o in state.optimizers.values() for g in o.param_groups for p in g["params"]]
    trainable = {id(p) for module in task.modules().values() for p in module.parameters() if p.requires_grad}
    assert len(held) == len(set(held)), "a parameter is in two groups"
    assert {names[i] for i in trainable} == {names[i] for i in held}


def test_every_trainable_parameter_gets_a_gradient_from_its_own_loss(task: Task) -> None:
    batch = task.batch(5, small_optim(batch_size=8), rng())
    for name, parameters in task.parameters().items():
        names = names_of(task)
        for module in task.modules().values():
            module.zero_grad(set_to_none=True)
        task.loss(name, batch, 5, rng(1)).total.backward()
        asleep = [names[id(p)] for p in parameters if p.grad is None or not p.grad.any()]
        assert asleep == []


def test_losses_do_not_reach_over(task: Task) -> None:
    """A loss leaves no gradient at parameters of another optimizer."""
    batch = task.batch(5, OPTIM, rng())
    groups = task.parameters()
    for name in groups:
        for module in task.modules().values():
            module.zero_grad(set_to_none=True)
        task.loss(name, batch, 5, rng(1)).total.backward()
        for other, parameters in groups.items():
            if other != name:
                assert all(p.grad is None for p in parameters)


def test_matrices_decay_and_vectors_do_not() -> None:
    weights, bias, scalar = torch.zeros(2, 2), torch.zeros(3), torch.tensor(0.0)
    parameters = [torch.nn.Parameter(v) for v in (weights, bias, scalar)]
    groups = make_optimizer(parameters, OptimConfig(weight_decay=0.1), 1e-3, CPU).param_groups
    assert [(g["weight_decay"], len(g["params"])) for g in groups] == [(0.1, 1), (0.0, 2)]
    assert {g["lr"] for g in groups} == {1e-3}  # what was typed


def parts(task: AutoencoderTask, step: int, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    loss = task.loss("autoencoder", {"x": x}, step, rng(1))
    return loss.total, dict(loss.parts)


def test_autoencoder_loss_by_hand() -> None:
    """nll + 1e-3 KL + factor * weight * adaptive * g, each written out."""
    task = autoencoder_task(gan_start=0, kl_weight=1e-3, gan_weight=0.7)
    awaken(task.first_stage)
    awaken(task.discriminator)
    log_variance = task.reconstruction.log_variance
    with torch.no_grad():
        log_variance.fill_(0.3)
    x = task.batch(0, OPTIM, rng())["x"]
    total, logged = parts(task, 49, x)  # step 49 of a ramp of 200: factor 1/4

    stage = task.first_stage
    q = stage.posterior(x)
    x_hat = stage.decode(q.sample(rng(1)))
    nll = ((x_hat - x).abs() / log_variance.exp() + log_variance).flatten(1).sum(1).mean()
    kl = 0.5 * (q.mean**2 + q.log_variance.exp() - 1 - q.log_variance).flatten(1).sum(1).mean()
    g = -task.discriminator(x_hat).mean()
    pull = torch.autograd.grad(nll, stage.decoder.conv_out.weight, retain_graph=True)[0].norm()
    push = torch.autograd.grad(g, stage.decoder.conv_out.weight, retain_graph=True)[0].norm()
    adaptive = (pull / (push + 1e-4)).clamp(0, 1e4)
    torch.testing.assert_close(logged["gan/adaptive_weight"], adaptive)
    torch.testing.assert_close(total, nll + 1e-3 * kl + 0.25 * 0.7 * adaptive.detach() * g, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(logged["pixel"], (x_hat - x).abs().mean().detach())
    torch.testing.assert_close(logged["kl"], kl.detach() / q.mean[0].numel())
    assert float(logged["gan/factor"]) == 0.25
    assert not logged["gan/adaptive_weight"].requires_grad
    total.backward()  # the adaptive weight kept the graph


def test_the_half_size_term_by_hand() -> None:
    """Halving is the mean of 2 x 2 blocks; the term is a reconstruction loss of its own between halves."""
    plain = autoencoder_task(gan_start="never", learn_log_variance=False)
    task = autoencoder_task(gan_start="never", learn_log_variance=False, half_size_weight=0.7)
    for module in (plain.first_stage, task.first_stage):
        awaken(module)
    x = task.batch(0, OPTIM, rng())["x"]
    without, total = plain.loss("autoencoder", {"x": x}, 0, rng(3)), task.loss("autoencoder", {"x": x}, 0, rng(3))
    z = task.first_stage.posterior(x).sample(rng(3))

    def blocks(a: Tensor) -> Tensor:
        return a.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))

    error = (task.first_stage.decode(blocks(z)) - blocks(x)).abs().flatten(1).sum(1).mean()
    torch.testing.assert_close(total.total - without.total, 0.7 * error, rtol=1e-4, atol=1e-2)
    assert total.parts["pixel/half_size"] == pytest.approx(float(error.detach()) / x[0, :, ::2, ::2].numel(), rel=1e-4)


def test_discriminator_loss_by_hand() -> None:
    task = autoencoder_task(gan_start=0)
    awaken(task.first_stage)
    awaken(task.discriminator)
    x = task.batch(0, OPTIM, rng())["x"]
    parts(task, 10, x)
    loss = task.loss("discriminator", {"x": x}, 10, rng(1))
    with torch.no_grad():
        x_hat = task.first_stage.decode(task.first_stage.posterior(x).sample(rng(1)))
        real, fake = task.discriminator(x), task.discriminator(x_hat)
    expected = 0.5 * ((1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean())
    torch.testing.assert_close(loss.total.detach(), expected)
    torch.testing.assert_close(loss.parts["gan/logit_gap"], real.mean() - fake.mean())


def run(task: AutoencoderTask, steps: int, error: float = 1.0) -> list[bool]:
    """Whether the discriminator takes part, step by step, when the pixel error stays at `error`."""
    active = []
    for step in range(steps):
        active.append(task.active("discriminator", step))
        assert task.active("autoencoder", step)
        task.after_step(step, {"pixel": error})
    return active


def test_gan_starts_at_its_step() -> None:
    assert run(autoencoder_task(gan_start=4), 8) == [False] * 4 + [True] * 4
    assert run(autoencoder_task(gan_start=0), 2) == [True, True]


def test_gan_starts_when_settled() -> None:
    task = autoencoder_task(gan_start="settled")
    task.start = GanStart(GanStartConfig(step=None, window=5, ramp=2))
    assert run(task, 12) == [False] * 10 + [True] * 2  # two readings of five steps, then no better
    improving = autoencoder_task(gan_start="settled")
    improving.start = GanStart(GanStartConfig(step=None, window=5))
    for step in range(50):
        improving.after_step(step, {"pixel": 0.9**step})
        assert not improving.active("discriminator", step)


def test_settled_waits_for_whole_windows_by_default() -> None:
    task = autoencoder_task(gan_start="settled")
    assert task.start.started_at is None
    assert not any(run(task, 100))


@pytest.mark.parametrize("options", [{"gan_start": "never"}, {"gan_weight": 0.0}])
def test_gan_never_starts(options: dict[str, object]) -> None:
    task = autoencoder_task(**options)
    assert task.discriminator is None
    assert set(task.parameters()) == {"autoencoder"}
    assert set(task.modules()) == {"first_stage", "reconstruction"}
    run(task, 3)
    total, logged = parts(task, 10**6, task.batch(0, OPTIM, rng())["x"])
    assert torch.isfinite(total)
    assert not any(name.startswith("gan") for name in logged)


def test_before_the_start_the_discriminator_is_not_called() -> None:
    task = autoencoder_task(gan_start=4)
    calls: list[int] = []
    task.discriminator.register_forward_hook(lambda *args: calls.append(1))
    parts(task, 3, task.batch(0, OPTIM, rng())["x"])
    assert calls == []
    parts(task, 4, task.batch(0, OPTIM, rng())["x"])
    assert calls == [1]


def test_gan_start_is_state() -> None:
    task, other = (autoencoder_task(gan_start="settled") for _ in range(2))
    for each in (task, other):
        each.start = GanStart(GanStartConfig(step=None, window=5))
    run(task, 7)
    other.load_state_dict(task.state_dict())
    for step in range(7, 14):
        for each in (task, other):
            each.after_step(step, {"pixel": 1.0})
        assert task.state_dict() == other.state_dict()
    assert task.active("discriminator", 13)


def test_discriminator_has_its_own_learning_rate() -> None:
    own = autoencoder_task(discriminator_learning_rate=5e-5)
    assert own.learning_rate("discriminator", OPTIM) == 5e-5
    assert own.learning_rate("autoencoder", OPTIM) == OPTIM.learning_rate
    assert autoencoder_task().learning_rate("discriminator", OPTIM) == OPTIM.learning_rate


def test_dropout_replaces_conditions_by_null() -> None:
    for dropout, expected in ((0.0, 0.0), (1.0, 1.0), (0.3, 0.3)):
        task = diffusion_task(dropout=dropout)
        null = task.conditioner.null(1)
        rows = [task.batch(step, small_optim(batch_size=11), rng(step))["prepared"] for step in range(40)]
        share = float((torch.cat(rows) == null).all(1).float().mean())
        assert share == pytest.approx(expected, abs=0.07 if 0 < dropout < 1 else 0)


def test_batches_are_a_function_of_the_step_and_the_generator() -> None:
    for make in (autoencoder_task, diffusion_task):
        one, other = make(), make()
        for step in (7, 0, 3):
            a, b = one.batch(step, OPTIM, rng(step)), other.batch(step, OPTIM, rng(step))
            assert all(torch.equal(a[k], b[k]) for k in a)


def test_step_seeds_differ() -> None:
    seeds = {step_seed(seed, stage, step) for seed in range(5) for stage in ("first_stage", "prior") for step in range(50)}
    assert len(seeds) == 500
    assert all(0 <= s < 2**63 for s in seeds)
