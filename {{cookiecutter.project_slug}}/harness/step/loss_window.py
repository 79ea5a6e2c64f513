"""The mean loss over all labels of one optimizer step, exact under padding, accumulation and several devices.

Only the last micro-batch of a step knows how many labels the step has, so each one backpropagates its *sum* over a
constant, and the true denominator is multiplied in with the clip coefficient when the optimizer steps: no look-ahead,
no second pass over the gradients, no wait.

    true gradient = stored gradient * factor        factor = constant * micro-batches * devices / labels

A mean of means, which is what loops usually compute, gives a label in a short row more weight than one in a full
row, and is nan for a batch without any.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Mean(NamedTuple):
    """Of one optimizer step, the same on every rank; float32 scalars on the device."""

    loss: Tensor  # nats per label; 0 without a label
    labels: Tensor
    factor: Tensor  # from stored to true gradient


class LossWindow:
    """Sums of loss and labels since the last optimizer step."""

    def __init__(self, labels_per_batch: float) -> None:
        # Any constant is right. With the number of labels of a full micro-batch the loss that is backpropagated is the
        # usual mean, so fp16 needs no other scale than elsewhere, and the factor of a full step is exactly 1.
        self.labels_per_batch = labels_per_batch
        self._sums: Tensor | None = None

    def add(self, total: Tensor, labels: Tensor) -> Tensor:
        """Count one micro-batch in: its summed loss and its number of labels. Returns what it backpropagates."""
        sums = torch.stack([total.detach(), labels])
        self._sums = sums if self._sums is None else self._sums + sums
        return total / self.labels_per_batch

    @property
    def sums(self) -> Tensor | None:
        """Loss and labels so far; `take_back` returns to an earlier value of it."""
        return self._sums

    def take_back(self, sums: Tensor | None, keep: Tensor) -> None:
        """Forget what came since `sums`, unless `keep`, a bool on the device."""
        if self._sums is not None:
            self._sums = torch.where(keep, self._sums, torch.zeros_like(self._sums) if sums is None else sums)

    def close(self, micro_batches: int, *, all_ranks: bool = True) -> Mean:
        """Return the mean of the window, of all ranks or of this one alone, and begin the next one.

        micro_batches: what the loop divided each loss by; not how many came, for an epoch's last window may be short.
        """
        if self._sums is None:
            raise RuntimeError("An optimizer step without a micro-batch.")
        sums, self._sums, devices = self._sums, None, 1
        if all_ranks and torch.distributed.is_available() and torch.distributed.is_initialized():
            devices = torch.distributed.get_world_size()
            torch.distributed.all_reduce(sums)
        total, labels = sums
        denominator = labels.clamp(min=1)
        return Mean(total / denominator, labels, self.labels_per_batch * micro_batches * devices / denominator)
