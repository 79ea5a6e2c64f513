"""Tokens on disk, seen as windows of the model's context length."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

NO_LABEL = -100


class Windows(Dataset[dict[str, Tensor]]):
    """Window i is tokens[i * (T - 1) : i * (T - 1) + T]: one token overlaps, so that every token is predicted once.

    `labels` are the same tokens; the loss shifts them. The last tokens that do not fill a window are padded with labels
    NO_LABEL when `keep_last`, else dropped.
    """

    def __init__(self, file: Path, dtype: str, context: int, *, keep_last: bool = False) -> None:
        self.file = file
        self.dtype = dtype
        self.context = context
        tokens = file.stat().st_size // np.dtype(dtype).itemsize
        steps = max(0, tokens - 1)
        self.size = -(-steps // (context - 1)) if keep_last else steps // (context - 1)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        # Opened at each access: a mapping is cheap to make, cannot be pickled to a spawned worker, and kept open its pages
        # would count as this process's memory for ever.
        tokens = np.memmap(self.file, dtype=self.dtype, mode="r")
        start = index * (self.context - 1)
        window = torch.from_numpy(tokens[start : start + self.context].astype(np.int64))  # (T,)
        missing = self.context - len(window)
        return {
            "input_ids": torch.nn.functional.pad(window, (0, missing), value=0),
            "labels": torch.nn.functional.pad(window, (0, missing), value=NO_LABEL),
        }


def collate(rows: list[dict[str, Tensor]], batch_size: int) -> dict[str, Tensor]:
    """Stack rows to (B, T) each. A last batch with fewer is filled with rows without labels: shapes never change, so that
    compiled code is compiled once."""
    filler = {"input_ids": torch.zeros_like(rows[0]["input_ids"]), "labels": torch.full_like(rows[0]["labels"], NO_LABEL)}
    rows = rows + [filler] * (batch_size - len(rows))
    return {name: torch.stack([row[name] for row in rows]) for name in filler}
