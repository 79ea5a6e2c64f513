"""Moments belong to parameters by name: layers that change places keep their own, other groups are said."""

import logging
from collections import OrderedDict

import pytest
import torch
from torch import nn

from harness.checkpoint.finite import first_non_finite, training_states
from harness.checkpoint.moments import load_by_name, refuse_another_kind
from harness.errors import UserError


def model(*names: str) -> nn.Module:
    """Layers of one size, so that nothing but a name tells them apart."""
    return nn.Sequential(OrderedDict((name, nn.Linear(2, 2, bias=False)) for name in names))


def adamw(module: nn.Module, *groups: tuple[str, ...], lr: float = 0.1) -> torch.optim.AdamW:
    members = dict(module.named_parameters())
    chosen = [{"params": [members[f"{name}.weight"] for name in group]} for group in groups]
    optimizer = torch.optim.AdamW(chosen or list(members.values()), lr=lr)
    load_by_name(optimizer, module)
    return optimizer


def stepped(*names: str) -> torch.optim.AdamW:
    """Moments of layer n are n: 1, 2, 3."""
    module = model(*names)
    optimizer = adamw(module)
    for number, parameter in enumerate(module.parameters(), 1):
        parameter.grad = torch.full((2, 2), 10.0 * number)
    optimizer.step()
    return optimizer


def moments(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    named = [
        (name, parameter)
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    ]
    return {
        name.removesuffix(".weight"): round(optimizer.state[parameter]["exp_avg"][0, 0].item(), 3)
        for name, parameter in named
        if parameter in optimizer.state
    }


def test_layers_that_change_places_keep_their_moments() -> None:
    optimizer = adamw(model("c", "a", "b"))
    optimizer.load_state_dict(stepped("a", "b", "c").state_dict())
    assert moments(optimizer) == {"c": 3.0, "a": 1.0, "b": 2.0}


def test_regrouped_parameters_keep_their_moments_and_it_is_said(caplog) -> None:
    optimizer = adamw(model("a", "b", "c", "d"), ("a", "c"), ("b", "d"), lr=0.3)
    with caplog.at_level(logging.WARNING):
        optimizer.load_state_dict(stepped("a", "b", "c").state_dict())
    assert moments(optimizer) == {"a": 1.0, "c": 3.0, "b": 2.0}
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]  # the schedule's, not a new peak
    assert "grouped otherwise than in the checkpoint (1 groups, now 2)" in caplog.text
    assert "1 begin without (d.weight, …)" in caplog.text


def without_names(optimizer: torch.optim.Optimizer) -> dict:
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        del group["param_names"]
    return state


def test_a_checkpoint_from_before_names_is_loaded_by_position() -> None:
    optimizer = adamw(model("b", "a"))
    optimizer.load_state_dict(without_names(stepped("a", "b")))
    assert moments(optimizer) == {"b": 1.0, "a": 2.0}


def test_other_groups_without_names_are_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"groups are others than in the checkpoint.*start_from"):
        adamw(model("a", "b"), ("a",), ("b",)).load_state_dict(without_names(stepped("a", "b")))


def test_moments_of_another_optimizer_are_refused() -> None:
    with pytest.raises(UserError, match=r"moments of Muon, and the optimizer is AdamW now\. .*start_from"):
        refuse_another_kind([adamw(model("a"))], ["Muon"])


def test_the_first_value_that_is_not_finite_is_named() -> None:
    module = model("a", "b")
    optimizer = adamw(module)
    for parameter in module.parameters():
        parameter.grad = torch.ones(2, 2)
    optimizer.step()
    assert first_non_finite(training_states(module, [optimizer])) == ""
    optimizer.state[module.b.weight]["exp_avg_sq"][1, 1] = torch.inf
    assert first_non_finite(training_states(module, [optimizer])) == "exp_avg_sq/b.weight"
    assert first_non_finite({"a": [torch.tensor([1, 2]), torch.empty(0)], "b": {"c": torch.tensor(torch.nan)}}) == "b/c"
    assert first_non_finite({"large": torch.full((9,), 3e38)}) == ""  # a sum of squares would overflow


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_no_value_that_is_not_finite_is_missed(dtype: torch.dtype, value: float) -> None:
    tensor = torch.full((3, 5), torch.finfo(dtype).max, dtype=dtype)
    tensor[0] = torch.finfo(dtype).min
    assert first_non_finite({"a": tensor, "transposed": tensor.t(), "alone": tensor[0, 0]}) == ""
    tensor[1, 3] = value
    assert first_non_finite({"good": torch.ones(2), "bad": tensor.t()}) == "bad"
