"""Retrieval@1 on galleries where the answer is known."""

from __future__ import annotations

import pytest
import torch

from sfumato.metrics.retrieval import centred_cosine, chance, distance_to_own, retrieval_at_1


def features(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(seed))


def test_perfect_swapped_and_scaled() -> None:
    real, groups = features(10), ["a"] * 5 + ["b"] * 5
    assert retrieval_at_1(real, real, groups).tolist() == [1.0] * 10
    centre = torch.cat([real[:5].mean(0, keepdim=True).expand(5, -1), real[5:].mean(0, keepdim=True).expand(5, -1)])
    assert retrieval_at_1(centre + 3 * (real - centre), real, groups).tolist() == [1.0] * 10  # the cosine knows no length
    swapped = real[[1, 0, 2, 3, 4, 5, 6, 7, 8, 9]]
    assert retrieval_at_1(swapped, real, groups).tolist() == [0.0, 0.0] + [1.0] * 8


def test_groups_do_not_compete() -> None:
    """The same concepts in both groups: each query has to win in its own group only."""
    real = features(5)
    both = torch.cat([real, real + 0.01])
    groups = ["a"] * 5 + ["b"] * 5
    assert retrieval_at_1(both, both, groups).tolist() == [1.0] * 10
    assert retrieval_at_1(both, both, ["a"] * 10).sum() < 10.5


def test_centring_removes_what_a_group_shares() -> None:
    """A large common offset would make all cosines 1."""
    real = features(30) + 1000
    assert retrieval_at_1(real + 0.1 * features(30, 1), real, ["a"] * 30).mean() == 1.0


def test_equal_pictures_share_the_hit() -> None:
    real = features(6)
    real[1] = real[0]
    assert retrieval_at_1(real, real, ["a"] * 6).tolist() == [0.5, 0.5, 1, 1, 1, 1]


def test_blind_guess_scores_chance() -> None:
    groups = ["a"] * 400 + ["b"] * 100
    hits = retrieval_at_1(features(500, 1), features(500, 2), groups)
    assert chance(groups) == 2 / 500
    assert hits.mean().item() < 0.02


def test_a_few_queries_meet_the_whole_gallery() -> None:
    real, groups = features(10), ["a", "b"] * 5
    asked = [7, 2, 9]
    assert retrieval_at_1(real[asked], real, groups, asked).tolist() == [1.0] * 3
    assert retrieval_at_1(real[asked], real, groups, [5, 4, 1]).tolist() == [0.0] * 3


def test_lengths_have_to_agree() -> None:
    with pytest.raises(ValueError, match="an own picture a query"):
        retrieval_at_1(features(3), features(4), ["a"] * 4)


def test_distance_to_the_own_picture() -> None:
    """Four pictures around a common centre: the cosine is 1 to itself, -1 to the opposite one, 0 to those between."""
    cross = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    real, groups = torch.cat([cross + 5, cross - 7]), ["a"] * 4 + ["b"] * 4
    asked = [0, 6, 1]
    queries = torch.stack([real[0], real[4], 5 + torch.tensor([3.0, 3.0])])  # equal, opposite, half-way at any length
    expected = torch.tensor([0.0, 2.0, 1 - 0.5**0.5], dtype=torch.float64)
    torch.testing.assert_close(distance_to_own(queries, real, groups, asked), expected)
    torch.testing.assert_close(centred_cosine(queries[:1], real[:4])[0], torch.tensor([1.0, 0, -1, 0], dtype=torch.float64))
