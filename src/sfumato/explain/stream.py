"""Progressive coding as a real stream: dithered quantization and an entropy coder (universal quantization: Ziv 1985).

The curve of `rate_distortion` counts KL divergences, which are met only by coders that nobody can run at this size. A stream
of a few levels t_0 = 1 > t_1 > ... > t_L > 0 sends at each, with s the time after t, a value whose mean is that of the chain,

    mu  = a z_t + b x_0           of q(z_s | z_t, x_0); at the first level, whose z_t is noise alone, alpha_s x_0
    k   = round(mu / w - u)       sent;  u ~ U(-1/2, 1/2), known to both sides
    z_s = w (k + u)               hence z_s - mu ~ U(-w/2, w/2), independent of mu

with w = sqrt(12) times q's deviation, so that z_s has its mean and variance (Agustsson & Theis 2020, arXiv 2006.09952; Yang,
Will & Mandt 2024, arXiv 2412.10935), or, `exact`, with w = 2 sqrt(v) times it for v ~ chi^2_3, known to both sides, so that z_s
has q itself: a Gaussian is that mixture of uniforms (Walker 1999, "The uniform power distribution"). The receiver expects

    mu ~ N(a z_t + b (c_0 + c_1 x_hat), (b e)^2),     x_hat the denoiser's estimate from z_t,

with a line c_0, c_1 and an error e for each level and channel, sent ahead for all pictures of the stream; k is coded under that
Gaussian's probability of rounding to it given u, by a range coder (Bamler 2022, arXiv 2201.01741).

What it costs above KL(N(mu, var) || N(expected mean, var + (b e)^2)): at most 1/2 log2(2 pi e / 12) = 0.2546 bits a value and
level if mu has that Gaussian (Zamir & Feder 1992), and 0.5207 with `exact`, mostly where the level itself is worth little: the
fewer levels the better, down to where a coarse chain loses more. A receiver who stops after any level has a picture.

Both sides have to compute the same x_hat to the last bit: decode on the machine type, release and thread count that encoded.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.diffusion.forward import coefficients
from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError
from sfumato.explain.rate_distortion import Estimates
from sfumato.noise import MAX_SEED

MAX_LEVELS = 16
MAGIC = b"SFMRD1\n\0"
HEAD = struct.Struct("<8I?")
"""N, C, h, w, seed, batch size, levels, 0, exact."""
LEVEL = struct.Struct("<2iI")
"""The smallest and the largest k, and how many words of 32 bits follow the lines."""
OTHER = 0x9E3779B9
"""Makes a picture's dither another sequence than the noise of the same seed, with which its latent may have been drawn."""
SMALLEST_SPREAD = 1e-4
"""Of what the receiver expects, in widths: no estimate is trusted to more."""

OnLevel = Callable[[int, Tensor], None]
"""(level, the estimate of x_0 (N, C, h, w) before it is read); after the last level once more."""


@dataclass(frozen=True)
class Level:
    """lines: (C, 3) fp32, c_0, c_1 and e of every channel. low, high: the range of k. words: the range coder's, uint32."""

    lines: np.ndarray[Any, np.dtype[np.float32]]
    low: int
    high: int
    words: np.ndarray[Any, np.dtype[np.uint32]]

    @property
    def num_bits(self) -> int:
        """Of this level in the file, its lines included."""
        return 8 * (LEVEL.size + 4 * (self.lines.size + self.words.size))


@dataclass(frozen=True)
class Stream:
    """Levels of N pictures together: shape is (N, C, h, w) of their latents; the dither of picture i has (seed + i) ^ OTHER."""

    shape: tuple[int, int, int, int]
    seed: int
    batch_size: int
    exact: bool
    levels: tuple[Level, ...]

    @property
    def head_bits(self) -> int:
        """Of what stands before the first level."""
        return 8 * (len(MAGIC) + HEAD.size)

    def to_bytes(self) -> bytes:
        """The whole file."""
        parts = [MAGIC, HEAD.pack(*self.shape, self.seed, self.batch_size, len(self.levels), 0, self.exact)]
        for level in self.levels:
            parts += [LEVEL.pack(level.low, level.high, len(level.words)), level.lines.astype("<f4").tobytes()]
            parts.append(level.words.astype("<u4").tobytes())
        return b"".join(parts)

    @staticmethod
    def from_bytes(data: bytes) -> Stream:
        """Raises `InputError` for what `to_bytes` has not written."""
        if not data.startswith(MAGIC) or len(data) < len(MAGIC) + HEAD.size:
            raise InputError("stream: these bytes do not begin as one; give what to_bytes wrote.")
        n, c, h, w, seed, batch_size, count, _, exact = HEAD.unpack_from(data, len(MAGIC))
        if not (min(n, c, h, w, batch_size) > 0 and 0 < count <= MAX_LEVELS):
            raise InputError(f"stream: {count} levels of shape {(n, c, h, w)}, expected 1 ... {MAX_LEVELS}, and no side 0.")
        at = len(MAGIC) + HEAD.size
        levels: list[Level] = []
        for _level in range(count):
            body = at + LEVEL.size
            low, high, num_words = LEVEL.unpack_from(data, at) if body <= len(data) else (0, 0, 1 << 32)
            at = body + 4 * (3 * c + num_words)
            if at > len(data) or low >= high:
                raise InputError(f"stream: cut or damaged in level {len(levels)}, after {len(data)} bytes.")
            lines = np.frombuffer(data, "<f4", 3 * c, body).reshape(c, 3)
            levels.append(Level(lines, low, high, np.frombuffer(data, "<u4", num_words, body + 12 * c).astype(np.uint32)))
        return Stream((n, c, h, w), seed, batch_size, exact, tuple(levels))


@dataclass(frozen=True)
class Coded:
    """What an encoder has: the stream; ideal (L,): the KL divergence of each level in bits, see the module; z and x_hat, what a
    receiver of the whole holds at last: z at t_L and the estimate of x_0 from it, (N, C, h, w) float64."""

    stream: Stream
    ideal: Tensor
    z: Tensor
    x_hat: Tensor


@torch.no_grad()
def encode(
    estimates: Estimates,
    schedule: Schedule,
    x_0: Tensor,
    times: Tensor,
    *,
    seed: int = 0,
    batch_size: int = 16,
    exact: bool = False,
    device: torch.device | str = "cpu",
    on_level: OnLevel | None = None,
) -> Coded:
    """x_0 (N, C, h, w) -> a stream of the levels `times` (L + 1,), from 1 down to above 0.

    Raises `InputError` for other times, for estimates that are not finite, and where `constriction` is missing.
    """
    _check_levels(times)
    coder = _constriction()
    x_0 = x_0.detach().cpu().double()
    shape = (x_0.shape[0], x_0.shape[1], x_0.shape[2], x_0.shape[3])
    receiver = _Receiver(estimates, schedule, times, shape, seed, batch_size, exact, device)
    levels: list[Level] = []
    ideal: list[float] = []
    for step in receiver.steps(on_level):
        lines = _lines(receiver.x_hat, x_0)
        mean, spread = step.expected(receiver.x_hat, lines)
        k = ((step.of_z + step.b * x_0) / step.width - step.dither).round()
        symbols = k.flatten().to(torch.int32).numpy()
        low, high = int(symbols.min()), int(symbols.max()) + 1  # of one value there is no distribution
        encoder = coder.stream.queue.RangeEncoder()
        encoder.encode(symbols, coder.stream.model.QuantizedGaussian(low, high), mean, spread)
        levels.append(Level(lines, low, high, encoder.get_compressed()))
        errors = torch.from_numpy(lines[:, 2].astype(np.float64))
        ideal.append(float((0.5 * torch.log2(1 + (step.b * errors).square() / step.variance)).sum()) * x_0[:, 0].numel())
        receiver.take(step, k)
    stream = Stream(shape, seed, batch_size, exact, tuple(levels))
    return Coded(stream, torch.tensor(ideal, dtype=torch.float64), receiver.z, receiver.x_hat)


@torch.no_grad()
def decode(
    estimates: Estimates,
    schedule: Schedule,
    stream: Stream,
    times: Tensor,
    *,
    device: torch.device | str = "cpu",
    on_level: OnLevel | None = None,
) -> tuple[Tensor, Tensor]:
    """z at t_L and the estimate of x_0 from it, (N, C, h, w) float64: the encoder's own `Coded.z` and `Coded.x_hat`.

    With fewer `times` than the stream has levels the rest is not read. Raises `InputError` as `encode` does.
    """
    _check_levels(times)
    if len(times) - 1 > len(stream.levels):
        raise InputError(f"stream: {len(stream.levels)} levels, and times for {len(times) - 1}; give those it was made with.")
    coder = _constriction()
    receiver = _Receiver(estimates, schedule, times, stream.shape, stream.seed, stream.batch_size, stream.exact, device)
    for step, level in zip(receiver.steps(on_level), stream.levels):
        mean, spread = step.expected(receiver.x_hat, level.lines)
        model = coder.stream.model.QuantizedGaussian(level.low, level.high)
        symbols = coder.stream.queue.RangeDecoder(level.words).decode(model, mean, spread)
        receiver.take(step, torch.from_numpy(symbols).double().view(stream.shape))
    return receiver.z, receiver.x_hat


@dataclass(frozen=True)
class _Step:
    """One level before it is read. of_z: a z_t; width broadcasts to dither, (N, C, h, w); variance: of q(z_s | z_t, x_0)."""

    of_z: Tensor
    b: float
    variance: float
    width: Tensor
    dither: Tensor

    def expected(self, x_hat: Tensor, lines: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[Any, Any]:
        """Mean and deviation of the Gaussian that is rounded to k, in units of the width: flat float64 arrays."""
        offset, gain, error = torch.from_numpy(lines.astype(np.float64)).view(1, -1, 1, 1, 3).unbind(-1)
        mean = (self.of_z + self.b * (offset + gain * x_hat)) / self.width - self.dither
        spread = (self.b * error / self.width).clamp_min(SMALLEST_SPREAD).expand_as(mean)
        return mean.flatten().numpy(), spread.flatten().numpy()


class _Receiver:
    """What both sides know after each level. z: (N, C, h, w) float64 at the time reached; x_hat: the estimate from it."""

    def __init__(
        self,
        estimates: Estimates,
        schedule: Schedule,
        times: Tensor,
        shape: tuple[int, int, int, int],
        seed: int,
        batch_size: int,
        exact: bool,
        device: torch.device | str,
    ):
        if not 0 <= seed <= MAX_SEED - shape[0] + 1:
            raise InputError(f"seed: got {seed} for {shape[0]} pictures, expected from 0 to {MAX_SEED - shape[0] + 1}.")
        self.estimates, self.schedule, self.times, self.shape = estimates, schedule, times.cpu().double(), shape
        self.batch_size, self.exact, self.device = batch_size, exact, device
        self.generators = [torch.Generator("cpu").manual_seed((seed + i) ^ OTHER) for i in range(shape[0])]
        self.z = self._drawn(torch.randn)
        self.x_hat = torch.empty(0)

    def steps(self, on_level: OnLevel | None) -> Iterator[_Step]:
        """Each level in turn; `take` has to be called before the next."""
        for index in range(len(self.times)):
            self.x_hat = self._estimate(self.times[index])
            if on_level is not None:
                on_level(index, self.x_hat)
            if index + 1 < len(self.times):
                yield self._step(self.times[index + 1 : index + 2], self.times[index : index + 1], first=index == 0)

    def take(self, step: _Step, k: Tensor) -> None:
        """z_s from what was sent."""
        self.z = step.width * (k + step.dither)

    def _step(self, s: Tensor, t: Tensor, first: bool) -> _Step:
        if first:
            alpha, sigma = (float(v) for v in self.schedule(s))
            a, b, variance = 0.0, alpha, sigma**2
        else:
            c = coefficients(self.schedule, s, t)
            a, b, variance = float(c.of_x_t), float(c.of_x_0), float(c.posterior)
        dither = self._drawn(torch.rand) - 0.5
        width = torch.tensor(math.sqrt(12 * variance), dtype=torch.float64)
        if self.exact:
            chi = self._drawn(torch.randn).square() + self._drawn(torch.randn).square() + self._drawn(torch.randn).square()
            width = 2 * math.sqrt(variance) * chi.sqrt()
        return _Step(a * self.z, b, variance, width, dither)

    def _estimate(self, t: Tensor) -> Tensor:
        found = []
        for start in range(0, self.shape[0], self.batch_size):
            part = slice(start, min(start + self.batch_size, self.shape[0]))
            z = self.z[part].to(self.device, torch.float32)
            found.append(self.estimates(part)(z, t.to(z).expand(len(z))).cpu().double())
        x_hat = torch.cat(found)
        if not bool(x_hat.isfinite().all()):
            raise InputError(
                f"stream: the model's estimate at t = {float(t):.3g} is not finite, so nothing can be coded by it."
            )
        return x_hat

    def _drawn(self, draw: Callable[..., Tensor]) -> Tensor:
        return torch.stack([draw(self.shape[1:], generator=g, dtype=torch.float64) for g in self.generators])


def _lines(x_hat: Tensor, x_0: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(C, 3): the least squares line from x_hat to x_0 in every channel, and the root of what it leaves."""
    x, y = (v.transpose(0, 1).flatten(1) for v in (x_hat, x_0))  # (C, N h w)
    centred = x - x.mean(1, keepdim=True)
    power = centred.square().sum(1)
    gain = torch.where(power > 0, (centred * y).sum(1) / power, 0.0)
    offset = y.mean(1) - gain * x.mean(1)
    line = torch.stack([offset, gain], 1).float().double()  # as they are sent
    error = (y - line[:, :1] - line[:, 1:] * x).square().mean(1).sqrt()
    return torch.cat([line, error[:, None]], 1).float().numpy()


def _check_levels(times: Tensor) -> None:
    fall = times.ndim == 1 and 2 <= len(times) <= MAX_LEVELS + 1 and bool((times.diff() < 0).all())
    if not fall or float(times[0]) != 1 or float(times[-1]) <= 0:
        raise InputError(
            f"times of a stream: got {times.numel()}, expected 2 ... {MAX_LEVELS + 1} that fall from 1 and end above 0."
        )


def _constriction() -> Any:
    try:
        import constriction
    except ImportError:
        raise InputError("a stream needs the package constriction: pip install 'sfumato[stream]'.") from None
    return constriction
