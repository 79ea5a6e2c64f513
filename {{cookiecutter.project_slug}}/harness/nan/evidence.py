"""What can be said about a skipped step while its batches and about its weights are still there."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.batch import Batch
from harness.checkpoint.rng import drawn_from, of_step
from harness.nan.bundle import weight_norms
from harness.nan.finder import describe


@dataclass
class Step:
    """The micro-batches of one optimizer step, and torch's generators as they were before it."""

    number: int
    rng: dict[str, Tensor]
    batches: list[Batch] = field(default_factory=list)


class Memory:
    """The last steps' batches: references to tensors that are on the device anyway."""

    def __init__(self, steps: int) -> None:
        self._steps: deque[Step] = deque(maxlen=steps)

    def add(self, step: int, batch: Batch, device: torch.device) -> None:
        if not self._steps or self._steps[-1].number != step:
            self._steps.append(Step(step, of_step(device)))
        self._steps[-1].batches.append(batch)

    def recall(self, step: int) -> Step | None:
        return next((known for known in self._steps if known.number == step), None)

    def clear(self) -> None:
        self._steps.clear()


def facts_about(step: Step, module: Any) -> dict[str, Any]:
    """Look at the batches, at what the model makes of them now, and at its weights. Waits for the device.

    The weights are those of now, a few steps after the skipped one. A replay sees what they were; this is for reading.
    """
    device = next(module.parameters()).device
    batches = []
    with torch.no_grad(), drawn_from(step.rng, device), module.trainer.precision_plugin.forward_context():
        for batch in step.batches:
            batches.append({**module.format.describe(batch), "outputs_now": _outputs(module, batch)})
    return {"micro_batches": batches, "weights_now": weight_norms(module.network)}


def _outputs(module: Any, batch: Batch) -> dict[str, Any] | None:
    """Describe what the model makes of a batch, where its `forward` takes one."""
    try:
        outputs = module(batch)
    except (TypeError, KeyError, AttributeError, NotImplementedError):
        return None
    return describe(outputs) if isinstance(outputs, Tensor) else None


def why(norm: float, limit: float, loss: float) -> str:
    """Return why a step was skipped, to go into a sentence after "its"."""
    if not math.isfinite(norm):
        return f"gradient norm {norm:.4g} is not finite"
    if not math.isfinite(loss):
        return f"loss {loss:.4g} is not finite"
    return f"gradient norm {norm:.4g} is above the limit of {limit:.4g}"
