"""What there is to know about a training step, computed on the device as one short tensor, and explained on the host.

Each pair does half of it: a function that queues the computation and waits for nothing, and one that turns the numbers,
once they are on the host, into the `data` of an event. P parameter tensors. Of parameters that are split over ranks,
the norms are those of the whole gradients, and all else is that of this rank's part.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from harness.wrappers import plain

# Of a larger parameter, this many elements spread over it stand for it: a copy of the weights would cost their memory.
MOST_SAMPLED = 65_536


def gradient_norms(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the norm of each parameter's gradient (P,); -1 where it has none."""
    with_gradient = [p.grad.detach() for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(with_gradient)) if with_gradient else torch.empty(0)
    each = iter(norms.full_tensor() if isinstance(norms, DTensor) else norms)
    none = torch.full((), -1.0, device=parameters[0].device)
    return torch.stack([none if p.grad is None else next(each).float() for p in parameters])


def gradient_range(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return [smallest, largest] value in all gradients; zeros where there is none."""
    gradients = [_own_part(p.grad.detach()) for p in parameters if p.grad is not None]
    ranges = [torch.stack(torch.aminmax(gradient)).float() for gradient in gradients if gradient.numel()]
    if not ranges:
        return torch.zeros(2, device=parameters[0].device)
    low, high = torch.stack(ranges).unbind(dim=1)
    return torch.stack((low.min(), high.max()))


def _own_part(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def explain_gradients(norms: list[float], names: Sequence[str], top: int) -> dict[str, Any]:
    there = [norm for norm in norms if norm != -1.0]
    modules: dict[str, float] = {}
    for name, norm in zip(names, norms, strict=True):
        if norm != -1.0:
            module = module_of(name)
            modules[module] = math.hypot(modules.get(module, 0.0), norm)
    return {
        "total_norm": math.hypot(*there),
        "max": max(there, default=0.0),
        "min": min(there, default=0.0),
        "parameters": len(norms),
        "with_gradient": len(there),
        "zero": there.count(0.0),
        "top": largest(modules, top),
    }


class Weights:
    """A sample of every parameter before a step, to see what the step did to them."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.before = [sample.clone() for sample in self._samples()]

    def changes(self) -> Tensor:
        """Return [norm of the change (P), norm before (P)] of the samples, as one tensor (2 P)."""
        changed = torch._foreach_norm(torch._foreach_sub(self._samples(), self.before))
        return torch.stack([norm.float() for norm in (*changed, *torch._foreach_norm(self.before))])

    def _samples(self) -> list[Tensor]:
        flat = [_own_part(p.detach()).flatten() for p in self.parameters]
        # An odd stride walks through all columns of a matrix whose width is a power of two.
        return [f[:: math.ceil(len(f) / MOST_SAMPLED) | 1] for f in flat]


def explain_changes(numbers: list[float], names: Sequence[str], top: int) -> dict[str, Any]:
    changed, before = numbers[: len(names)], numbers[len(names) :]
    # A parameter that was all zero has no relative change.
    relative = {n: c / b for n, c, b in zip(names, changed, before, strict=True) if b > 0 and math.isfinite(c)}
    modules: dict[str, float] = {}
    for name, change in relative.items():
        modules[module_of(name)] = max(change, modules.get(module_of(name), 0.0))
    return {
        "parameters": len(names),
        "changed": sum(change > 0 for change in changed),
        "top": largest(relative, top),
        "modules": rounded(modules),
    }


def largest(values: dict[str, float], count: int) -> dict[str, float]:
    """Return the `count` largest of named values, largest first; a NaN counts as larger than all."""
    ranked = sorted(values.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1], reverse=True)
    return rounded(dict(ranked[:count]))


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Return values with 6 digits, as many as a norm in float32 has, for shorter lines."""
    return {name: float(f"{value:.6g}") for name, value in values.items()}


def module_of(name: str) -> str:
    """Return the module of a parameter, without what holds or wraps the model."""
    return ".".join(part for part in plain(name).split(".")[:-1] if part != "model") or name
