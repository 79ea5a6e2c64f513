"""Is everything that a checkpoint is about to hold a number?"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.distributed import own_part
from harness.errors import UserError


def first_non_finite(states: Any) -> str:
    """Return where in a tree of dicts, lists and tensors the first inf or nan is, such as `exp_avg_sq/head.weight`;
    empty if nowhere. Waits for the device once. Of a tensor that is split over ranks it sees this rank's part."""
    parts = [(path, own_part(tensor)) for path, tensor in _tensors(states, "") if tensor.is_floating_point()]
    named = [(path, tensor.detach()) for path, tensor in parts if tensor.numel()]
    on_host = (path for path, tensor in named if tensor.device.type == "cpu" and not _finite(tensor))
    return next(on_host, "") or _first_on_device([(path, t) for path, t in named if t.device.type != "cpu"])


def _finite(tensor: Tensor) -> bool:
    """Say whether all of a tensor of the host is a number. numpy stays on this thread, which may be the one that writes
    checkpoints. Asked there, torch would open a second team of threads, and with more threads than cores OpenMP no
    longer spins at its barriers but sleeps: until the process ends, a step of a small model takes three times as
    long."""
    if tensor.dtype == torch.bfloat16:  # the upper half of a float32, which numpy knows
        values = (tensor.view(torch.int16).numpy().astype(np.uint32) << 16).view(np.float32)
    else:
        values = tensor.numpy()
    return bool(np.isfinite(values.max()) and np.isfinite(values.min()))  # NaN is the largest and the smallest


def _first_on_device(named: list[tuple[str, Tensor]]) -> str:
    alike: dict[Any, list[Tensor]] = defaultdict(list)
    for _, tensor in named:
        alike[tensor.device, tensor.dtype].append(tensor)
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
