"""Averaged weights by the authors' naming rule: `model_ema.` and the parameter's name without its dots."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.interop.checkpoint import open_checkpoint
from sfumato.interop.ema import Weights, averages, choose
from sfumato.interop.index import TensorIndex


def average_names(module: nn.Module) -> dict[str, str]:
    """The rule as LitEma states it: every trainable parameter, its name with the dots taken out."""
    return {name: name.replace(".", "") for name, p in module.named_parameters() if p.requires_grad}


def diffusion(owner: str = "", inner: str = "model.") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(checkpoint, expected averages by parameter): a network with a buffer and a frozen layer, beside a first stage."""
    torch.manual_seed(0)
    network = nn.ModuleDict(
        {"diffusion_model": nn.ModuleDict({"input_blocks": nn.ModuleList([nn.Linear(2, 3), nn.BatchNorm1d(3)])})}
    )
    network["frozen"] = nn.Linear(2, 2).requires_grad_(False)
    state = {f"{owner}{inner}{name}": tensor for name, tensor in network.state_dict().items()}
    expected = {}
    for name, squeezed in average_names(network).items():
        expected[f"{owner}{inner}{name}"] = torch.randn_like(network.get_parameter(name))
        state[f"{owner}model_ema.{squeezed}"] = expected[f"{owner}{inner}{name}"]
    state |= {f"{owner}model_ema.decay": torch.tensor(0.9999), f"{owner}model_ema.num_updates": torch.tensor(9)}
    return state, expected


def saved(path: Path, state: dict[str, Tensor]) -> TensorIndex:
    torch.save({"state_dict": state}, path)
    return open_checkpoint(path).index


@pytest.mark.parametrize(("owner", "inner"), [("", "model."), ("", ""), ("first_stage_model.", "")])
def test_averages_take_the_place_of_what_was_trained(tmp_path: Path, owner: str, inner: str) -> None:
    state, expected = diffusion(owner, inner)
    state |= {"cond_stage_model.weight": torch.ones(2), "scale_factor": torch.tensor(0.2)}
    index = saved(tmp_path / "x", state)
    plain = [name for name in state if "model_ema." not in name]
    found = choose(index)
    assert list(found) == plain
    for name, tensor in found.read().items():
        assert torch.equal(tensor, expected.get(name, state[name]))
    assert len(expected) == 4  # weights and biases of the two trainable layers
    raw = choose(index, Weights.raw)
    assert list(raw) == plain
    assert all(torch.equal(tensor, state[name]) for name, tensor in raw.read().items())
    assert set(averages(index).counters) == {f"{owner}model_ema.decay", f"{owner}model_ema.num_updates"}


def test_a_checkpoint_without_averages_is_as_it_is(tmp_path: Path) -> None:
    state = {"model.a.weight": torch.ones(2), "b": torch.ones(1)}
    index = saved(tmp_path / "x", state)
    assert list(choose(index)) == list(choose(index, Weights.raw)) == list(state)


def test_two_owners(tmp_path: Path) -> None:
    """A diffusion model with averages over a first stage that kept its own."""
    one, expected = diffusion()
    two, more = diffusion("first_stage_model.", "")
    found = choose(saved(tmp_path / "x", one | two))
    for name, tensor in (expected | more).items():
        assert torch.equal(found[name].read(), tensor)


def test_names_that_become_one(tmp_path: Path) -> None:
    """`a.bc` and `ab.c` are `abc` both; which of the two it averages, nobody can tell."""
    state = {"model.a.bc": torch.zeros(1), "model.ab.c": torch.ones(1), "model_ema.abc": torch.ones(1)}
    index = saved(tmp_path / "x", state)
    with pytest.raises(InputError, match=r"model_ema\.abc may be the average of model\.a\.bc or of model\.ab\.c"):
        choose(index)
    assert list(choose(index, Weights.raw)) == ["model.a.bc", "model.ab.c"]
    del state["model_ema.abc"]
    assert len(choose(saved(tmp_path / "y", state))) == 2  # without an average there is no question


def test_averages_of_nothing(tmp_path: Path) -> None:
    state = {"model.a": torch.zeros(1)} | {f"model_ema.gone{i}": torch.ones(1) for i in range(12)}
    index = saved(tmp_path / "x", state)
    with pytest.raises(InputError, match=r"parameters that are not there: model_ema\.gone0; .*; and 2 more") as caught:
        choose(index)
    assert "gone9" in str(caught.value)
    assert "gone10" not in str(caught.value)
    assert list(choose(index, Weights.raw)) == ["model.a"]


def test_an_average_of_another_shape(tmp_path: Path) -> None:
    index = saved(tmp_path / "x", {"model.a": torch.zeros(2), "model_ema.a": torch.ones(3)})
    with pytest.raises(InputError, match="differ in shape"):
        choose(index)


def test_a_parameter_called_decay_is_a_parameter(tmp_path: Path) -> None:
    index = saved(tmp_path / "x", {"model.decay": torch.zeros(2), "model_ema.decay": torch.ones(2)})
    assert torch.equal(choose(index)["model.decay"].read(), torch.ones(2))
