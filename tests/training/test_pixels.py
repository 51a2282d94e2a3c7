"""Pixels on the way in and out: bytes and [-1, 1], resident and streamed, sheets."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from faults import Disk, in_child, refuse
from sfumato.data.dataset import ImageDataset
from sfumato.data.folder import scan
from sfumato.data.order import batch_indices
from sfumato.errors import InputError, MachineError
from sfumato.first_stages.identity import IdentityConfig, IdentityFirstStage
from sfumato.generation.pixels import to_bytes, to_unit
from sfumato.losses.perceptual import PerceptualLoss
from sfumato.training.pixels import PixelSource
from sfumato.training.report import as_rgb, pairs_sheet, reconstruction_report, save_sheet, sheet
from sfumato.training.signals import StopFlag
from tiny_runs import CPU, all_pixels, awaken, small_first_stage, write_folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    return ImageDataset(scan(write_folder(tmp_path_factory.mktemp("d") / "p", 9)).records, 16)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_bytes_survive() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_unit(values)), values)
    assert to_unit(values)[[0, -1]].tolist() == [-1.0, 1.0]
    assert to_bytes(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


def test_streamed_batches_are_the_resident_ones(dataset: ImageDataset) -> None:
    resident = PixelSource(dataset, dataset.load_all(), CPU, seed=3)
    streamed = PixelSource(dataset, None, CPU, seed=3)
    for step in (0, 1, 2, 7, 8, 3):  # also after a jump, as a resumed run makes it
        a, b = resident.batch(step, 4, rng()), streamed.batch(step, 4, rng())
        assert torch.equal(a, b)
        assert torch.equal(a, to_unit(dataset.load_all()[batch_indices(9, 4, 3, step)]))
    assert streamed._stream is not None
    streamed._stream.close()


def test_in_order_is_every_picture_once(dataset: ImageDataset) -> None:
    everything = to_unit(dataset.load_all())
    for resident in (dataset.load_all(), None):
        source = PixelSource(dataset, resident, CPU, seed=3)
        assert torch.equal(torch.cat(list(source.in_order(4))), everything)
        assert torch.equal(torch.cat(list(source.in_order(4, flipped=True))), everything.flip(3))


def test_half_of_the_pictures_are_mirrored(dataset: ImageDataset) -> None:
    pixels = dataset.load_all()
    source, plain = PixelSource(dataset, pixels, CPU, 3, flip=True), PixelSource(dataset, pixels, CPU, 3)
    mirrored = 0
    for step in range(40):
        flipped = source.batch(step, 9, rng(step))
        for ours, theirs in zip(flipped, plain.batch(step, 9, rng(step)), strict=True):
            assert torch.equal(ours, theirs) or torch.equal(ours, theirs.flip(2))
            mirrored += not torch.equal(ours, theirs)
    assert 0.4 < mirrored / 360 < 0.6


def test_a_perfect_first_stage_has_a_perfect_report() -> None:
    report = reconstruction_report(IdentityFirstStage(IdentityConfig(3)), all_pixels(5), CPU, batch_size=2)
    assert report["ssim"] == pytest.approx(1)
    assert report["perceptual"] == pytest.approx(0, abs=1e-6)
    assert report["psnr"] >= 80
    assert report["pictures"] == 5
    assert "alpha_psnr" not in report


def test_transparent_pictures_are_reported_on_white_and_alpha_apart() -> None:
    """Numbers of the first three channels are those of an RGB model; alpha has its own, 100 where nothing is lost."""
    rgb = all_pixels(5)
    four = torch.cat([rgb, 255 - rgb[:, :1]], 1)
    perfect = reconstruction_report(IdentityFirstStage(IdentityConfig(4)), four, CPU, batch_size=2)
    assert perfect["alpha_psnr"] == pytest.approx(100)

    class Shifted(IdentityFirstStage):
        def decode(self, z: torch.Tensor) -> torch.Tensor:
            by = torch.tensor([8, 8, 8, 20][: z.shape[1]]).view(-1, 1, 1) / 127.5
            return torch.where(z > 0, z - by, z + by)

    found = reconstruction_report(Shifted(IdentityConfig(4)), four, CPU, batch_size=2)
    plain = reconstruction_report(Shifted(IdentityConfig(3)), rgb, CPU, batch_size=2)
    assert found["alpha_psnr"] == pytest.approx(20 * math.log10(255 / 20), rel=1e-6)
    assert {k: v for k, v in found.items() if k != "alpha_psnr"} == pytest.approx(plain)
    page = pairs_sheet(IdentityFirstStage(IdentityConfig(4)), four, CPU)
    np.testing.assert_array_equal(page, pairs_sheet(IdentityFirstStage(IdentityConfig(3)), rgb, CPU))


def test_report_is_the_mean_over_pictures() -> None:
    stage, pixels = awaken(small_first_stage()).eval(), all_pixels(5)
    report = reconstruction_report(stage, pixels, CPU, batch_size=2)
    with torch.no_grad():
        x = to_unit(pixels)
        x_hat = to_unit(to_bytes(stage.decode(stage.posterior(x).mean)))
        error = ((x - x_hat) / 2).square().flatten(1).mean(1)
        perceptual = PerceptualLoss.embedded()(x_hat, x).mean()
    assert report["psnr"] == pytest.approx(float((-10 * error.log10()).mean()), rel=1e-3)
    assert report["perceptual"] == pytest.approx(float(perceptual), rel=1e-3)


def test_pairs_are_truth_above_reconstruction() -> None:
    pixels = all_pixels(10)
    page = pairs_sheet(IdentityFirstStage(IdentityConfig(3)), pixels, CPU)
    assert page.shape == (4 * 18 + 2, 8 * 18 + 2, 3)
    for index in range(10):
        row, column = 2 * (index // 8), index % 8
        top, left = 2 + row * 18, 2 + column * 18
        truth, found = page[top : top + 16, left : left + 16], page[top + 18 : top + 34, left : left + 16]
        np.testing.assert_array_equal(truth, pixels[index].movedim(0, -1).numpy())
        np.testing.assert_array_equal(truth, found)
    assert (page[2 + 36 : 2 + 52, 2 + 36 :] == 255).all()  # the second row has two pictures


def test_any_channels_are_shown() -> None:
    grey = torch.full((1, 2, 2), 70, dtype=torch.uint8)
    assert (as_rgb(grey) == 70).all()
    clear = torch.cat([torch.zeros(3, 2, 2, dtype=torch.uint8), torch.full((1, 2, 2), 51, dtype=torch.uint8)])
    assert (as_rgb(clear) == 0).all()  # the first three channels are the picture on white already
    assert as_rgb(torch.zeros(5, 2, 2, dtype=torch.uint8)).shape == (2, 2, 3)


def test_sheets_are_written_whole(tmp_path: Path) -> None:
    page = sheet([torch.zeros(3, 4, 4, dtype=torch.uint8)] * 3, 2)
    save_sheet(tmp_path / "a" / "s.png", page)
    with Image.open(tmp_path / "a" / "s.png") as image:
        np.testing.assert_array_equal(np.asarray(image), page)
    before = (tmp_path / "a" / "s.png").read_bytes()
    for at in range(1, 5):
        with pytest.MonkeyPatch.context() as patch:
            Disk(at, refuse()).install(patch)
            with pytest.raises(MachineError, match="No space left"):
                save_sheet(tmp_path / "a" / "s.png", page * 0)
        assert (tmp_path / "a" / "s.png").read_bytes() == before
        assert [p.name for p in (tmp_path / "a").iterdir()] == ["s.png"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_raise_the_flag_and_are_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopFlag() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.reason == number.name
    assert signal.getsignal(number) == before


def test_a_second_signal_ends_at_once() -> None:
    def work() -> None:
        with StopFlag():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError

    assert in_child(work) == 128 + signal.SIGTERM


def test_empty_data_cannot_be_drawn_from() -> None:
    with pytest.raises(InputError, match="0 pictures"):
        PixelSource([], torch.zeros(0, 3, 4, 4, dtype=torch.uint8), CPU, 0).batch(0, 4, rng())  # type: ignore[arg-type]
