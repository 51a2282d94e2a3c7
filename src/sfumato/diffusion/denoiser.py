"""A denoiser: network + schedule + prediction = an estimate of x_0 from x_t.

The network is injected and called as `network(x_t, k, cond)`, with k (B,) what the schedule feeds it (the table index of a
discrete schedule), and answers in its own output space, where it is also trained (eq. 3 of arXiv 2112.10752 is the eps case).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfumato.conditioning import Conditioning
from sfumato.diffusion import prediction as predictions
from sfumato.diffusion.prediction import Prediction, rows
from sfumato.diffusion.schedule import Schedule

HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Denoised:
    """x_0: the estimate E[x_0 | x_t], fp32. log_variance: of the estimate, from networks that learn it.

    share: v (B, ...) of the reverse step's variance, where that is learned (`sfumato.diffusion.forward.learned_variance`).
    """

    x_0: Tensor
    log_variance: Tensor | None = None
    share: Tensor | None = None


class Denoiser(nn.Module):
    """E[x_0 | x_t, cond] by a network. Raises `InputError` when `prediction` is undefined under `schedule`.

    x_t, x_0, eps are (B, ...) and t is (B,) in [0, 1]. learns_variance: the network has twice the channels, of which the
    second half is 2 v - 1 of the reverse variance (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 15).
    """

    def __init__(self, network: nn.Module, schedule: Schedule, prediction: Prediction, learns_variance: bool = False):
        super().__init__()
        predictions.check(prediction, schedule)
        self.network = network
        self.schedule = schedule
        self.prediction = prediction
        self.learns_variance = learns_variance

    def forward(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Denoised:
        """The estimate of x_0 in fp32 (float64 if the network answers in it), whatever precision the network runs in."""
        alpha, sigma = self.schedule(t)
        output, share = self.parts(self.output(x_t, t, cond))
        return Denoised(predictions.to_x0(self.prediction, output, _at_least_fp32(x_t), alpha, sigma), share=share)

    def parts(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """The network's output in fp32, and v (B, ...) from it where the variance is learned."""
        output = _at_least_fp32(output)
        if not self.learns_variance:
            return output, None
        output, raw = output.chunk(2, dim=1)
        return output, (raw + 1) / 2

    def output(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The network's raw output, in the space of `target`. A network in half precision is given its own type."""
        kind = next((p.dtype for p in self.network.parameters()), x_t.dtype)
        if kind in HALVES and x_t.dtype != kind:
            x_t, cond = x_t.to(kind), cond.to(dtype=kind)
        result: Tensor = self.network(x_t, self.schedule.network_time(t), cond)
        return result

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What `output` should be at x_t = noised(x_0, eps, t)."""
        return predictions.target(self.prediction, x_0, eps, *self.schedule(t))

    def noised(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha_t x_0 + sigma_t eps."""
        alpha, sigma = self.schedule(t)
        return rows(alpha, x_0) * x_0 + rows(sigma, x_0) * eps


def _at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
