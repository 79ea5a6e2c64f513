"""Batches of sequences whose members are whole numbers, each a class, and in which every one predicts the next.

    input_ids  (B, T) int64  the numbers, below `classes`
    labels     (B, T) int64  the same numbers where the loss counts them, else NO_LABEL; the loss shifts them

B rows, T positions.
"""

import logging
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from harness.batch import Batch, BatchFormat, describe_tensor
from harness.errors import UserError
from harness.telemetry import events

log = logging.getLogger(__name__)

NO_LABEL = -100  # what torch's cross-entropy ignores
MOST_LABELS = 5  # that a description counts one by one
NEIGHBOURS = 6  # numbers of each of two documents that are tried side by side


class SequenceBatch(BatchFormat):
    """`show` is how many predictions an event has beside their labels. Inherit and write `refuse`."""

    def __init__(self, classes: int, show: int = 16) -> None:
        self.classes = classes
        self.shown = show
        self.rows_without_label = 0

    def refuse(self, name: str, row: int, position: int, number: int) -> NoReturn:
        """Raise UserError for a number of the tensor `name` that the model has no class for."""
        raise NotImplementedError

    def rows(self, batch: Batch) -> int:
        return len(batch["input_ids"])

    def size(self, batch: Batch) -> int:
        return batch["input_ids"].numel()

    def check(self, batch: Batch, step: int) -> None:
        """Refuse a number that is no class; count the rows that teach nothing."""
        for name in ("input_ids", "labels"):
            self._within(name, batch[name], step)
        empty = int((batch["labels"][:, 1:] == NO_LABEL).all(dim=1).sum())
        if empty and not self.rows_without_label:
            facts = self.describe(batch)
            numbers = facts["rows"], self.size(batch), facts["without_label"], facts["valid"], *facts["ids"]
            log.warning(
                "%d of %d rows have no label: they teach nothing, and their loss is 0. This is said once. Of the "
                "batch's %d positions %d say -100 and the loss counts %d; its ids go from %d to %d.",
                empty,
                *numbers,
            )
            events.emit("data_sanity_check", step, {"rows_without_label": empty, "batch": facts}, warning=True)
        self.rows_without_label += empty

    def describe(self, batch: Batch) -> dict[str, Any]:
        ids, labels = batch["input_ids"].cpu(), batch["labels"].cpu()
        counted = labels[:, 1:] != NO_LABEL  # the loss shifts: nothing predicts the first of a row
        values, counts = labels[labels != NO_LABEL].unique(return_counts=True)
        common = counts.argsort(descending=True, stable=True)[:MOST_LABELS]
        others = {name: value for name, value in batch.items() if name not in ("input_ids", "labels")}
        return {
            "rows": ids.shape[0],
            "positions": ids.shape[1],
            "ids": [int(ids.min()), int(ids.max())],
            "labels": [int(values.min()), int(values.max())] if len(values) else None,
            "distinct_labels": len(values),
            "common_labels": {int(values[i]): int(counts[i]) for i in common},
            "without_label": int((labels == NO_LABEL).sum()),  # positions that say -100
            "valid": int(counted.sum()),  # positions that the loss counts
            "rows_without_label": int((~counted.any(dim=1)).sum()),
            "padding_share": padding(batch).float().mean().item(),
            **{name: describe_tensor(tensor) for name, tensor in others.items()},
        }

    def measure(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return [correct, valid, `show` predicted numbers, `show` expected ones] of logits (B, T, classes).

        Those shown begin with the first row's first label; numbers below 2**24 are exact in float32.
        """
        targets = batch["labels"][-len(outputs) :, 1:]  # (B, T-1): position t predicts t+1; of the last piece, if cut
        predicted = outputs[:, :-1].argmax(dim=-1)  # (B, T-1)
        valid = targets != NO_LABEL
        correct = (predicted == targets) & valid
        show = min(self.shown, targets.shape[1])
        first = valid[0].int().argmax().clamp(max=targets.shape[1] - show)
        shown = first + torch.arange(show, device=targets.device)
        counts = torch.stack((correct.sum(), valid.sum()))
        return torch.cat((counts, predicted[0, shown], targets[0, shown])).float()

    def explain(self, numbers: list[float]) -> dict[str, Any]:
        correct, valid, *ids = numbers
        half = len(ids) // 2
        pairs = [(int(p), int(t)) for p, t in zip(ids[:half], ids[half:], strict=True) if t != NO_LABEL]
        sides = {"predicted": {"ids": [p for p, _ in pairs]}, "expected": {"ids": [t for _, t in pairs]}}
        return {"accuracy": correct / max(valid, 1), **sides}

    def first_look(self, batch: Batch) -> dict[str, Any]:
        facts = self.describe(batch)
        labels, ids = facts["labels"] or [], facts["ids"]
        return {
            "vocabulary": self.classes,
            "label_min": min(labels, default=None),
            "label_max": max(labels, default=None),
            "input_min": ids[0],
            "input_max": ids[1],
            "valid_tokens": batch["labels"].numel() - facts["without_label"],
            "ignored_tokens": facts["without_label"],
            "ok": bool(labels) and min(labels + ids) >= 0 and max(labels + ids) < self.classes,
        }

    def _within(self, name: str, numbers: Tensor, step: int) -> None:
        low, high = (int(value) for value in torch.aminmax(numbers))
        if high < self.classes and low >= 0:
            return
        allowed = (numbers >= 0) & (numbers < self.classes)
        if name == "labels":
            allowed |= numbers == NO_LABEL
        if allowed.all():
            return
        row, position = (int(index) for index in (~allowed).nonzero()[0])
        facts = {"name": name, "row": row, "position": position, "id": int(numbers[row, position])}
        events.emit("data_sanity_check", step, {"ok": False, "vocabulary": self.classes, **facts}, warning=True)
        self.refuse(name, row, position, facts["id"])  # type: ignore[arg-type]


def padding(batch: Batch) -> Tensor:
    """Return which positions of a batch are padding, (B, T): those after the last position that carries a label or
    differs from the row's last number; by the attention mask where there is one."""
    if "attention_mask" in batch:
        return batch["attention_mask"] == 0
    ids, labels = batch["input_ids"], batch["labels"]
    idle = (labels == NO_LABEL) & (ids == ids[:, -1:])
    trailing = idle.int().flip(1).cumprod(1).flip(1).bool()
    return trailing & (trailing.sum(1, keepdim=True) > 1)  # one such number is the end of a text


def collate(rows: list[Batch], batch_size: int) -> Batch:
    """Stack rows to (B, T) each. A last batch with fewer is filled with rows without labels: shapes never change, so
    that compiled code is compiled once. Keys besides the numbers and labels are stacked as they are."""
    filler = {name: torch.zeros_like(tensor) for name, tensor in rows[0].items()}
    filler["labels"] = torch.full_like(rows[0]["labels"], NO_LABEL)
    rows = rows + [filler] * (batch_size - len(rows))
    return {name: torch.stack([row[name] for row in rows]) for name in filler}


@torch.no_grad()
def refuse_leaks(model: nn.Module, outputs: Callable[[Batch], Tensor]) -> None:
    """Raise UserError for a model that lets a document see another of its row, tried with two small ones: whatever the
    first holds, the `outputs` (B, T, classes) of the second have to be the same, bit for bit."""
    was_training = model.training
    positions = torch.arange(NEIGHBOURS).repeat(2)[None]
    one, other = torch.arange(2 * NEIGHBOURS)[None], torch.arange(2 * NEIGHBOURS)[None]
    other[0, :NEIGHBOURS] = torch.arange(NEIGHBOURS).flip(0) + NEIGHBOURS
    model.eval()
    try:
        first, second = (outputs({"input_ids": ids, "position_ids": positions}) for ids in (one, other))
        apart = bool((first[:, NEIGHBOURS:] == second[:, NEIGHBOURS:]).all())
    except TypeError:  # its forward takes no `position_ids`
        apart = False
    finally:
        model.train(was_training)
    if not apart:
        raise UserError(
            f"{type(model).__name__} does not keep the documents of a window apart: they see one another.",
            cure="Set data.packing=true (documents follow one another) or data.packing=false (a row for each).",
        )
