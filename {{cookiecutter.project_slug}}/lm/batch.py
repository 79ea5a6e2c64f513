"""What a batch is made of, and the two mistakes in it that end in a crash or a NaN far from their cause."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError
from harness.telemetry import events
from lm.data.windows import NO_LABEL

log = logging.getLogger(__name__)

MOST_LABELS = 5  # that a composition counts one by one


def composition(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """Count what a batch (B, T) is made of, in plain values. On a GPU this waits for the device."""
    ids, labels = batch["input_ids"].cpu(), batch["labels"].cpu()
    learned = labels[:, 1:] != NO_LABEL  # the loss shifts: nothing predicts the first token of a row
    values, counts = labels[labels != NO_LABEL].unique(return_counts=True)
    common = counts.argsort(descending=True, stable=True)[:MOST_LABELS]
    padding = ids.numel() - int(batch["attention_mask"].sum()) if "attention_mask" in batch else None
    return {
        "rows": ids.shape[0],
        "positions": ids.shape[1],
        "ids": [int(ids.min()), int(ids.max())],
        "labels": [int(values.min()), int(values.max())] if len(values) else None,
        "distinct_labels": len(values),
        "common_labels": {int(values[i]): int(counts[i]) for i in common},
        "without_label": int((labels == NO_LABEL).sum()),  # positions that say -100
        "valid": int(learned.sum()),  # positions that the loss counts
        "rows_without_label": int((~learned.any(dim=1)).sum()),
        "padding_share": None if padding is None else padding / ids.numel(),
    }


class Inspector:
    """Looks at each training batch on the host, before it travels: one clear message for each mistake, then counted."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.rows_without_label = 0

    def look(self, batch: Mapping[str, Tensor], step: int) -> None:
        """Raise UserError for an id that the model has no embedding for; count the rows that teach nothing."""
        for name in ("input_ids", "labels"):
            self._within_vocabulary(name, batch[name], step)
        empty = int((batch["labels"][:, 1:] == NO_LABEL).all(dim=1).sum())
        if empty and not self.rows_without_label:
            facts = composition(batch)
            log.warning(
                "%d of %d rows have no label: they teach nothing, and their loss is 0. This is said once. Of the "
                "batch's %d positions %d say -100 and the loss counts %d; its ids go from %d to %d.",
                empty,
                facts["rows"],
                facts["rows"] * facts["positions"],
                facts["without_label"],
                facts["valid"],
                *facts["ids"],
            )
            events.emit("data_sanity_check", step, {"rows_without_label": empty, "batch": facts}, warning=True)
        self.rows_without_label += empty

    def _within_vocabulary(self, name: str, tokens: Tensor, step: int) -> None:
        low, high = (int(value) for value in torch.aminmax(tokens))
        if high < self.vocab_size and low >= 0:
            return
        allowed = (tokens >= 0) & (tokens < self.vocab_size)
        if name == "labels":
            allowed |= tokens == NO_LABEL
        if allowed.all():
            return
        row, position = (int(index) for index in (~allowed).nonzero()[0])
        facts = {"name": name, "row": row, "position": position, "id": int(tokens[row, position])}
        events.emit("data_sanity_check", step, {"ok": False, "vocabulary": self.vocab_size, **facts}, warning=True)
        allowed_ids = f"0 to {self.vocab_size - 1}{', or -100 for no label' * (name == 'labels')}"
        raise UserError(
            f"{name}[{row}, {position}] is {facts['id']}, but the model's vocabulary has {self.vocab_size} tokens "
            f"({allowed_ids}).",
            cure="The data were tokenized for another model: set model.config.vocab_size, or prepare them again.",
        )
