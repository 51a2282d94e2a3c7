"""What a stream costs on pictures and what its receiver sees after each level, beside the KL divergences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.diffusion.bounds import Estimate
from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError
from sfumato.explain.rate_distortion import (
    Curve,
    Estimates,
    check_pixels,
    clipped,
    latent_sample,
    log_plan,
    parts,
    squared_error,
)
from sfumato.explain.stream import MAX_LEVELS, Stream, decode, encode
from sfumato.first_stages.base import FirstStage
from sfumato.first_stages.identity import IdentityFirstStage
from sfumato.generation.pixels import to_unit
from sfumato.noise import PictureNoise


@dataclass(frozen=True)
class Streamed:
    """times (L + 1,), falling from 1; what the receiver has there: rate (L + 1,) bits per value of the picture as they stand in
    the file, its head included, ideal (L + 1,) the KL divergences of the same levels, rmse (L + 1,) on 0 ... 255. float64.

    received: decoding the file's bytes gave the sender's own reconstruction, bit for bit.
    """

    times: Tensor
    rate: Tensor
    ideal: Tensor
    rmse: Tensor
    num_bytes: int
    num_pictures: int
    received: bool

    @property
    def curve(self) -> Curve:
        """To be drawn beside others."""
        return Curve(self.times, self.rate, self.rmse, None, self.num_pictures)

    def excess(self, fine: Curve) -> Tensor:
        """The rate less that of a finer curve of the same model at the same times, (L + 1,) bits per value."""
        rate = np.interp(self.times.numpy(), fine.times.numpy()[::-1], fine.rate.numpy()[::-1])
        return self.rate - torch.from_numpy(rate)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in vars(self).items()}


@torch.no_grad()
def streamed(
    first_stage: FirstStage,
    schedule: Schedule,
    estimates: Estimates,
    pixels: Tensor,
    num_levels: int,
    *,
    exact: bool = False,
    seed: int = 0,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
) -> Streamed:
    """Encode and decode pictures (N, C, H, W) uint8 by `num_levels` levels, equal in log SNR; latents are those of `curve`.

    What the model is told of the pictures counts as known to the receiver. Raises `InputError`: no pictures, another number
    of levels than 1 ... 16, no `constriction`.
    """
    check_pixels(pixels)
    if not 1 <= num_levels <= MAX_LEVELS:
        raise InputError(f"{num_levels} levels of a stream: expected 1 ... {MAX_LEVELS}.")
    times = log_plan(schedule, num_levels + 1)[:-1]
    in_pixels = isinstance(first_stage, IdentityFirstStage)
    latents = []
    for part in parts(len(pixels), batch_size):
        noise = PictureNoise(range(seed + part.start, seed + part.stop))
        latents.append(latent_sample(first_stage.posterior(to_unit(pixels[part].to(device))), noise).cpu())

    def told(part: slice) -> Estimate:
        return clipped(estimates(part)) if in_pixels else estimates(part)

    errors: list[float] = []

    def on_level(_: int, x_hat: Tensor) -> None:
        error = 0.0
        for part in parts(len(pixels), batch_size):
            seen = first_stage.decode(x_hat[part].to(device, torch.float32))
            error += squared_error(seen, to_unit(pixels[part].to(device)))
        errors.append(error)

    same: dict[str, Any] = {"device": device}
    made = encode(
        told, schedule, torch.cat(latents), times, seed=seed, batch_size=batch_size, exact=exact, on_level=on_level, **same
    )
    data = made.stream.to_bytes()
    z, x_hat = decode(told, schedule, Stream.from_bytes(data), times, **same)
    bits = torch.tensor([made.stream.head_bits, *(level.num_bits for level in made.stream.levels)], dtype=torch.float64)
    ideal = torch.cat([torch.zeros(1, dtype=torch.float64), made.ideal]).cumsum(0)
    return Streamed(
        times=times,
        rate=bits.cumsum(0) / pixels.numel(),
        ideal=ideal / pixels.numel(),
        rmse=(torch.tensor(errors, dtype=torch.float64) / pixels.numel()).sqrt(),
        num_bytes=len(data),
        num_pictures=len(pixels),
        received=torch.equal(z, made.z) and torch.equal(x_hat, made.x_hat),
    )


def table(found: Streamed, fine: Curve) -> str:
    """A row a level: the file's bits beside both KL divergences, as text."""
    lines = ["stream: t   bits/value   KL of its levels   above the curve   RMSE (0-255)"]
    for row in zip(found.times, found.rate, found.ideal, found.excess(fine), found.rmse, strict=True):
        t, rate, ideal, excess, rmse = (float(v) for v in row)
        lines.append(f"{t:9.3f} {rate:12.4f} {ideal:18.4f} {excess:17.4f} {rmse:14.3f}")
    each = found.num_bytes / found.num_pictures
    same = "received bit for bit" if found.received else "NOT received: this machine's estimates are not repeatable"
    return "\n".join([*lines, f"{found.num_bytes} bytes, {each:.0f} a picture, {len(found.times) - 1} levels; {same}", ""])
