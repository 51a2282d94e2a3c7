"""Configs survive the way through JSON; whatever does not fit is one line that names the field."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from sfumato.config import from_dict, override, to_dict
from sfumato.errors import InputError
from sfumato.recipes import RECIPES
from sfumato.training.config import RunConfig


@dataclass(frozen=True)
class Leaf:
    number: int = 1
    share: float = 0.5
    on: bool = False
    text: str = "a"
    pair: tuple[float, float] | None = None
    many: tuple[int, ...] = ()
    start: int | Literal["settled", "never"] = "settled"


@dataclass(frozen=True)
class Tree:
    leaf: Leaf
    name: str = "tree"


def fails(kind: type, data: Any) -> str:
    with pytest.raises(InputError) as caught:
        from_dict(kind, data)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name: str) -> None:
    config = RECIPES[name]()
    data = json.loads(json.dumps(to_dict(config)))
    back = from_dict(RunConfig, data)
    assert back == config
    assert to_dict(back) == to_dict(config)


@pytest.mark.parametrize(("given", "words"), [
    ({"nubmer": 3}, ["leaf.nubmer", "did you mean 'leaf.number'"]),
    ({"Share": 3}, ["leaf.Share", "'leaf.share'"]),
    ({"number": "3"}, ["leaf.number", "'3'", "a whole number"]),
    ({"number": 2.5}, ["leaf.number", "2.5", "a whole number"]),
    ({"number": True}, ["leaf.number", "True", "a whole number"]),
    ({"number": None}, ["leaf.number", "a whole number"]),
    ({"number": float("nan")}, ["leaf.number", "nan"]),
    ({"number": float("inf")}, ["leaf.number", "inf"]),
    ({"share": float("nan")}, ["leaf.share", "nan", "finite"]),
    ({"share": float("-inf")}, ["leaf.share", "finite"]),
    ({"share": "0.5"}, ["leaf.share", "a number"]),
    ({"share": False}, ["leaf.share", "False"]),
    ({"share": [0.5]}, ["leaf.share", "a number"]),
    ({"on": 1}, ["leaf.on", "true or false"]),
    ({"text": 1}, ["leaf.text", "text"]),
    ({"pair": [1.0]}, ["leaf.pair", "a list of 2"]),
    ({"pair": 1.0}, ["leaf.pair", "a list"]),
    ({"pair": [0.1, float("nan")]}, ["leaf.pair[1]", "finite"]),
    ({"many": [1, "x"]}, ["leaf.many[1]", "'x'"]),
    ({"many": "12"}, ["leaf.many", "a list"]),
    ({"start": "setled"}, ["leaf.start", "did you mean 'settled'"]),
    ({"start": 1.5}, ["leaf.start", "1.5"]),
    ({"start": True}, ["leaf.start", "True"]),
    ([], ["leaf", "a table of fields"]),
    (None, ["leaf", "a table of fields"]),
])  # fmt: skip
def test_what_does_not_fit_is_named(given: Any, words: list[str]) -> None:
    message = fails(Tree, {"leaf": given})
    assert [w for w in words if w not in message] == []


def test_missing_field_is_named() -> None:
    assert "leaf" in fails(Tree, {"name": "x"})


def test_plain_values_are_converted_where_nothing_is_lost() -> None:
    leaf = from_dict(Leaf, {"number": 2.0, "share": 1, "pair": [0, 1], "many": [1, 2], "start": 7})
    assert leaf == Leaf(2, 1.0, False, "a", (0.0, 1.0), (1, 2), 7)
    assert isinstance(leaf.number, int)
    assert isinstance(leaf.share, float)


def test_kind_chooses_the_class_and_nothing_else() -> None:
    data = to_dict(RECIPES["tiny"]())
    data["first_stage"]["model"] = {"kind": "identity", "image_channels": 1}
    assert from_dict(RunConfig, data).first_stage.model.kind == "identity"
    for kind in ("identitty", "os.system", 3, None, ["kl"]):
        data["first_stage"]["model"] = {"kind": kind}
        assert "first_stage.model.kind" in fails(RunConfig, data)
    data["first_stage"]["model"] = {"kind": "kl", "image_channels": 1}  # a field of the other one
    assert "first_stage.model.image_channels" in fails(RunConfig, data)
    data["first_stage"]["model"] = {"kind": "kl"}
    data["prior"]["model"]["kind"] = "flows"
    assert "prior.model.kind" in fails(RunConfig, data)


def test_override_reads_json_else_text() -> None:
    data = {"a": {"b": 1, "c": None}, "d": "x"}
    changed = override(data, ["a.b=2", "a.c=[1,2]", "d=some = text"])
    assert changed == {"a": {"b": 2, "c": [1, 2]}, "d": "some = text"}
    assert data == {"a": {"b": 1, "c": None}, "d": "x"}
    assert override(data, ["d=null"])["d"] is None
    assert override(data, ["d="])["d"] == ""


@pytest.mark.parametrize(("assignment", "words"), [
    ("prior.train.stepz=3", "did you mean 'prior.train.steps'"),
    ("first_stage.loss.gan_wight=3", "did you mean 'first_stage.loss.gan_weight'"),
    ("data.sise=3", "did you mean 'data.size'"),
    ("steps", "FIELD=VALUE"), ("=3", "FIELD=VALUE"), (".=3", "unknown field"), ("seed.x=3", "unknown field"),
    ("seed=NaN", "seed"), ("seed=1e999", "seed"), ("seed=" + "9" * 5000, "seed"), ("seed=" + "[" * 100_000, "seed"),
    ("prior.train.learning_rate=NaN", "prior.train.learning_rate"),
    ("prior.train.learning_rate=Infinity", "finite"),
    ("prior.train.learning_rate=1e-4x", "a number"),
    ("prior.model.prediction=epsilon", "did you mean 'eps'"),
    ("prior.model.schedule.name=sqrt", "prior.model.schedule.name"),
])  # fmt: skip
def test_wrong_assignments(assignment: str, words: str) -> None:
    with pytest.raises(InputError, match=r".") as caught:
        from_dict(RunConfig, override(to_dict(RECIPES["tiny"]()), [assignment]))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_override_of_what_is_no_table() -> None:
    with pytest.raises(InputError, match="unknown field"):
        override([1, 2], ["a=3"])  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "value"), [
    ("steps", 0), ("steps", -1), ("batch_size", 0), ("accumulate", 0), ("accumulate", 99), ("learning_rate", 0.0),
    ("learning_rate", -1e-4), ("final_learning_rate", -1.0), ("warmup_steps", -1), ("decay_fraction", 0.0),
    ("decay_fraction", 1.5), ("betas", [0.9, 1.0]), ("betas", [-0.1, 0.9]), ("weight_decay", -1.0), ("grad_clip", -1.0),
    ("ema_decay", 1.0), ("ema_decay", -0.1), ("checkpoint_every", 0), ("sample_every", 0), ("log_every", 0),
    ("max_bad_steps", 0),
])  # fmt: skip
def test_optimization_out_of_range(field: str, value: Any) -> None:
    data = to_dict(RECIPES["tiny"]())
    data["prior"]["train"][field] = value
    message = fails(RunConfig, data)
    assert field in message
    assert "expected" in message


def test_a_missing_field_is_named() -> None:
    assert fails(Tree, {"name": "x"}) == "config: the field leaf is missing; give it."


def test_a_long_wrong_value_is_shortened() -> None:
    assert len(fails(Tree, {"leaf": {"number": "9" * 5000}})) < 200
