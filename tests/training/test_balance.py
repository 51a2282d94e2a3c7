"""Drawing rare concepts as often as common ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sfumato.data.dataset import ImageDataset
from sfumato.data.emoji import family
from sfumato.data.folder import Record
from sfumato.errors import InputError
from sfumato.training.conditions import Stored
from sfumato.training.latents import LatentSource, Moments
from sfumato.training.prepare import sampling_weights


def dataset(families: list[str | None]) -> ImageDataset:
    rows = [{} if f is None else {"family": f} for f in families]
    return ImageDataset([Record(Path(f"{i}.png"), f"{i}.png", row=row) for i, row in enumerate(rows)], 8)


@pytest.mark.parametrize(("balance", "share"), [(0.0, 8 / 9), (0.5, 8**0.5 / (1 + 8**0.5)), (1.0, 0.5)])
def test_a_family_of_n_is_drawn_n_to_the_one_minus_balance_times_as_often(balance: float, share: float) -> None:
    weights = sampling_weights(dataset(["a"] * 8 + ["b"]), "family", balance)
    assert weights is not None
    assert weights[:8].sum().item() == pytest.approx(share, rel=1e-6)


def test_pictures_without_the_field_are_families_of_their_own() -> None:
    weights = sampling_weights(dataset(["a", "a", None, None]), "family", 1.0)
    assert weights is not None
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 3])


def test_no_field_means_every_picture_once_an_epoch() -> None:
    assert sampling_weights(dataset(["a", "b"]), "", 0.5) is None


def test_an_unknown_field_is_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"famly of prior\.balance_by.*family"):
        sampling_weights(dataset(["a", "b"]), "famly", 0.5)


def test_draws_follow_the_weights_and_the_step_alone() -> None:
    moments = Moments(torch.arange(3.0).view(3, 1, 1, 1).half(), None)
    scale, prepared = (torch.zeros(1), torch.ones(1)), torch.arange(3).view(3, 1)
    weights = torch.tensor([0.5, 0.5, 0.0])
    source = LatentSource(
        moments,
        None,
        scale,
        Stored(prepared, torch.ones(3, dtype=torch.int64), torch.device("cpu")),
        torch.device("cpu"),
        0,
        weights,
    )
    z, ids = source.batch(0, 4000, torch.Generator().manual_seed(1))
    again, _ = source.batch(0, 4000, torch.Generator().manual_seed(1))
    assert torch.equal(z, again)
    assert torch.equal(z.flatten().long(), ids)
    assert (ids == 2).sum() == 0
    assert abs((ids == 0).double().mean().item() - 0.5) < 4 * 0.5 / 4000**0.5


@pytest.mark.parametrize(
    ("hexcode", "concept"),
    [("1F44D-1F3FD", "1F44D"), ("1F469-1F3FF-200D-1F692", "1F469-200D-1F692"), ("2764-FE0F", "2764"), ("1F409", "1F409")],
)
def test_a_family_is_a_concept_without_its_skin_tones(hexcode: str, concept: str) -> None:
    assert family(hexcode) == concept
