"""The loop: what is resumed is what was never interrupted; what is not finite reaches nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.errors import InputError, MachineError
from sfumato.losses.adversarial import GanStart, GanStartConfig
from sfumato.priors.base import Loss
from sfumato.training import loop
from sfumato.training.config import OptimConfig
from sfumato.training.ema import Ema
from sfumato.training.loop import Trainer, learning_rate_factor
from sfumato.training.run import prepare_module
from sfumato.training.signals import StopFlag
from sfumato.training.tasks.base import Batch, Task
from tiny_runs import autoencoder_task, awaken, differences, diffusion_task, run, small_optim, trainer

STAGES = {
    "first stage": autoencoder_task,
    "prior": diffusion_task,
}


def settled_task(seed: int = 0) -> Task:
    """The GAN begins after two readings of two steps: at step 4, if no reading is lost on the way."""
    task = autoencoder_task(seed, gan_start="settled")
    task.start = GanStart(GanStartConfig(window=2, tolerance=0.99, ramp=4))
    return task


RESUMED = STAGES | {
    "first stage, settled GAN": settled_task,
    "prior, dropout in its networks": lambda seed=0: diffusion_task(seed, inside=0.3),
    "first stage, Muon": autoencoder_task,
    "prior, Muon": diffusion_task,
}


def config_of(stage: str) -> OptimConfig:
    return small_optim(optimizer="muon" if stage.endswith("Muon") else "adamw", weight_decay=0.1)


def snapshot(trained: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return {k: v.clone() for k, v in trained.state.tensors().items()}, json.loads(json.dumps(trained.state.values()))


def stop_after(trained: Trainer, steps: int) -> None:
    """Run until `steps` are done, then stop politely."""
    flag = StopFlag()
    original = trained._step

    def step(number: int) -> Any:
        result = original(number)
        if number + 1 == steps:
            flag.reason = "test"
        return result

    trained._step = step  # type: ignore[method-assign]
    trained.resume()
    outcome = trained.run(flag)
    assert (outcome.step, outcome.finished) == (steps, steps >= trained.config.steps)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    return {s: snapshot(run(trainer(make(), folder / s, config_of(s)))) for s, make in RESUMED.items()}


# 11 pictures, batches of 4: steps 3, 6 and 9 begin within an epoch; the GAN begins at step 3 with its ramp
@pytest.mark.parametrize("saves", [(3,), (4,), (1, 2, 3, 4, 5, 6, 7)], ids=str)
@pytest.mark.parametrize("stage", RESUMED)
def test_resumed_is_uninterrupted(stage: str, saves: tuple[int, ...], uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    whole, values = uninterrupted[stage]
    assert len(whole) > 50
    for index, save in enumerate(saves):
        torch.manual_seed(save)  # another process has another global generator,
        stop_after(
            trainer(RESUMED[stage](seed=index), tmp_path / "parts", config_of(stage)), save
        )  # and other weights before it resumes
    tensors, own_values = snapshot(run(trainer(RESUMED[stage](seed=99), tmp_path / "parts", config_of(stage))))
    assert differences(whole, tensors) == []
    assert own_values == values


@pytest.mark.parametrize("stage", STAGES)
def test_state_has_all_that_training_touches(stage: str, tmp_path: Path) -> None:
    trained = run(trainer(STAGES[stage](), tmp_path))
    names = trained.state.tensors().keys()
    for kind in ("module.", "ema.", "optimizer."):
        assert any(n.startswith(kind) for n in names)
    for name, optimizer in trained.state.optimizers.items():
        count = sum(len(g["params"]) for g in optimizer.param_groups)
        assert sum(n.startswith(f"optimizer.{name}.") for n in names) == 3 * count  # step and two moments each
    assert trained.state.values()["ema_updates"] == 8


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stage", STAGES)
def test_restored_moments_lie_as_their_parameters_do(stage: str, optimizer: str, tmp_path: Path) -> None:
    """Files know no memory layout, and a GPU's convolutions have weights with channels last."""
    config = small_optim(steps=2, optimizer=optimizer)
    run(trainer(STAGES[stage](), tmp_path, config))
    task = STAGES[stage]()
    for module in task.modules().values():
        module.to(memory_format=torch.channels_last)
    again = trainer(task, tmp_path, config)
    assert again.resume() == 2
    states = [pair for optimizer in again.state.optimizers.values() for pair in optimizer.state.items()]
    moments = [(p, moment) for p, entry in states for moment in entry.values() if moment.ndim > 1]
    assert any(not p.is_contiguous() for p, _ in moments)
    assert all(p.stride() == moment.stride() for p, moment in moments)


def test_a_run_that_is_done_does_nothing(tmp_path: Path) -> None:
    whole, _ = snapshot(run(trainer(diffusion_task(), tmp_path)))
    again = trainer(diffusion_task(seed=5), tmp_path)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    outcome = (again.resume(), again.run(StopFlag()))[1]
    assert (outcome.finished, outcome.images) == (True, 0)
    assert differences(whole, again.state.tensors()) == []
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == files


def test_other_seeds_train_otherwise(tmp_path: Path) -> None:
    """The equality above is no equality of everything."""
    one = run(trainer(diffusion_task(), tmp_path / "a"))
    other = run(trainer(diffusion_task(), tmp_path / "b", seed=1))
    assert len(differences(one.state.tensors(), other.state.tensors())) > 50


def test_more_steps_go_on_from_the_checkpoint(tmp_path: Path) -> None:
    constant = {"decay": "constant", "warmup_steps": 0}
    run(trainer(diffusion_task(), tmp_path / "a", small_optim(steps=5, **constant)))
    longer = run(trainer(diffusion_task(), tmp_path / "a", small_optim(steps=8, **constant)))
    whole = run(trainer(diffusion_task(), tmp_path / "b", small_optim(steps=8, **constant)))
    assert differences(longer.state.tensors(), whole.state.tensors()) == []


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run(trainer(diffusion_task(), tmp_path, small_optim(steps=1)))
    other = trainer(autoencoder_task(), tmp_path)
    before = {k: v.clone() for k, v in other.state.tensors().items()}
    with pytest.raises(InputError, match="checkpoint at step 1 does not fit"):
        other.resume()
    assert differences(before, other.state.tensors()) == []


def quiet_posterior(task: Any) -> Any:
    """No spread in the latents, so that noise drawn in parts is noise drawn at once."""
    with torch.no_grad():
        task.first_stage.quant_conv.bias[2:] = -60.0
        task.first_stage.quant_conv.weight[2:] = 0.0
    return task


@pytest.mark.parametrize("parts", [2, 3, 4, 10])
def test_accumulation_is_the_whole_batch(parts: int, tmp_path: Path) -> None:
    """Also in parts of unequal size: 10 pictures in 4 parts are 3, 3, 2 and 2."""
    gradients = []
    for accumulate in (1, parts):
        config = small_optim(steps=1, batch_size=10, accumulate=accumulate)
        task = quiet_posterior(autoencoder_task(gan_start="never"))
        trained = run(trainer(task, tmp_path / str(accumulate), config))
        gradients.append([p.grad for p in task.parameters()["autoencoder"]])
        logged = trained.reporter.rows[0]
        assert logged["autoencoder/total"] > 0
        gradients[-1].append(torch.tensor([logged["autoencoder/total"], logged["pixel"], logged["kl"]]))
    total = torch.stack([g.norm() for g in gradients[0]]).norm()
    for whole, summed in zip(*gradients, strict=True):
        assert (whole - summed).norm() <= 1e-5 * whole.norm() + 1e-8 * total  # a bias before a norm has only rounding


@pytest.mark.parametrize("stage", STAGES)
def test_checkpointing_gives_the_same_gradients(stage: str, tmp_path: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        config, task = small_optim(steps=1, checkpointing=checkpointing), STAGES[stage]()
        for module in task.modules().values():
            prepare_module(module, config)
        switched = [m for module in task.modules().values() for m in module.modules() if getattr(m, "checkpointing", False)]
        assert bool(switched) == checkpointing
        awaken(next(iter(task.modules().values())))
        run(trainer(task, tmp_path / str(checkpointing), config))
        gradients.append({n: p.grad for m in task.modules().values() for n, p in m.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("config", "expected"), [
    (OptimConfig(steps=100, warmup_steps=4), {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 99: 1.0}),
    (OptimConfig(steps=100, warmup_steps=0), {0: 1.0, 99: 1.0}),
    (OptimConfig(steps=100, warmup_steps=0, decay="cosine"), {0: 1.0, 25: 0.5 + 0.125**0.5, 50: 0.5, 100: 0.0}),
    (OptimConfig(steps=100, warmup_steps=10, decay="cosine", decay_fraction=0.2, learning_rate=1e-3, final_learning_rate=1e-4),
     {5: 0.6, 10: 1.0, 79: 1.0, 80: 1.0, 90: 0.55, 100: 0.1, 120: 0.1}),
    (OptimConfig(steps=10, warmup_steps=100, decay="cosine"), {0: 0.01, 9: 0.1}),
])  # fmt: skip
def test_learning_rate_factor(config: OptimConfig, expected: Mapping[int, float]) -> None:
    for step, factor in expected.items():
        assert learning_rate_factor(config, step) == pytest.approx(factor, abs=1e-12), step


def test_learning_rates_are_what_was_typed(tmp_path: Path) -> None:
    """Not scaled by batch or accumulation; each optimizer has its own."""
    config = small_optim(steps=4, warmup_steps=2, decay="constant", learning_rate=3e-4, accumulate=2)
    task = autoencoder_task(gan_start=0, discriminator_learning_rate=7e-5)
    rates = []
    task.after_step = lambda step, values: rates.append(
        [{g["lr"] for g in o.param_groups} for o in trained.state.optimizers.values()]
    )
    trained = trainer(task, tmp_path, config)
    trained.run(StopFlag())
    assert rates == [[{1.5e-4}, {3.5e-5}]] + [[{3e-4}, {7e-5}]] * 3


def test_clipping_bounds_the_gradient_and_logs_the_raw_norm(tmp_path: Path) -> None:
    task = autoencoder_task(gan_start="never")
    trained = run(trainer(task, tmp_path, small_optim(steps=1, grad_clip=0.5)))
    norm = torch.stack([p.grad.norm() for p in task.parameters()["autoencoder"]]).norm()
    assert float(norm) == pytest.approx(0.5, rel=1e-3)
    assert trained.reporter.rows[0]["autoencoder/grad_norm"] > 1


def spoil(task: Task, name: str, where: set[int], how: str, value: float) -> None:
    """At these steps, the loss of optimizer `name` or one number of its gradient becomes `value`."""
    original, victim = task.loss, task.parameters()[name][-1]

    def loss(asked: str, batch: Batch, step: int, rng: torch.Generator) -> Loss:
        found = original(asked, batch, step, rng)
        if asked != name or step not in where:
            return found
        if how == "loss":
            return Loss(found.total * value, found.parts)
        if how == "part":
            return Loss(found.total, {**found.parts, "gauge": torch.tensor(value)})
        hook = victim.register_hook(lambda grad: (hook.remove(), torch.full_like(grad, value))[1])
        return found

    task.loss = loss  # type: ignore[method-assign]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("how", ["loss", "gradient", "part"])
@pytest.mark.parametrize(
    ("stage", "name"), [("first stage", "autoencoder"), ("first stage", "discriminator"), ("prior", "prior")]
)
def test_what_is_not_finite_reaches_nothing(stage: str, name: str, how: str, value: float, tmp_path: Path) -> None:
    bad, task = {4, 6}, STAGES[stage]()
    spoil(task, name, bad, how, value)
    trained = trainer(task, tmp_path)
    step_of, changed = trained._step, {}

    def step(number: int) -> Any:
        before, values = snapshot(trained)
        result = step_of(number)
        after, own_values = snapshot(trained)
        changed[number] = differences(before, after), values == own_values
        return result

    trained._step = step  # type: ignore[method-assign]
    run(trained)
    assert {n for n, (names, _) in changed.items() if not names} == bad  # bit-equal: weights, average, both optimizers
    assert {n for n, (_, same) in changed.items() if same} >= bad  # and the count of averages, the GAN's start
    assert all(torch.isfinite(v).all() for v in trained.state.tensors().values())
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted(bad)
    assert all(line["not_finite"] for line in lines)
    assert [row["step"] for row in trained.reporter.rows] == [n + 1 for n in range(8) if n not in bad]
    assert len(trained.reporter.warnings) == 2


def test_too_many_in_a_row_stop_it(tmp_path: Path) -> None:
    task = diffusion_task()
    spoil(task, "prior", {0, 2, 4, 5, 6, 7}, "loss", math.nan)
    trained = trainer(task, tmp_path, small_optim(max_bad_steps=3))
    with pytest.raises(InputError, match=r"3 steps in a row were not finite, last at step 6.*learning_rate"):
        trained.run(StopFlag())
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 5
    again = trainer(diffusion_task(seed=4), tmp_path)
    assert again.resume() == 6
    assert differences(again.state.tensors(), trained.state.tensors()) == []


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_runs_on_the_cpu(stage: str, tmp_path: Path) -> None:
    """Arithmetic in bf16, everything that is kept in fp32, and the same loss to bf16's two or three digits."""
    rows = {}
    for precision in ("fp32", "bf16"):
        trained = run(trainer(STAGES[stage](), tmp_path / precision, small_optim(precision=precision)))
        rows[precision] = trained.reporter.rows[0]
        assert {v.dtype for k, v in trained.state.tensors().items() if v.is_floating_point()} == {torch.float32}
    name = "prior" if stage == "prior" else "autoencoder"
    assert rows["bf16"][f"{name}/total"] == pytest.approx(rows["fp32"][f"{name}/total"], rel=0.03)
    assert rows["bf16"][f"{name}/grad_norm"] != rows["fp32"][f"{name}/grad_norm"]


def test_auto_is_fp32_on_the_cpu() -> None:
    with loop.autocast(OptimConfig(precision="auto"), torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")
    with loop.autocast(OptimConfig(precision="bf16"), torch.device("cpu")):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")


def test_learned_log_variance_moves_towards_its_optimum(tmp_path: Path) -> None:
    """d nll / ds = 0 at e^s = mean error: below an error of 1 it has to fall; unless it is fixed."""
    config = small_optim(steps=30, learning_rate=1e-2, warmup_steps=0, decay="constant")
    learned = run(trainer(autoencoder_task(gan_start="never"), tmp_path / "a", config))
    series = [row["first_stage/log_variance"] for row in learned.reporter.rows]
    assert series[0] == 0
    assert series[-1] < -0.1
    assert "module.reconstruction.log_variance" in learned.state.tensors()
    fixed = run(trainer(autoencoder_task(gan_start="never", learn_log_variance=False), tmp_path / "b", config))
    assert {row["first_stage/log_variance"] for row in fixed.reporter.rows} == {0.0}


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    for stage, name in (("first stage", "pixel"), ("prior", "loss")):
        config = small_optim(steps=40, warmup_steps=5, learning_rate=3e-3)
        rows = run(trainer(STAGES[stage](), tmp_path / name, config)).reporter.rows
        first, last = (sum(row[name] for row in part) / 10 for part in (rows[:10], rows[-10:]))
        assert last < 0.9 * first, stage


def test_samples_are_made_in_their_cadence_and_at_the_end(tmp_path: Path) -> None:
    trained = trainer(diffusion_task(), tmp_path, small_optim(steps=8, sample_every=3, checkpoint_every=5))
    seen: list[int] = []
    trained.run(StopFlag(), seen.append)
    assert seen == [3, 6, 8]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000005", "step-00000008"]


def test_time_is_up(tmp_path: Path) -> None:
    outcome = trainer(diffusion_task(), tmp_path).run(StopFlag(minutes=0))
    assert (outcome.finished, outcome.step, outcome.images) == (False, 0, 0)
    assert trainer(diffusion_task(), tmp_path).resume() == 0


def test_out_of_memory_says_what_to_try(tmp_path: Path) -> None:
    task = diffusion_task()

    def loss(*args: object) -> Loss:
        raise torch.OutOfMemoryError("CUDA out of memory")

    task.loss = loss  # type: ignore[method-assign]
    with pytest.raises(MachineError, match=r"with 2 pictures at a time; try --set prior\.train\.accumulate=4"):
        trainer(task, tmp_path, small_optim(accumulate=2)).run(StopFlag())


class Ramp(nn.Module):
    """One weight that is set from outside, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))


@pytest.mark.parametrize("tensor", [False, True])
def test_average_by_hand(tensor: bool) -> None:
    live = Ramp()
    ema, expected = Ema({"ramp": live}, 0.6), 0.0
    for n in range(12):
        with torch.no_grad():
            live.weight.fill_(n)
            live.count += 1
        rate = ema.next_rate()
        ema.update(torch.tensor(rate) if tensor else rate)
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
        torch.testing.assert_close(ema.modules["ramp"].weight, torch.full((2,), expected))
    assert ema.num_updates == 12
    assert int(ema.modules["ramp"].count) == 12
    assert not any(p.requires_grad for p in ema.modules["ramp"].parameters())
    assert not ema.modules["ramp"].training


def test_no_average_where_none_is_wanted(tmp_path: Path) -> None:
    trained = run(trainer(diffusion_task(), tmp_path, small_optim(steps=2, ema_decay=0.0)))
    assert trained.state.ema is None
    assert not any(n.startswith("ema.") for n in trained.state.tensors())
    assert trainer(diffusion_task(), tmp_path, small_optim(steps=2, ema_decay=0.0)).resume() == 2
