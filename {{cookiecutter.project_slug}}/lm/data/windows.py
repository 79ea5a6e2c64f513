"""Tokens on disk, seen as rows of the model's context length; which tokens a row has is harness/data/layout.py."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from harness.data.layout import Layout, Sliding
from harness.data.numbers import read
from lm.batch import NO_LABEL


class Rows(Dataset[dict[str, Tensor]]):
    """Rows of the tokens of one split. `loss_mask` says which of them the loss counts; None for all."""

    def __init__(self, file: Path, dtype: str, layout: Layout, *, loss_mask: Path | None = None) -> None:
        self.file, self.dtype, self.layout, self.loss_mask = file, dtype, layout, loss_mask

    def __len__(self) -> int:
        return len(self.layout)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return `input_ids` and `labels`, (T,) each; what is missing to T has no label.

        `labels` are the same tokens; the loss shifts them. Where documents are kept apart, the first token of each is
        predicted by nothing, and `position_ids` (T,) begin anew in it: from them transformers tells that attention has
        to stay inside.
        """
        stretches = self.layout[index]
        ids = labels = torch.from_numpy(read(self.file, self.dtype, stretches))
        if self.loss_mask is not None:
            counted = torch.from_numpy(read(self.loss_mask, "bool", stretches))
            labels = torch.where(counted, ids, NO_LABEL)
        if isinstance(self.layout, Sliding):  # what the row before has predicted
            labels = torch.where(torch.arange(len(ids)) < self.layout.seen(index), NO_LABEL, labels)
        missing = self.layout.length - len(ids)
        row = {
            "input_ids": torch.nn.functional.pad(ids, (0, missing), value=0),
            "labels": torch.nn.functional.pad(labels, (0, missing), value=NO_LABEL),
        }
        if self.layout.apart:
            sizes = [end - start for start, end in stretches] + [missing] * (missing > 0)
            row["position_ids"] = torch.cat([torch.arange(size) for size in sizes])
            row["labels"] = torch.where(row["position_ids"] == 0, NO_LABEL, row["labels"])
        return row
