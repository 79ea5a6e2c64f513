"""The data of a run as Lightning asks for them, and the cursor that says where the run is in them."""

import functools
import logging
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from harness.data.order import TrainingOrder
from lm.batch import Inspector
from lm.data.prepare import Prepared
from lm.data.windows import Rows, Windows, collate

log = logging.getLogger(__name__)


class LmData(LightningDataModule):
    """Batches {"input_ids", "labels"} of shape (B, T) int64 from a prepared folder.

    The training order is a pure function of (seed, epoch, position), so this module's whole state is `consumed`.
    """

    def __init__(
        self,
        prepared: Prepared,
        *,
        context: int,
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        packing: bool = True,
    ) -> None:
        super().__init__()
        self.prepared = prepared
        self.tokenizer = prepared.tokenizer
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.train_windows = windows(prepared, "train", context, packing=packing)
        self.val_windows = windows(prepared, "val", context, packing=packing)
        self._restored = 0
        self._inspector: Inspector | None = None

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.trainer is not None:
            model: Any = self.trainer.lightning_module.model
            self._inspector = Inspector(model.config.vocab_size)

    def on_before_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        # In this process and not in collate: one message for all workers, and an error without a worker's traceback.
        if self._inspector and self.trainer is not None and self.trainer.training:
            self._inspector.look(batch, self.trainer.global_step)
        return batch

    def teardown(self, stage: str) -> None:
        if self._inspector and self._inspector.rows_without_label:
            log.warning("%d rows without a label were trained on.", self._inspector.rows_without_label)
        self._inspector = None

    @property
    def consumed(self) -> int:
        """Micro-batches trained so far by each rank, over all epochs and attempts: the cursor."""
        if self.trainer is None:
            return self._restored
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        return max(self._restored, int(progress.total.processed))

    @property
    def described(self) -> dict[str, Any]:
        """What a checkpoint's cursor counts in: the prepared folder and its numbers."""
        return {"fingerprint": self.prepared.folder.name, **self.prepared.meta}

    def state_dict(self) -> dict[str, Any]:
        return {"consumed": self.consumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._restored = int(state["consumed"])

    def train_dataloader(self) -> DataLoader[Any]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        order = TrainingOrder(
            self._trained_windows(world), self.batch_size, self.seed, lambda: self.consumed, rank, world
        )
        return self._loader(self.train_windows, batch_sampler=order)

    def val_dataloader(self) -> DataLoader[Any]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        mine = range(rank, len(self.val_windows), world)
        batches = [list(mine[start : start + self.batch_size]) for start in range(0, len(mine), self.batch_size)]
        return self._loader(self.val_windows, batch_sampler=batches)

    def _trained_windows(self, world: int) -> int:
        """Return how many windows an epoch draws from: all, or the first few of `trainer.overfit_batches`.

        Lightning would cut each epoch's order off after so many batches, and each epoch's order has others in front.
        """
        size, overfit = len(self.train_windows), getattr(self.trainer, "overfit_batches", 0)
        batch = self.batch_size * world
        return min(size, max(batch, int(overfit * (batch if isinstance(overfit, int) else size)))) if overfit else size

    def _loader(self, windows: Windows | Rows, batch_sampler: Any) -> DataLoader[Any]:
        return DataLoader(
            windows,
            batch_sampler=batch_sampler,
            collate_fn=functools.partial(collate, batch_size=self.batch_size),
            num_workers=self.num_workers,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            persistent_workers=self.num_workers > 0,
            # Of its own, so that an iterator takes no number from the global stream that dropout draws from.
            generator=Generator().manual_seed(self.seed),
        )


def windows(prepared: Prepared, side: str, context: int, *, packing: bool = True) -> Windows | Rows:
    """Return one side as windows across documents, or without `packing` as a row for each document.

    Training drops the last tokens that fill no window; validation pads and keeps them.
    """
    file, learned = prepared.tokens(side), prepared.learned(side)
    if packing:
        return Windows(file, prepared.dtype, context, learned=learned, keep_last=side == "val")
    return Rows(file, prepared.dtype, context, prepared.ends(side), learned=learned)
