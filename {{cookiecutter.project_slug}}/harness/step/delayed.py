"""Read device scalars a few steps later, when reading them no longer makes the host wait for the device."""

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Reading(NamedTuple):
    step: int
    values: list[float]


class DelayedReadback:
    """A queue that gives back each step's values exactly `lag` steps after it was given them.

    The lag is a number of steps and not "as soon as it has arrived", so that all ranks, and a replay, act on a value
    at the same step. On CUDA the copy goes through pinned memory; waiting for a copy that was queued `lag` steps ago
    leaves the device with `lag` steps of work, so it never runs dry.
    """

    def __init__(self, lag: int = 2) -> None:
        self.lag = lag
        self._pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def push(self, step: int, values: Tensor) -> None:
        """Queue a fresh 1-D tensor: on the CPU it is kept, not copied."""
        arrived = None
        if values.is_cuda:
            stream = torch.cuda.current_stream(values.device)
            values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            arrived = stream.record_event()
        self._pending.append((step, values, arrived))

    def ready(self, step: int) -> Iterator[Reading]:
        """Yield what was pushed `lag` or more steps before `step`, oldest first."""
        while self._pending and self._pending[0][0] <= step - self.lag:
            yield self._pop()

    def _pop(self) -> Reading:
        step, values, arrived = self._pending.popleft()
        if arrived is not None:
            arrived.synchronize()
        return Reading(step, values.tolist())

    def clear(self) -> None:
        self._pending.clear()

    def state_dict(self) -> dict[str, Any]:
        """Waits for the device: for checkpoints."""
        for _, _, arrived in self._pending:
            if arrived is not None:
                arrived.synchronize()
        return {"pending": [(step, values.tolist()) for step, values, _ in self._pending]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._pending = deque((step, torch.tensor(values), None) for step, values in state["pending"])
