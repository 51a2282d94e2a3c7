"""The GAN's task: who descends what, the penalties in closed form, equal runs, and the eight-mode mixture."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.conditioners.label import ClassLabel, LabelConfig
from sfumato.conditioners.none import Unconditional
from sfumato.errors import InputError
from sfumato.first_stages.base import Decoder
from sfumato.first_stages.generator import GeneratorFirstStage
from sfumato.latent import Vector
from sfumato.networks.discriminator import Discriminator, DiscriminatorConfig
from sfumato.networks.generator import GeneratorConfig
from sfumato.training.conditions import Pixels, Stored
from sfumato.training.tasks.gan import GanConfig, GanTask, LabelledPixels
from tiny_runs import CPU, all_pixels, awaken, differences, run, small_config, small_optim, trainer

NAMES = ("red", "green", "blue")


def pictures_task(classes: bool = False, seed: int = 0, as_context: bool = False, dim: int = 6, **config: Any) -> GanTask:
    """Eleven pictures of 16 pixels; with `classes` three labels and the null class, embedded in two of z's numbers."""
    torch.manual_seed(seed)
    count = len(NAMES) + 1 if classes else 0
    conditioner = ClassLabel(LabelConfig(NAMES, dim=2, as_context=as_context)) if classes else Unconditional()
    generator = GeneratorFirstStage(GeneratorConfig(3, dim=dim, widths=(8, 8, 4), mapping_width=8))
    discriminator = Discriminator(DiscriminatorConfig(3, widths=(4, 8, 8), num_classes=count))
    pixels = all_pixels()
    labels = conditioner.prepare([NAMES[i % 3] if classes else "" for i in range(len(pixels))])[:, None]
    source = LabelledPixels(
        Pixels(list(pixels), pixels, CPU),  # type: ignore[arg-type]  # resident: only the length is asked for
        Stored(labels, torch.ones(len(pixels), dtype=torch.int64), CPU),
        seed=0,
        flip=True,
    )
    return GanTask(generator, conditioner, discriminator, GanConfig(**config), source)


TASKS: dict[str, Callable[[], GanTask]] = {
    "non-saturating, R1": pictures_task,
    "hinge, no penalty": lambda: pictures_task(game="hinge", r1=0.0),
    "relativistic, R1, R2, classes": lambda: pictures_task(True, game="relativistic", r2=1.0),
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TASKS)
def test_each_loss_reaches_all_of_its_own_parameters_and_none_of_the_other(name: str) -> None:
    task = TASKS[name]()
    for module in task.modules().values():
        awaken(module)
    groups = task.parameters()
    names = {id(p): f"{m}.{n}" for m, module in task.modules().items() for n, p in module.named_parameters()}
    held = [id(p) for group in groups.values() for p in group]
    assert list(groups) == ["generator", "discriminator"]
    assert len(held) == len(set(held))
    assert set(held) == set(names)
    batch = dict(task.batch(0, small_optim(batch_size=8), rng()))
    if task.discriminator.config.num_classes:
        batch["prepared"] = torch.arange(8) % task.discriminator.config.num_classes  # every class, the null class too
    for optimizer, own in groups.items():
        for module in task.modules().values():
            module.zero_grad(set_to_none=True)
        task.loss(optimizer, batch, 0, rng(1)).total.backward()
        asleep = {names[id(p)] for p in own if p.grad is None or not p.grad.any()}
        # between pairs, and inside both hinges, a shift of all logits changes nothing
        assert asleep <= (set() if name.startswith("non-saturating") else {"discriminator.out.bias"})
        others = [p for other, group in groups.items() if other != optimizer for p in group]
        assert all(p.grad is None for p in others)
        assert all(p.requires_grad for p in [*own, *others])


class Line(Decoder):
    """G(z) = b z, of two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.latent, self.channels, self.preview = Vector(2), 1, None
        self.b = nn.Parameter(torch.tensor(0.5))

    def decode(self, z: Tensor) -> Tensor:
        return self.b * z


class Bowl(nn.Module):
    """D(x) = a |x|^2 / 2: its slope is a x, the penalty a^2 E|x|^2 / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.a * x.square().sum(1) / 2


class Points:
    """Eight Gaussians of deviation 0.05 on the unit circle, a new batch each step."""

    DEVIATION = 0.05

    def batch(self, step: int, batch_size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        mode = torch.randint(8, (batch_size,), generator=rng)
        x = circle()[mode] + self.DEVIATION * torch.randn(batch_size, 2, generator=rng)
        return x, torch.zeros(batch_size, dtype=torch.int64)


def test_a_gan_is_told_of_by_fields_that_a_run_has() -> None:
    """The message about a loss that is not finite names SECTION.train.learning_rate."""
    assert hasattr(small_config(), pictures_task().section)


def circle() -> Tensor:
    """(8, 2) centres of the mixture."""
    angle = torch.arange(8) * math.pi / 4
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_lazy_penalties_in_closed_form() -> None:
    task = GanTask(Line(), Unconditional(), Bowl(), GanConfig(game="hinge", r1=2.0, r2=5.0, penalty_every=4), Points())
    batch = task.batch(0, small_optim(batch_size=16), rng())
    z = torch.randn(16, 2, generator=rng(1))
    real, fake = batch["x"].square().sum(1), (0.5 * z).square().sum(1)
    lazy = task.loss("discriminator", batch, 4, rng(1))
    plain = task.loss("discriminator", batch, 5, rng(1))
    hinge = 0.5 * ((1 - 1.5 * real).relu().mean() + (1 + 1.5 * fake).relu().mean())
    r1, r2 = 0.5 * 9 * real.mean(), 0.5 * 9 * fake.mean()
    torch.testing.assert_close(plain.total.detach(), hinge)
    torch.testing.assert_close(lazy.parts["gan/r1"], r1)
    torch.testing.assert_close(lazy.parts["gan/r2"], r2)
    torch.testing.assert_close(lazy.total.detach(), hinge + 4 * (2 * r1 + 5 * r2))
    assert not {"gan/r1", "gan/r2"} & plain.parts.keys()
    assert task.phase(4) == task.phase(8) != task.phase(5)


def test_generator_descends_the_logits_of_its_pictures() -> None:
    """g = -E[a b^2 |z|^2 / 2]: its slope in b is -a b E|z|^2."""
    task = GanTask(Line(), Unconditional(), Bowl(), GanConfig(game="hinge"), Points())
    task.loss("generator", task.batch(0, small_optim(batch_size=16), rng()), 0, rng(1)).total.backward()
    z = torch.randn(16, 2, generator=rng(1))
    torch.testing.assert_close(task.first_stage.b.grad, -3.0 * 0.5 * z.square().sum(1).mean())


def test_generator_may_step_less_often() -> None:
    task = pictures_task(generator_every=3)
    assert [step for step in range(7) if task.active("generator", step)] == [0, 3, 6]
    assert all(task.active("discriminator", step) for step in range(7))
    assert task.phase(0) != task.phase(1)
    assert task.learning_rate("discriminator", small_optim()) == task.learning_rate("generator", small_optim())


def test_a_class_is_the_end_of_z() -> None:
    task = pictures_task(True)
    seen: list[Tensor] = []
    task.first_stage.decode = lambda z: seen.append(z) or z  # type: ignore[method-assign,assignment,func-returns-value]
    task.generate(torch.tensor([2, 0]), rng())
    assert task.noise_dim == 4
    torch.testing.assert_close(seen[0][:, :4], torch.randn(2, 4, generator=rng()))
    torch.testing.assert_close(seen[0][:, 4:], task.conditioner.embedding.weight[[2, 0]])


@pytest.mark.parametrize(
    "wrong",
    [{"r1": -1.0}, {"penalty_every": 0}, {"generator_every": 0}, {"game": "chess"}, {"classes": True, "dim": 2},
     {"classes": True, "as_context": True}],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^gan: .*(expected|make dim larger)"):
        pictures_task(**wrong)


def test_two_runs_are_equal_and_the_average_follows(tmp_path: Path) -> None:
    config = small_optim(steps=3, accumulate=2, learning_rate=1e-3, betas=(0.0, 0.99))
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        task = pictures_task(True, game="relativistic", r1=0.1, r2=0.1)
        runs.append(run(trainer(task, tmp_path / name, config, seed)))
    first, second, other = (r.reporter.rows for r in runs)
    assert len(first) == 3
    assert first == second
    assert first != other
    assert {"generator/total", "discriminator/total", "gan/r1", "gan/r2", "gan/logit_gap"} <= first[0].keys()
    average = runs[0].state.ema.modules
    assert set(average) == {"first_stage", "conditioner"}
    fresh = pictures_task(True).first_stage
    assert any(not torch.equal(p, q) for p, q in zip(average["first_stage"].parameters(), fresh.parameters()))


def test_a_run_goes_on_where_it_was_left(tmp_path: Path) -> None:
    """Lazy steps of both kinds on either side of the cut."""
    config = small_optim(steps=5, betas=(0.0, 0.99))
    ended = []
    for name, cuts in (("whole", [5]), ("cut", [3, 5])):
        (tmp_path / name).mkdir()
        for steps in cuts:
            task = pictures_task(True, penalty_every=2, generator_every=2)
            other = trainer(task, tmp_path / name, dataclasses.replace(config, steps=steps, decay="constant"))
            ended.append(run(other).state)
    assert differences(ended[0].tensors(), ended[-1].tensors()) == []


def test_half_precision_runs(tmp_path: Path) -> None:
    task = pictures_task(game="relativistic", r2=1.0)
    done = run(trainer(task, tmp_path, small_optim(steps=2, precision="bf16")))
    assert len(done.reporter.rows) == 2
    assert not done.reporter.warnings


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Linear(inputs, 64), nn.LeakyReLU(0.2)]
        inputs = 64
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class PointGenerator(Decoder):
    """Noise of four numbers -> a point of the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.latent, self.channels, self.preview = Vector(4), 1, None
        self.network = mlp(4, 2)

    def decode(self, z: Tensor) -> Tensor:
        return self.network(z)


class PointDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = mlp(2, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.network(x)[:, 0]


def modes_found(points: Tensor) -> tuple[int, float]:
    """How many centres have 1 % of the points within 3 deviations, and the share of points that are so near to one."""
    near = torch.cdist(points, circle()) < 3 * Points.DEVIATION  # (N, 8)
    return int((near.float().mean(0) >= 0.01).sum()), float(near.any(1).float().mean())


def mixture(directory: Path, steps: int, learning_rate: float = 2e-3, **config: Any) -> tuple[int, float]:
    """Train the pair of small networks; what its average draws."""
    torch.manual_seed(0)
    task = GanTask(PointGenerator(), Unconditional(), PointDiscriminator(), GanConfig(**config), Points())
    optim = small_optim(
        steps=steps, batch_size=128, learning_rate=learning_rate, betas=(0.0, 0.99), warmup_steps=0, ema_decay=0.98
    )
    state = run(trainer(task, directory, optim)).state
    with torch.no_grad():
        return modes_found(state.ema.modules["first_stage"].decode(torch.randn(2000, 4, generator=rng(7))))


def test_modes_of_the_mixture(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """A GAN owes nobody all eight modes; how many it found is written down. It may neither collapse nor spread all over."""
    modes, share = mixture(tmp_path, 400, r1=0.1)
    record_property("modes", modes)
    record_property("share near a mode", share)
    spread = 8 * math.pi * (3 * Points.DEVIATION) ** 2 * math.exp(-0.5) / (2 * math.pi)  # N(0, I)'s share, 5 %
    assert modes >= 4
    assert share > 2 * spread
