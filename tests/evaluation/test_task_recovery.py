"""Maps read back from pictures by a small segmenter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.evaluation.tasks.agreement import agreement
from sfumato.evaluation.tasks.recovery import RecoveryTraining, recover, train_segmenter
from sfumato.networks.segmenter import Segmenter, SegmenterConfig

COLOURS = torch.tensor([[230, 230, 230], [200, 40, 40], [40, 40, 200]], dtype=torch.uint8)


def scenes(count: int, seed: int, side: int = 16) -> tuple[Tensor, Tensor]:
    """Two rectangles of classes 1 and 2 on class 0, with noise."""
    rng = torch.Generator().manual_seed(seed)
    maps = torch.zeros(count, side, side, dtype=torch.long)
    for map in maps:
        for number in (1, 2):
            left, top = torch.randint(side - 6, (2,), generator=rng).tolist()
            map[top : top + 6, left : left + 6] = number
    noise = torch.randint(-20, 21, (count, 3, side, side), generator=rng)
    return (COLOURS[maps].movedim(3, 1).int() + noise).clamp(0, 255).to(torch.uint8), maps


def test_maps_come_back_from_pictures_that_were_not_seen() -> None:
    pictures, maps = scenes(64, 0)
    maps[0, 0, 0] = 255  # without a label: passed over
    told: list[tuple[int, float]] = []
    training = RecoveryTraining(steps=100, batch_size=8)
    network = train_segmenter(pictures, maps, 3, training=training, channels=8, on_step=lambda *step: told.append(step))
    assert [step for step, _ in told] == [50, 100]
    fresh, wanted = scenes(16, 1)
    found = agreement(recover(network, fresh, batch_size=5), wanted, 3, torch.Generator().manual_seed(0), num_resamples=20)
    assert found.accuracy.value > 0.97  # the largest class covers 0.75
    assert found.mean_iou.value > 0.9
    with_alpha = torch.cat([fresh, torch.full_like(fresh[:, :1], 255)], 1)
    assert torch.equal(recover(network, with_alpha), recover(network, fresh))


def test_training_is_the_same_for_the_same_seed_and_leaves_the_global_one_alone() -> None:
    pictures, maps = scenes(8, 0)
    training = RecoveryTraining(steps=2, batch_size=2)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again = (train_segmenter(pictures, maps, 3, training=training, channels=4) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("size", [(32, 32), (19, 33), (3, 5)])
def test_logits_have_the_pictures_size_and_every_weight_learns(size: tuple[int, int]) -> None:
    network = Segmenter(SegmenterConfig(num_classes=5, channels=4, halvings=2))
    logits = network(torch.rand(2, 3, *size) * 2 - 1)
    assert logits.shape == (2, 5, *size)
    logits.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="segmenter num_classes is 0"):
        SegmenterConfig(0)
    pictures, maps = scenes(2, 0)
    with pytest.raises(ValueError, match="with maps"):
        train_segmenter(pictures, maps[:1], 3)
