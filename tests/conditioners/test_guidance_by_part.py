"""Guidance of several conditions, each by its own scale: Brooks et al. 2022 (arXiv 2211.09800, eq. 3), for any number."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sfumato.conditioners.base import Conditioner, Parts
from sfumato.conditioners.compose import Composite, CompositeConfig, Part
from sfumato.conditioners.label import ClassLabel, LabelConfig
from sfumato.conditioners.none import Unconditional
from sfumato.conditioning import Conditioning, Twins
from sfumato.config import from_dict, to_dict
from sfumato.errors import InputError
from sfumato.training.conditions import flat, unflat


class Map(Conditioner[Tensor, Tensor]):
    """A map beside the latent, which guidance keeps."""

    def prepare(self, inputs: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(inputs))

    def nulled(self, prepared: Tensor) -> Tensor:
        return prepared

    def forward(self, prepared: Tensor) -> Conditioning:
        return Conditioning(concat=prepared)


class Word(Conditioner[float, Tensor]):
    """A number as one context token; its null is -1."""

    def prepare(self, inputs: Sequence[float]) -> Tensor:
        return torch.tensor(list(inputs))

    def null(self, count: int) -> Tensor:
        return torch.full((count,), -1.0)

    def forward(self, prepared: Tensor) -> Conditioning:
        return Conditioning(context=prepared.view(-1, 1, 1))


NULL = {"text": -1.0, "style": -1.0, "map": 0.0}
INPUT = {"text": 2.0, "style": 3.0, "map": torch.full((1, 2, 2), 5.0)}


def composite(dropped: Sequence[str] = ("map",)) -> Composite:
    return Composite({"text": Word(), "style": Word(), "map": Map()}, dropped)


def told(cond: Conditioning) -> tuple[float, float, float]:
    """(text, style, map) of the first row."""
    assert cond.context is not None
    assert cond.concat is not None
    return float(cond.context[0, 0, 0]), float(cond.context[0, 1, 0]), float(cond.concat[0].mean())


def estimate(text: float, style: float, picture: float) -> float:
    """Stands for the network: a function of what it is told in which nothing cancels by chance."""
    return text + 10 * style**2 + text * style + 100 * picture + picture * text


def combined(twins: Twins) -> float:
    return sum(weight * estimate(*told(cond)) for cond, weight in twins)


@pytest.mark.parametrize(
    "scales",
    [
        {"text": 3.0},
        {"text": 3.0, "map": 1.5},
        {"map": 1.5, "text": 3.0},
        {"text": 3.0, "style": 2.0, "map": 1.5},
        {"text": 2.0, "style": 2.0, "map": 2.0},
        {"text": 2.0, "style": 2.0, "map": 4.0},
        {"style": 0.0, "map": 7.0},
        {"text": 4.0, "map": 1.0},
    ],
)
def test_the_combination_is_the_nested_sum(scales):
    """The formula of the module, written out with one term a part; parts of scale 1 and without one are always told."""
    ours = composite()
    twins = ours.twins(ours.prepare([INPUT, INPUT]), scales)
    full = {"text": 2.0, "style": 3.0, "map": 5.0}
    guided = [name for name in ("text", "style", "map") if scales.get(name, 1.0) != 1.0]
    before = full | {name: NULL[name] for name in guided}
    expected = estimate(*before.values())
    for name in guided:
        after = before | {name: full[name]}
        expected += scales[name] * (estimate(*after.values()) - estimate(*before.values()))
        before = after
    assert combined(twins) == pytest.approx(expected)
    assert sum(weight for _, weight in twins) == pytest.approx(1)
    assert told(twins[0][0]) == (2.0, 3.0, 5.0)
    assert len({told(cond) for cond, _ in twins}) == len(twins)
    assert all(weight for _, weight in twins[1:])  # nothing is computed for nothing


def test_two_parts_are_the_published_formula():
    """e(0, 0) + s_I (e(I, 0) - e(0, 0)) + s_T (e(I, T) - e(I, 0)), with the picture before the text, as published."""
    ours = Composite({"map": Map(), "text": Word()}, ("map",))
    twins = ours.twins(ours.prepare([{"text": 2.0, "map": torch.full((1, 2, 2), 5.0)}]), {"text": 7.5, "map": 1.5})

    def e(picture: float, text: float) -> float:
        return text + 100 * picture + picture * text**2

    found = sum(w * e(float(cond.concat.mean()), float(cond.context)) for cond, w in twins)  # type: ignore[union-attr, arg-type]
    assert found == pytest.approx(e(0, -1) + 1.5 * (e(5, -1) - e(0, -1)) + 7.5 * (e(5, 2) - e(5, -1)))


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_a_single_number_is_as_ever(scale):
    """Bit for bit, whether or not parts could be guided by themselves: everything that has a null is nulled at once."""
    prepared = composite().prepare([INPUT])
    for ours in (composite(), composite(())):
        twins = ours.twins(prepared, scale)
        expected = [((2.0, 3.0, 5.0), scale), ((-1.0, -1.0, 5.0), 1.0 - scale)]
        assert [(told(cond), weight) for cond, weight in twins] == expected[: 1 if scale == 1.0 else 2]


def test_a_negative_input_takes_the_place_of_its_parts_null():
    ours = composite()
    negative = ours.prepare([{"text": 9.0}])
    twins = ours.twins(ours.prepare([INPUT]), {"text": 3.0, "map": 2.0}, negative)
    assert [(told(cond), weight) for cond, weight in twins] == [
        ((2.0, 3.0, 5.0), 2.0),
        ((2.0, 3.0, 0.0), 1.0),
        ((9.0, 3.0, 0.0), -2.0),
    ]


def test_what_cannot_be_guided_is_said():
    ours = composite(())
    prepared = ours.prepare([INPUT])
    with pytest.raises(InputError, match="never trained without it"):
        ours.twins(prepared, {"map": 2.0})
    with pytest.raises(InputError, match=r"mop.*did you mean 'map'"):
        ours.twins(prepared, {"mop": 2.0})
    label = ClassLabel(LabelConfig(("a", "b"), 4))
    with pytest.raises(InputError, match="single number"):
        label.twins(label.prepare(["a"]), {"text": 2.0})
    nothing = Unconditional()
    assert len(nothing.twins(nothing.prepare([""]), {"text": 2.0})) == 1


def test_training_leaves_parts_out_alone_and_together():
    """With p: text and style together; the map by itself with p, and in half of the rows without text."""
    ours, count, p = composite(), 20_000, 0.2
    prepared = ours.prepare([INPUT] * count)
    cond = ours(ours.drop(prepared, p, torch.Generator().manual_seed(0)))
    texts = cond.context[:, 0, 0] == -1  # type: ignore[index]
    styles = cond.context[:, 1, 0] == -1  # type: ignore[index]
    maps = cond.concat.flatten(1).abs().sum(1) == 0  # type: ignore[union-attr]
    assert torch.equal(texts, styles)
    error = 4 * (0.25 / count) ** 0.5  # 4 standard errors
    assert float(texts.float().mean()) == pytest.approx(p, abs=error)
    assert float((maps & ~texts).float().mean()) == pytest.approx(p * (1 - p), abs=error)
    assert float((maps & texts).float().mean()) == pytest.approx(p * 0.5, abs=error)


def test_training_without_parts_to_leave_out_is_as_ever():
    ours = composite(())
    prepared = ours.prepare([INPUT] * 50)
    dropped = ours.drop(prepared, 0.5, torch.Generator().manual_seed(0))
    chance = torch.rand(50, generator=torch.Generator().manual_seed(0)) < 0.5
    assert set(dropped.values) == {"text", "style", "map"}
    assert torch.equal(dropped.tensor("text") == -1, chance)
    assert composite().drop(prepared, 0.0, None) is prepared


def test_the_config_names_parts_that_exist():
    config = CompositeConfig((Part("class", LabelConfig(("a",), 4)),), dropped=("class",))
    assert from_dict(CompositeConfig, to_dict(config)) == config
    old = {key: value for key, value in to_dict(config).items() if key != "dropped"}
    assert from_dict(CompositeConfig, old).dropped == ()
    with pytest.raises(InputError, match="dropped part"):
        CompositeConfig((Part("label", LabelConfig(("a",), 4)),), dropped=("map",))


def test_a_training_batch_keeps_what_was_left_out():
    """Batches are flat tensors by dotted names."""
    ours = composite()
    dropped = ours.drop(ours.prepare([INPUT] * 40), 0.5, torch.Generator().manual_seed(0))
    again = unflat(flat(dropped))
    assert isinstance(again, Parts)
    assert torch.equal(ours(again).concat, ours(dropped).concat)  # type: ignore[arg-type]
    assert 0 < int((ours(again).concat == 0).all((1, 2, 3)).sum()) < 40  # type: ignore[union-attr]
