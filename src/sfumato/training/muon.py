"""Muon: momentum whose matrices are made orthogonal (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    m <- mu m + (1 - mu) g,   u = mu m + (1 - mu) g                         (Nesterov momentum)
    X = u / |u|,   five times  X <- a X + (b G + c G^2) X,   G = X X^T      (Newton-Schulz: singular values go near 1)
    w <- (1 - lr decay) w - lr 0.2 sqrt(max(rows, columns)) X               (Liu et al. 2025, arXiv 2502.16982)

The last line's scale gives an update the root mean square that AdamW's has, so AdamW's learning rate and decay carry over.
What is no matrix (vectors, tables of embeddings) takes AdamW's step, under the same learning rate.

Small networks have hundreds of matrices of few shapes. All of one shape are worked on as one stack: a step launches some
thirty kernels a shape, not a parameter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's a, b, c: steepest at 0, so that small singular values rise fastest
ITERATIONS = 5
MOMENTUM = 0.95
SMALLEST_NORM = 1e-7  # a gradient of zeros stays one
ADAMW_EPS = 1e-8


@dataclass(frozen=True)
class Group:
    """Parameters that are treated alike. `orthogonal`: Muon's step, for two dimensions or more; else AdamW's."""

    parameters: list[Parameter]
    weight_decay: float
    orthogonal: bool


def orthogonalize(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(K, rows, columns) -> the same in `dtype`, with singular values of about 0.7 to 1.2 and the same singular vectors."""
    if x.shape[1] > x.shape[2]:
        return orthogonalize(x.mT, dtype).mT
    a, b, c = COEFFICIENTS
    x = (x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp_min(SMALLEST_NORM)).to(dtype)
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.mT)  # (K, rows, rows): the small side
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Muon for matrices, convolutions taken as (out, in kh kw); AdamW with `betas` for the rest.

    Orthogonalizes in bf16 on GPUs that have it, else in fp32; nothing waits for the device. With learning rates that are
    tensors () on the device a step can be recorded as a CUDA graph.
    """

    def __init__(self, groups: Iterable[Group], learning_rate: float, betas: tuple[float, float], device: torch.device):
        made = []
        for group in groups:
            assert not group.orthogonal or all(p.ndim >= 2 for p in group.parameters), "a vector cannot be orthogonal"
            made.append({"params": group.parameters, "weight_decay": group.weight_decay, "orthogonal": group.orthogonal})
        fused = device.type == "cuda"  # also read by load_state_dict: where AdamW's count of steps lives
        super().__init__(made, {"lr": learning_rate, "betas": betas, "fused": fused})
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.dtype = torch.bfloat16 if fast else torch.float32

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of every parameter that has a gradient."""
        assert closure is None, "no closures"
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters and group["orthogonal"]:
                self._muon(parameters, group["lr"], group["weight_decay"])
            elif parameters:
                self._adamw(parameters, group)

    def _muon(self, parameters: list[Tensor], lr: float | Tensor, weight_decay: float) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {"momentum": torch.zeros_like(p)}
        momenta, gradients = [self.state[p]["momentum"] for p in parameters], [_gradient(p) for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        directions = torch._foreach_lerp(momenta, gradients, 1 - MOMENTUM)
        if weight_decay:
            torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        stacks: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for p, direction in zip(parameters, directions, strict=True):
            members, matrices = stacks.setdefault((p.shape, _channels_last(p)), ([], []))
            members.append(p)
            matrices.append(_as_matrix(direction, _channels_last(p)))
        for (shape, last), (members, matrices) in stacks.items():
            x = orthogonalize(torch.stack(matrices), self.dtype).to(members[0].dtype)  # (K, out, in kh kw)
            scale = 0.2 * max(x.shape[1:]) ** 0.5
            if isinstance(lr, Tensor):
                torch._foreach_add_(members, _from_matrices(x * (-lr * scale), shape, last))
            else:
                torch._foreach_add_(members, _from_matrices(x, shape, last), alpha=-lr * scale)

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                count = torch.zeros((), dtype=torch.float32, device=p.device if group["fused"] else "cpu")
                self.state[p] = {"step": count, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        states = [self.state[p] for p in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [_gradient(p) for p in parameters],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            capturable=isinstance(group["lr"], Tensor),
            weight_decay=group["weight_decay"],
            eps=ADAMW_EPS,
            maximize=False,
        )


def _gradient(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad


def _channels_last(p: Tensor) -> bool:
    return p.ndim == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)


def _as_matrix(x: Tensor, last: bool) -> Tensor:
    """(out, ...) -> (out, columns), the columns in the order of memory: orthogonality does not ask for their order."""
    return (x.movedim(1, -1) if last else x).flatten(1)


def _from_matrices(x: Tensor, shape: torch.Size, last: bool) -> list[Tensor]:
    """(K, out, columns) -> K tensors of `shape`, laid out as the parameters are, which `_foreach_add_` is quickest with."""
    if not last:
        return list(x.reshape(-1, *shape).unbind())
    out, channels, height, width = shape
    return list(x.reshape(-1, out, height, width, channels).movedim(-1, 2).unbind())
