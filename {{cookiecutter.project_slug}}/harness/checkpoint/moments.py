"""An optimizer's moments belong to parameters by name: layers that change places keep their own.

torch loads the state of an optimizer by position. Here each group carries `param_names`, the key that torch itself
writes for named parameters, and a hook puts a loaded state into the order of the groups of now. A state without names
is loaded by position, as before.
"""

import logging
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from harness.errors import UserError

log = logging.getLogger(__name__)

NAMES = "param_names"


def load_by_name(optimizer: Optimizer, module: nn.Module) -> None:
    """From now on, `optimizer.load_state_dict` goes by the names that parameters have in `module`."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    for group in optimizer.param_groups:
        group[NAMES] = [names.get(parameter, f"?{i}") for i, parameter in enumerate(group["params"])]
    optimizer.register_load_state_dict_pre_hook(_in_our_order)


def refuse_another_kind(optimizers: Iterable[Optimizer], before: Iterable[str]) -> None:
    """Raise UserError when moments are those of an optimizer of another class, to which they would be noise."""
    for optimizer, kind in zip(optimizers, before, strict=False):
        if kind != type(optimizer).__name__:
            raise UserError(
                f"The checkpoint has the moments of {kind}, and the optimizer is {type(optimizer).__name__} now.",
                cure="To take its weights alone and begin at step 0, use start_from=… in place of resume_from=….",
            )


def _in_our_order(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    before, now = state["param_groups"], optimizer.param_groups
    if not all(NAMES in group for group in before):
        if [len(group["params"]) for group in before] != [len(group["params"]) for group in now]:
            raise UserError(
                "The optimizer's groups are others than in the checkpoint, which has no names to tell them by.",
                cure="Group the parameters as before, or take the weights alone with start_from=….",
            )
        return state
    ids = {name: number for group in before for name, number in zip(group[NAMES], group["params"], strict=True)}
    if [set(group[NAMES]) for group in before] != [set(group[NAMES]) for group in now]:
        _say_regrouped(ids, {name for group in now for name in group[NAMES]}, len(before), len(now))
        options = [_options(group, before) for group in now]
    else:
        options = before
    numbers = iter(range(1 + max(ids.values(), default=0), 1 << 62))  # for parameters that had no state
    groups = [
        {**chosen, NAMES: group[NAMES], "params": [ids.get(name, next(numbers)) for name in group[NAMES]]}
        for chosen, group in zip(options, now, strict=True)
    ]
    used = {number for group in groups for number in group["params"]}
    return {
        **state,
        "state": {key: value for key, value in state["state"].items() if key in used},
        "param_groups": groups,
    }


def _options(group: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """A group that did not exist before has the options of the config, at the learning rate where its members were."""
    source = next((old for old in before if set(old[NAMES]) & set(group[NAMES])), {})
    kept: dict[str, Any] = {key: source[key] for key in ("lr", "initial_lr") if key in source}
    return {**group, **kept}


def _say_regrouped(before: Iterable[str], now: set[str], old_groups: int, new_groups: int) -> None:
    new, gone = sorted(now - set(before)), sorted(set(before) - now)
    parts = [f"{len(new)} begin without ({new[0]}, …)"] if new else []
    parts += [f"{len(gone)} are dropped ({gone[0]}, …)"] if gone else []
    log.warning(
        "The optimizer's parameters are grouped otherwise than in the checkpoint (%d groups, now %d): moments go with "
        "their names, options are those of the config%s.",
        *(old_groups, new_groups, "; " + ", ".join(parts) if parts else ""),
    )
