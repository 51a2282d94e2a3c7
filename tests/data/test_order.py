"""The sample stream: permutations, exactly once an epoch, resume and workers."""

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data.dataset import Batches, ImageDataset
from sfumato.data.folder import scan
from sfumato.data.order import batch_indices, order
from sfumato.errors import InputError


def splitmix_reference(x: int) -> int:
    """SplitMix64 in Python integers."""
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def test_splitmix_known_value():
    # first output of SplitMix64 seeded with 0, as in the published test vectors
    assert splitmix_reference(0) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize(("count", "epoch", "seed"), [(1, 0, 0), (7, 3, 5), (64, 0, -1), (100, 2, 2**63)])
def test_order_is_argsort_of_hashes(count, epoch, seed):
    mask = (1 << 64) - 1
    start = splitmix_reference((splitmix_reference(seed & mask) + epoch) & mask)
    keys = [splitmix_reference((start + i * 0x9E3779B97F4A7C15) & mask) for i in range(count)]
    assert order(count, epoch, seed).tolist() == sorted(range(count), key=keys.__getitem__)


def test_order_is_uniform():
    """Over 4,000 epochs each of 5 samples comes first about equally often (chi-square, 4 degrees, p = 1e-4)."""
    first = np.bincount([int(order(5, epoch, 0)[0]) for epoch in range(4000)], minlength=5)
    assert ((first - 800) ** 2 / 800).sum() < 23.5


def test_epochs_and_seeds_differ():
    assert order(50, 0, 0).tolist() != order(50, 1, 0).tolist()
    assert order(50, 0, 0).tolist() != order(50, 0, 1).tolist()


def test_order_result_is_the_callers_own():
    first = order(10, 0, 0)
    first.zero_()
    assert sorted(order(10, 0, 0).tolist()) == list(range(10))
    batch = batch_indices(10, 4, 0, 0)
    batch.zero_()
    assert batch_indices(10, 10, 0, 0).tolist() == order(10, 0, 0).tolist()


@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (10, 10), (3, 10), (1, 4), (12, 4)])
def test_each_sample_once_an_epoch(count, batch_size):
    steps = 3 * count  # ends on an epoch for every batch size
    stream = torch.cat([batch_indices(count, batch_size, 7, step) for step in range(steps)])
    epochs = stream.view(-1, count)
    assert len(epochs) == 3 * batch_size
    for number, epoch in enumerate(epochs):
        assert epoch.tolist() == order(count, number, 7).tolist()
        assert sorted(epoch.tolist()) == list(range(count))


@pytest.mark.parametrize("arguments", [(0, 4, 0, 0), (4, 0, 0, 0), (4, 4, 0, -1)])
def test_impossible_batches(arguments):
    with pytest.raises(InputError, match=r"expected|0 pictures"):
        batch_indices(*arguments)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for value in range(11):
        Image.new("RGB", (8, 8), (value, 2 * value, 3 * value)).save(folder / f"{value:02}.png")
    return ImageDataset(scan(folder).records, 8)


@pytest.mark.parametrize("workers", [0, 1, 2, 8])
def test_batches_are_the_same_for_any_number_of_workers(dataset, workers):
    with Batches(dataset, 4, seed=3, workers=workers) as batches:
        got = [next(batches) for _ in range(7)]
    for step, batch in enumerate(got):
        assert batch.step == step
        assert batch.indices.tolist() == batch_indices(11, 4, 3, step).tolist()
        assert batch.pixels.dtype == torch.uint8
        assert batch.pixels.shape == (4, 3, 8, 8)
        assert batch.pixels[:, 2, 4, 4].tolist() == [3 * i for i in batch.indices.tolist()]


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_the_middle_of_an_epoch(dataset, workers):
    with Batches(dataset, 4, seed=3) as whole:
        rest = [next(whole) for _ in range(8)][5:]
    with Batches(dataset, 4, seed=3, start_step=5, workers=workers) as resumed:
        for batch in rest:
            again = next(resumed)
            assert again.step == batch.step
            assert torch.equal(again.indices, batch.indices)
            assert torch.equal(again.pixels, batch.pixels)


def test_ranks_share_the_global_batch(dataset):
    parts = [next(Batches(dataset, 6, seed=1, rank=rank, world=3)) for rank in range(3)]
    together = torch.stack([part.indices for part in parts], dim=1).flatten()
    assert together.tolist() == batch_indices(11, 6, 1, 0).tolist()
    with pytest.raises(InputError, match="smaller than the 8 processes"):
        Batches(dataset, 6, seed=1, world=8)


def test_a_file_that_goes_away_is_named(tmp_path):
    for name in "abc":
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png")
    pictures = ImageDataset(scan(tmp_path).records, 4)
    (tmp_path / "b.png").unlink()
    with Batches(pictures, 3, seed=0, workers=2) as batches, pytest.raises(InputError, match=r"b\.png: the file is not there"):
        next(batches)
