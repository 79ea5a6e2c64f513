"""Find the first module that makes a non-finite number out of finite ones, forward or backward.

    with FirstNonFinite(model) as finder:
        loss = ...
        finder.check_loss(loss)
        loss.backward()
    print(finder.found)

Every tensor that enters or leaves a module is looked at in the order of computation, and so is every gradient that
comes back through the same doors. What appears inside a module but outside its children (an attention kernel between
two projections, a residual sum) is blamed on that module. Each look waits for the device: this is for replays.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

LOSS = "loss"
INPUT = "input"


@dataclass(frozen=True)
class NonFinite:
    """The first bad value. `module` is a dotted name, or "loss", or "input" for what the model was given."""

    module: str
    value: str  # "output", "gradient", "gradient of weight", "loss", "input"
    note: str = ""  # where inside the module
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"the {self.value} of {self.module}{f' ({self.note})' if self.note else ''}"


class FirstNonFinite:
    """Hooks that last as long as the `with` block. A tensor passes as a view of itself, so the loss is the same to the
    bit; gradients that several modules add up may differ in their last digit, for they are added in another order.

    on_found is called once, inside the module's call, where a debugger can look at its inputs.
    """

    def __init__(self, model: Module, on_found: Callable[[NonFinite], None] = lambda _: None) -> None:
        self.model = model
        self.on_found = on_found
        self.found: NonFinite | None = None
        self._names = {module: name for name, module in model.named_modules()}
        self._inputs: dict[str, dict[str, Any]] = {}
        self._open: list[str] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for module, name in self._names.items():
            self._handles += [
                module.register_forward_pre_hook(partial(self._enters, name), with_kwargs=True),
                module.register_forward_hook(partial(self._leaves, name), always_call=True),
            ]
            for weight, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    check = partial(self._check, name, f"gradient of {weight}", "")
                    self._handles.append(parameter.register_hook(check))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def check_loss(self, loss: Tensor) -> None:
        self._check(LOSS, "value", "the model's output is finite", loss)

    def _enters(
        self, name: str, _module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        parent = self._open[-1] if self._open else None
        self._open.append(name)
        # An additive attention mask is full of -inf on purpose.
        kwargs_without_masks = {key: value for key, value in kwargs.items() if "mask" not in key}
        for key, given in [("", args), *kwargs_without_masks.items()]:
            for tensor in _floats(given):
                self._inputs.setdefault(name, describe(tensor))
                note = f"in its own operations, before {_last(name)}" if parent is not None else key
                self._check(INPUT if parent is None else parent, "output", note, tensor)
        watch = partial(self._watch, partial(self._check, name, "gradient", "of its input"))
        return tree_map(watch, args), {**kwargs, **tree_map(watch, kwargs_without_masks)}

    def _leaves(self, name: str, _module: Module, _args: tuple[Any, ...], output: Any) -> Any:
        self._open.pop()
        for tensor in _floats(output):
            self._check(name, "output", "", tensor)
        # A gradient that is bad when it arrives here was made by whoever used this output: the parent, or the loss.
        parent, note = name.rpartition(".")[0], f"in its own operations, after {_last(name)}"
        blame = (LOSS, "gradient", "") if name == "" else (parent, "gradient", note)
        return tree_map(partial(self._watch, partial(self._check, *blame)), output)

    def _watch(self, check: Callable[[Tensor], None], value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.requires_grad:
            return value
        # A view of its own for each door: the gradient of a tensor that several modules use is their sum.
        door = value.view_as(value)
        door.register_hook(check)
        return door

    def _check(self, module: str, value: str, note: str, tensor: Tensor) -> None:
        # Detached, since a look that autograd records would be missing when checkpointing recomputes.
        if self.found is None and not bool(torch.isfinite(tensor.detach()).all()):
            statistics = {"value": describe(tensor)}
            if module in self._inputs:
                statistics["input"] = self._inputs[module]
            if module not in (LOSS, INPUT):
                weights = self.model.get_submodule(module).named_parameters(recurse=False)
                statistics |= {weight: describe(parameter) for weight, parameter in weights}
            self.found = NonFinite(module or "the model", value, note, statistics)
            self.on_found(self.found)


def describe(tensor: Tensor) -> dict[str, Any]:
    """Return shape, dtype and how many values are not finite, and range, mean and spread of those that are."""
    values = tensor.detach()
    finite = values[torch.isfinite(values)].double()
    summary: dict[str, Any] = {
        "shape": list(values.shape),
        "dtype": str(values.dtype).removeprefix("torch."),
        "nan": int(values.isnan().sum()),
        "inf": int(values.isinf().sum()),
    }
    if finite.numel():
        spread = finite.std(correction=0)
        summary |= {"min": finite.min(), "max": finite.max(), "mean": finite.mean(), "std": spread}
    return {key: value.item() if isinstance(value, Tensor) else value for key, value in summary.items()}


def _floats(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else None, tree)
    return found


def _last(name: str) -> str:
    return name.rpartition(".")[2] or "the model"
