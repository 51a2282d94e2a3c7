"""Known distortions do what they say, and the embedded distances rank them in order."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from sfumato.errors import InputError
from sfumato.evaluation.distortions import DISTORTIONS, Distortion, Ranking, blur, compressed, mosaic, noise, rank
from sfumato.evaluation.scoring import Scorer
from sfumato.generation.pixels import to_bytes, to_unit


def drawings(count: int, seed: int, side: int = 64) -> torch.Tensor:
    """Flat shapes on gradients: edges, areas and fine lines, (count, 3, side, side) uint8."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        ramp = np.linspace(*rng.integers(0, 256, (2, 3)), side)[:, None].repeat(side, 1)
        image = Image.fromarray(ramp.astype(np.uint8))
        draw = ImageDraw.Draw(image)
        for _ in range(5):
            box = np.sort(rng.integers(0, side, (2, 2)), 0).T.flatten()[[0, 2, 1, 3]].tolist()
            ink = tuple(rng.integers(0, 256, 3).tolist())
            (draw.ellipse, draw.rectangle, draw.line)[rng.integers(3)](box, fill=ink)
        found.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(found)


def test_blur_agrees_with_pillow() -> None:
    pixels = drawings(2, 0)
    for std in (1.0, 2.0):
        ours = to_bytes(blur(to_unit(pixels), std))
        for i in range(2):
            image = Image.fromarray(pixels[i].permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(std))
            theirs = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            inner = (slice(None), slice(8, -8), slice(8, -8))
            # Pillow's is three box filters, which come near a Gaussian
            assert (ours[i][inner].float() - theirs[inner].float()).abs().mean() < 1.5


def test_blur_of_an_impulse_is_the_gaussian() -> None:
    x = torch.zeros(1, 1, 21, 21)
    x[0, 0, 10, 10] = 1
    found = blur(x, 1.5)[0, 0]
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert float(found[10, 12] / found[10, 10]) == pytest.approx(math.exp(-4 / 4.5), rel=1e-4)


def test_noise_mosaic_and_jpeg() -> None:
    grey = torch.zeros(4, 3, 64, 64)
    spoiled = noise(grey, 16.0, torch.Generator().manual_seed(0))
    assert float(spoiled.std() * 127.5) == pytest.approx(16, rel=0.02)
    x = torch.arange(6.0).view(1, 1, 1, 6).expand(1, 1, 3, 6)
    assert mosaic(x, 4.0)[0, 0, 0].tolist() == [1.5, 1.5, 1.5, 1.5, 4.5, 4.5]
    pixels = to_unit(drawings(3, 0))
    errors = [float((compressed(pixels, q) - pixels).square().mean()) for q in (95.0, 70.0, 40.0, 15.0, 5.0)]
    assert errors == sorted(errors)


def test_strengths_rise() -> None:
    """In pixels every step of every distortion is worse than the one before."""
    pixels = to_unit(drawings(8, 1))
    for distortion in DISTORTIONS:
        errors = [
            float((distortion.apply(pixels, s, torch.Generator().manual_seed(0)) - pixels).square().mean())
            for s in distortion.strengths
        ]
        assert errors == sorted(errors), distortion.name
        assert len(set(errors)) == 4


def test_the_embedded_distances_rank_distortions_in_order() -> None:
    """The kernel distance at every step. The Frechet distance of 97 pictures, whose bias is large, up to the mosaic's last: of
    64 x 64 pixels 16 blocks are left, all pictures are nearly equal then and their covariance has shrunk."""
    found = rank(drawings(97, 2), drawings(97, 3), Scorer(resize=None))
    assert [r.distortion.name for r in found] == ["blur", "noise", "JPEG", "mosaic"]
    for ranking in found:
        assert ranking.kd_ordered, ranking
        steps = ranking.fd if ranking.distortion.name != "mosaic" else ranking.fd[:-1]
        assert dataclasses.replace(ranking, fd=steps).fd_ordered, ranking


def test_order_begins_at_the_floor() -> None:
    def ranking(floor: float, *fd: float) -> Ranking:
        return Ranking(DISTORTIONS[0], fd, (1.0, 2.0), floor, 0.0)

    assert ranking(1.0, 2.0, 3.0).fd_ordered
    assert not ranking(2.5, 2.0, 3.0).fd_ordered
    assert not ranking(1.0, 3.0, 2.0).fd_ordered
    assert ranking(1.0, 3.0, 2.0).kd_ordered


def test_nothing_spoiled_stays_at_the_floor(tmp_path: Path) -> None:
    same = Distortion("nothing", "", (1.0,), lambda x, s, rng: x)
    told: list[tuple[int, int]] = []

    def tell(*progress: Any) -> None:
        told.append(progress)

    (ranking,) = rank(drawings(25, 0, 32), drawings(25, 1, 32), Scorer("block2", None), [same], on_batch=tell)
    assert ranking.fd[0] == pytest.approx(ranking.fd_floor, rel=1e-9)
    assert told == [(1, 1)]
    for few in (0, 24):
        with pytest.raises(InputError, match=f"of {few} and 25 pictures needs"):
            rank(drawings(25, 0)[:few], drawings(25, 1), Scorer("block2", None))
    with pytest.raises(InputError, match="of 25 and 24 pictures needs 25 a side, for a covariance of 24 features"):
        rank(drawings(25, 0), drawings(24, 1), Scorer("block2", None))
