"""Muon against theory, torch.optim.Muon and torch.optim.AdamW."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sfumato.cli.train import read_config
from sfumato.errors import InputError
from sfumato.training.muon import COEFFICIENTS, Group, Muon, orthogonalize
from sfumato.training.state import TrainState, make_optimizer
from tiny_runs import CPU, diffusion_task, small_optim

SHAPES = [(6, 6), (12, 20), (20, 12), (12, 20), (1, 9), (20, 12), (64, 8)]
ONE_STEP = {"lr": 3e-3, "weight_decay": 0.1}
MUON = small_optim(optimizer="muon", weight_decay=0.1)


def drawn(shapes: list[tuple[int, ...]], seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=rng) for shape in shapes]


def parameters(shapes: list[tuple[int, ...]], device: str = "cpu") -> list[nn.Parameter]:
    return [nn.Parameter(value.to(device)) for value in drawn(shapes, 0)]


def steps(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], count: int = 5, tensor: bool = False) -> None:
    """`count` steps down gradients that depend on the number of the step alone; the rate changes as a schedule's does."""
    for step in range(count):
        for p, gradient in zip(params, drawn([tuple(p.shape) for p in params], 100 + step), strict=True):
            p.grad = torch.empty_like(p).copy_(gradient)
        for group in optimizer.param_groups:
            rate = ONE_STEP["lr"] * (1 + step)
            group["lr"] = torch.tensor(rate, device=params[0].device) if tensor else rate
        optimizer.step()


def muon(params: list[nn.Parameter], device: str = "cpu") -> Muon:
    groups = [Group(params, ONE_STEP["weight_decay"], orthogonal=True)]
    return Muon(groups, ONE_STEP["lr"], (0.9, 0.99), torch.device(device))


def oracle(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Muon(params, **ONE_STEP, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw")


def scalar_iteration(s: Tensor) -> Tensor:
    """What five iterations do to a singular value: s <- a s + b s^3 + c s^5."""
    a, b, c = COEFFICIENTS
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    return s


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16), (1, 7)])
def test_the_result_is_nearly_orthogonal(shape: tuple[int, int]) -> None:
    """U S V^T -> U f(S / |S|) V^T with f by scalars; f is within 0.68 and 1.21 for what is not tiny beside the norm."""
    x = torch.stack(drawn([shape] * 3, 1)).double()
    left, s, right = torch.linalg.svd(x, full_matrices=False)
    wanted = scalar_iteration(s / s.norm(dim=1, keepdim=True))
    found = orthogonalize(x, torch.float64)
    torch.testing.assert_close(found, left @ torch.diag_embed(wanted) @ right)
    values = torch.linalg.svdvals(orthogonalize(x.float(), torch.float32))
    assert ((values > 0.67) & (values < 1.22))[s / s.norm(dim=1, keepdim=True) > 0.01].all()


def test_zeros_stay_zeros() -> None:
    assert not orthogonalize(torch.zeros(2, 3, 4), torch.float32).any()


def test_same_steps_as_torch_without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.optim.Muon's arithmetic left in fp32; 1e-5 is what other orders of addition make."""
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    steps(muon(ours), ours)
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    steps(oracle(theirs), theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_steps_as_torch_but_for_its_rounding(dtype: torch.dtype) -> None:
    """As it is, torch.optim.Muon rounds to bf16 (2^-9) some fifteen times, as we do on a GPU: a few percent of the way."""
    ours, theirs, begin = parameters(SHAPES), parameters(SHAPES), parameters(SHAPES)
    optimizer = muon(ours)
    optimizer.dtype = dtype
    steps(optimizer, ours)
    steps(oracle(theirs), theirs)
    for a, b, start in zip(ours, theirs, begin, strict=True):
        assert (a - b).norm() < 0.03 * (b - start).norm()


def test_convolutions_are_matrices() -> None:
    """(out, in, kh, kw) goes the way of (out, in kh kw); Conv1d alike."""
    shapes = [(6, 4, 3, 3), (6, 4, 3, 3), (40, 4, 3, 3), (8, 8, 1, 1), (5, 7, 3)]
    convs, flat = parameters(shapes), [nn.Parameter(p.detach().flatten(1)) for p in parameters(shapes)]
    one, other = muon(convs), muon(flat)
    for step in range(3):
        for p, q, gradient in zip(convs, flat, drawn(shapes, step), strict=True):
            p.grad, q.grad = gradient, gradient.flatten(1)
        one.step()
        other.step()
    for p, q in zip(convs, flat, strict=True):
        torch.testing.assert_close(p.flatten(1), q)


def test_memory_layout_changes_nothing() -> None:
    """Columns of another order are orthogonal alike, up to the order of addition."""
    shapes: list[tuple[int, ...]] = [(6, 4, 3, 3), (6, 4, 3, 3), (40, 4, 3, 3), (8, 8, 1, 1)]
    plain, last = parameters(shapes), parameters(shapes)
    for p in last:
        p.data = p.data.contiguous(memory_format=torch.channels_last)
    strides = [p.stride() for p in last]
    steps(muon(plain), plain)
    steps(muon(last), last)
    assert [p.stride() for p in last] == strides
    for p, q in zip(plain, last, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shapes", [[(5,), (), (7,)], [(30, 8), (4,)]], ids=["vectors", "a table"])
def test_the_rest_takes_adamws_steps(shapes: list[tuple[int, ...]]) -> None:
    ours, theirs = parameters(shapes), parameters(shapes)
    steps(Muon([Group(ours, 0.1, orthogonal=False)], 1e-3, (0.8, 0.95), CPU), ours)
    steps(torch.optim.AdamW(theirs, lr=1e-3, betas=(0.8, 0.95), weight_decay=0.1), theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_a_rate_that_is_a_tensor() -> None:
    """As a recorded step needs it; in fp32, so the last digits differ."""
    plain, other = parameters(SHAPES), parameters(SHAPES)
    steps(muon(plain), plain)
    steps(muon(other), other, tensor=True)
    for a, b in zip(plain, other, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


def test_a_parameter_without_gradient_stays() -> None:
    params = parameters([(4, 4), (4, 4)])
    before = params[1].detach().clone()
    optimizer = muon(params)
    params[0].grad = torch.ones(4, 4)
    optimizer.step()
    assert torch.equal(params[1], before)
    assert params[1] not in optimizer.state


def test_matrices_are_orthogonalized_and_embeddings_and_vectors_are_not() -> None:
    task = diffusion_task()
    state = TrainState(task, MUON, CPU)
    kind = {id(p): g["orthogonal"] for g in state.optimizers["prior"].param_groups for p in g["params"]}
    tables = ("tokens.weight", "positions.weight")
    seen = set()
    for module in task.modules().values():
        for name, p in module.named_parameters():
            seen.add((name.endswith(tables), p.ndim >= 2))
            assert kind[id(p)] == (p.ndim >= 2 and not name.endswith(tables)), name
    assert seen == {(True, True), (False, True), (False, False)}


def test_one_rate_for_all_and_decay_for_matrices() -> None:
    groups = make_optimizer(parameters([(2, 2), (3,), ()]), MUON, 1e-3, CPU).param_groups
    assert [(g["weight_decay"], len(g["params"])) for g in groups] == [(0.1, 1), (0.0, 2)]
    assert {g["lr"] for g in groups} == {1e-3}


def test_an_unknown_optimizer_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"prior\.train\.optimizer.*moun.*muon"):
        read_config("tiny", ["prior.train.optimizer=moun"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_goes_the_same_way_and_never_waits() -> None:
    """In bf16 there: a few percent of the way apart (as torch.optim.Muon above)."""
    shapes = [*SHAPES, (6, 4, 3, 3), (6, 4, 3, 3)]
    ours, theirs, begin = parameters(shapes), parameters(shapes, "cuda"), parameters(shapes)
    steps(muon(ours), ours)
    optimizer = muon(theirs, "cuda")
    steps(optimizer, theirs)
    for a, b, start in zip(ours, theirs, begin, strict=True):
        assert (a - b.cpu()).norm() < 0.03 * (a - start).norm()
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(1e-3, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
