"""Is everything that a checkpoint is about to hold a number?"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.distributed import own_part
from harness.errors import UserError


def first_non_finite(states: Any) -> str:
    """Return where in a tree of dicts, lists and tensors the first inf or nan is, such as `exp_avg_sq/head.weight`;
    empty if nowhere. Reads every tensor once and waits for the device once. Of a tensor that is split over ranks it
    sees this rank's part."""
    parts = [(path, own_part(tensor)) for path, tensor in _tensors(states, "") if tensor.is_floating_point()]
    named = [(path, tensor) for path, tensor in parts if tensor.numel()]
    alike: dict[Any, list[Tensor]] = defaultdict(list)
    for _, tensor in named:
        alike[tensor.device, tensor.dtype].append(tensor.detach())
    # The largest magnitude: unlike a sum of squares, it is finite whenever all are.
    largest = [torch.stack(torch._foreach_norm(tensors, math.inf)).float().max() for tensors in alike.values()]
    if all(bool(value.isfinite()) for value in largest):
        return ""
    return next(path for path, tensor in named if not bool(tensor.isfinite().all()))


def training_states(module: nn.Module, optimizers: list[Optimizer]) -> dict[str, Any]:
    """Return weights and optimizer states by the names of parameters, for `first_non_finite`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    moments: dict[str, Any] = defaultdict(dict)
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for kind, value in state.items():
                moments[kind][names.get(parameter, "?")] = value
    return {"weights": {name: parameter for parameter, name in names.items()}, **moments}


def _tensors(tree: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _tensors(value, f"{path}/{key}".lstrip("/"))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _tensors(value, f"{path}/{index}".lstrip("/"))


def refuse_unless_finite(logits: Tensor) -> None:
    """Raise UserError for logits (V) that no token can be chosen from."""
    if logits.isnan().any() or not logits.max().isfinite():
        raise UserError(
            "The model's output is not finite: a weight is NaN or infinite, and no text can come from it.",
            cure="Load an earlier step: name one of the run's checkpoints/ folders. docs/nan.md says why.",
        )
