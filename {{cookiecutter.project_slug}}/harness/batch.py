"""What the harness asks of a batch, answered for any mapping of tensors whose first dimension is the row.

An experiment that knows more about its batches inherits `BatchFormat` and names it in its module: the guard's evidence,
the event log, throughput and the cutting after out of memory then know it, too. A key that nobody mentions travels
along everywhere.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

Batch = dict[str, Tensor]
MOST_SHOWN = 8  # values of a row, where nothing better is known


class BatchFormat:
    """One object for a run. The methods may be called at any time, on any batch of the run."""

    unit = "samples"  # what `size` counts

    def rows(self, batch: Batch) -> int:
        """Return how many rows a batch has."""
        return len(next(iter(batch.values())))

    def size(self, batch: Batch) -> int:
        """Return how many units of work a batch is, padding included: for throughput. Must not wait for the device."""
        return self.rows(batch)

    def cut(self, batch: Batch, pieces: int) -> Iterator[Batch]:
        """Yield the rows of a batch in at most `pieces` parts, in order."""
        parts = {name: tensor.chunk(pieces) for name, tensor in batch.items()}
        for index in range(len(next(iter(parts.values())))):
            yield {name: chunks[index] for name, chunks in parts.items()}

    def check(self, batch: Batch, step: int) -> None:
        """Look at a training batch on the host before it travels. Raises UserError for one that would crash far
        away."""

    def describe(self, batch: Batch) -> dict[str, Any]:
        """Return what a batch is made of, in plain values. May wait for the device: for evidence and for people."""
        return {"rows": self.rows(batch), **{name: describe_tensor(tensor) for name, tensor in batch.items()}}

    def show(self, batch: Batch) -> list[str]:
        """Return each row as text that a person can read."""
        return [
            "  ".join(f"{name} {_short(tensor[row])}" for name, tensor in batch.items())
            for row in range(self.rows(batch))
        ]

    def measure(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        """Return numbers about what the model made of a batch, as one short tensor, without waiting for the device;
        None for nothing. `outputs` is what the module handed to `observe`."""
        return None

    def explain(self, numbers: list[float]) -> dict[str, Any]:
        """Turn the numbers of `measure`, once they are on the host, into fields of an event."""
        return {}

    def first_look(self, batch: Batch) -> dict[str, Any]:
        """Return what the first batch of a run should be checked for, with `ok`; may wait for the device."""
        return {"ok": True, **self.describe(batch)}


def describe_tensor(tensor: Tensor) -> dict[str, Any]:
    """Return shape, dtype and range of a tensor of a batch."""
    facts: dict[str, Any] = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
    return facts | ({"min": tensor.min().item(), "max": tensor.max().item()} if tensor.numel() else {})


def _short(values: Tensor) -> str:
    flat = values.flatten().tolist()
    return f"{flat[:MOST_SHOWN]}{' …' if len(flat) > MOST_SHOWN else ''}"
