"""Tokens on disk, seen as rows of the model's context length; which tokens a row has is harness/data/layout.py."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from harness.data.layout import Layout
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
        ids = labels = _read(self.file, self.dtype, stretches)
        if self.loss_mask is not None:
            labels = torch.where(_read(self.loss_mask, "bool", stretches).bool(), ids, NO_LABEL)
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


def _read(file: Path, dtype: str, stretches: list[tuple[int, int]]) -> Tensor:
    # Opened at each access: a mapping is cheap to make, cannot be pickled to a spawned worker, and kept open its
    # pages would count as this process's memory for ever.
    numbers = np.memmap(file, dtype=dtype, mode="r")
    return torch.from_numpy(np.concatenate([numbers[start:end] for start, end in stretches]).astype(np.int64))
