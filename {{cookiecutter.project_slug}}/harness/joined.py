"""Several optimizers that are one to everybody else: one list of groups, one state, one checkpoint."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer


class JoinedOptimizer(Optimizer):
    """Steps each of `parts`, which have parameters of their own each. What schedules a group or loads a state does so
    here."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self._parts = parts
        self._sizes = [len(part.param_groups) for part in parts]
        super().__init__([group for part in parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        first = 0
        for part, size in zip(self._parts, self._sizes, strict=True):
            # Here and not once: loading a checkpoint replaces both lists.
            part.param_groups, part.state = self.param_groups[first : first + size], self.state
            part.step()
            first += size
        return loss
