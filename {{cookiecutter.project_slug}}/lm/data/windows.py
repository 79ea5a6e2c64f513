"""Tokens on disk, seen as windows of the model's context length."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lm.batch import NO_LABEL


class Tokens:
    """The tokens of one split on disk. `loss_mask` says which of them the loss counts; None for all."""

    def __init__(self, file: Path, dtype: str, loss_mask: Path | None = None) -> None:
        self.file = file
        self.dtype = dtype
        self.loss_mask = loss_mask
        self.size = file.stat().st_size // np.dtype(dtype).itemsize

    def row(self, start: int, end: int, context: int) -> dict[str, Tensor]:
        """Return tokens[start:end] as `input_ids` and `labels`, (T,) each; what is missing to T has no label."""
        ids = self._read(self.file, self.dtype, start, end)
        labels = ids
        if self.loss_mask is not None:
            labels = torch.where(self._read(self.loss_mask, "bool", start, end).bool(), ids, NO_LABEL)
        missing = context - len(ids)
        return {
            "input_ids": torch.nn.functional.pad(ids, (0, missing), value=0),
            "labels": torch.nn.functional.pad(labels, (0, missing), value=NO_LABEL),
        }

    @staticmethod
    def _read(file: Path, dtype: str, start: int, end: int) -> Tensor:
        # Opened at each access: a mapping is cheap to make, cannot be pickled to a spawned worker, and kept open its
        # pages would count as this process's memory for ever.
        return torch.from_numpy(np.memmap(file, dtype=dtype, mode="r")[start:end].astype(np.int64))


class Windows(Dataset[dict[str, Tensor]]):
    """Window i is tokens[i * (T - 1) : i * (T - 1) + T]: one token overlaps, so that every token is predicted once.

    `labels` are the same tokens; the loss shifts them. The last tokens that do not fill a window are padded with labels
    NO_LABEL when `keep_last`, else dropped.
    """

    def __init__(
        self, file: Path, dtype: str, context: int, *, loss_mask: Path | None = None, keep_last: bool = False
    ) -> None:
        self.tokens = Tokens(file, dtype, loss_mask)
        self.context = context
        steps = max(0, self.tokens.size - 1)
        self.size = -(-steps // (context - 1)) if keep_last else steps // (context - 1)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start = index * (self.context - 1)
        return self.tokens.row(start, start + self.context, self.context)


class Rows(Dataset[dict[str, Tensor]]):
    """Row i is document i alone: cut at the context, which loses its end, or padded with positions without labels."""

    def __init__(self, file: Path, dtype: str, context: int, ends: Path, *, loss_mask: Path | None = None) -> None:
        self.tokens = Tokens(file, dtype, loss_mask)
        self.context = context
        self.ends = ends
        self.size = ends.stat().st_size // np.dtype(np.int64).itemsize

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ends = np.memmap(self.ends, dtype=np.int64, mode="r")
        start, end = int(ends[index - 1]) if index else 0, int(ends[index])
        return self.tokens.row(start, min(end, start + self.context), self.context)
