"""Tokens on disk, seen as rows of the model's context length."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lm.batch import NO_LABEL


class TokenRows(Dataset[dict[str, Tensor]]):
    """`size` rows of the tokens of one split. `loss_mask` says which of them the loss counts; None for all."""

    size: int

    def __init__(self, file: Path, dtype: str, context: int, *, loss_mask: Path | None = None) -> None:
        self.file, self.dtype, self.context, self.loss_mask = file, dtype, context, loss_mask

    def __len__(self) -> int:
        return self.size

    def row(self, start: int, end: int) -> dict[str, Tensor]:
        """Return tokens[start:end] as `input_ids` and `labels`, (T,) each; what is missing to T has no label."""
        ids = labels = _read(self.file, self.dtype, start, end)
        if self.loss_mask is not None:
            labels = torch.where(_read(self.loss_mask, "bool", start, end).bool(), ids, NO_LABEL)
        missing = self.context - len(ids)
        return {
            "input_ids": torch.nn.functional.pad(ids, (0, missing), value=0),
            "labels": torch.nn.functional.pad(labels, (0, missing), value=NO_LABEL),
        }


class Windows(TokenRows):
    """Window i is tokens[i * (T - 1) : i * (T - 1) + T]: one token overlaps, so that every token is predicted once.

    `labels` are the same tokens; the loss shifts them. The last tokens that do not fill a window are padded with labels
    NO_LABEL when `keep_last`, else dropped.
    """

    def __init__(
        self, file: Path, dtype: str, context: int, *, loss_mask: Path | None = None, keep_last: bool = False
    ) -> None:
        super().__init__(file, dtype, context, loss_mask=loss_mask)
        steps = max(0, file.stat().st_size // np.dtype(dtype).itemsize - 1)
        self.size = -(-steps // (context - 1)) if keep_last else steps // (context - 1)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start = index * (self.context - 1)
        return self.row(start, start + self.context)


class Rows(TokenRows):
    """Row i is document i alone: cut at the context, which loses its end, or padded with positions without labels."""

    def __init__(self, file: Path, dtype: str, context: int, ends: Path, *, loss_mask: Path | None = None) -> None:
        super().__init__(file, dtype, context, loss_mask=loss_mask)
        self.ends = ends
        self.size = ends.stat().st_size // np.dtype(np.int64).itemsize

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ends = np.memmap(self.ends, dtype=np.int64, mode="r")
        start, end = int(ends[index - 1]) if index else 0, int(ends[index])
        return self.row(start, min(end, start + self.context))


def _read(file: Path, dtype: str, start: int, end: int) -> Tensor:
    # Opened at each access: a mapping is cheap to make, cannot be pickled to a spawned worker, and kept open its
    # pages would count as this process's memory for ever.
    return torch.from_numpy(np.memmap(file, dtype=dtype, mode="r")[start:end].astype(np.int64))
