"""The data of a run as Lightning asks for them, in an order that depends on nothing but the seed and the cursor."""

from collections.abc import Sized
from typing import Any, Literal, cast

from lightning.pytorch import LightningDataModule
from torch import Generator
from torch.utils.data import DataLoader, Dataset, default_collate

from harness.data.order import Order, TrainingOrder, batches_per_epoch


class ExactData(LightningDataModule):
    """Inherit, and set `train_set` and `val_set` (None for no validation): map-style datasets whose item depends on its
    index alone. `connect` is the place for what is known only later; `collate` makes a batch of rows.

    batch_size: rows of a micro-batch on one device; for auto 1, until `settle_batch_size` has found it. seed: of the
    order. num_workers: loader processes; any number gives the same order. The whole state is the cursor: windows
    trained by all ranks since the beginning.
    """

    train_set: Dataset[Any]
    val_set: Dataset[Any] | None = None
    order: Order | None = None  # where it is not a shuffle of the whole train_set
    val_parts: dict[str, int] | None = None  # names and sizes of the sets that follow one another in val_set

    def __init__(self, *, batch_size: int | Literal["auto"], seed: int = 0, num_workers: int = 0) -> None:
        super().__init__()
        self.batch_size = 1 if batch_size == "auto" else batch_size
        self.seed = seed
        self.num_workers = num_workers
        self._restored = {"windows": 0, "batches": 0}
        self._share: float | None = None  # of an epoch, once it is taken from the Trainer

    def connect(self, **known: Any) -> None:
        """Take what is known only once the rest of the experiment is; called once, before anything is asked."""

    def collate(self, rows: list[Any]) -> Any:
        """Make a batch of `batch_size` rows; the last validation batch may have fewer."""
        return default_collate(rows)

    @property
    def described(self) -> dict[str, Any]:
        """What the cursor counts in, for the manifest of a checkpoint: `fingerprint` has to change with the data."""
        return {"fingerprint": f"{len(cast(Sized, self.train_set))} windows", "train": len(cast(Sized, self.train_set))}

    @property
    def consumed(self) -> int:
        """Windows trained so far by all ranks, over all epochs and attempts: the cursor."""
        return self._restored["windows"] + self._new_batches() * self.batch_size * self._world

    def steps_per_epoch(self, *, world: int, accumulate: int, limit: float | None = None) -> int:
        """Return how many optimizer steps an epoch has with so many devices."""
        size = len(cast(Sized, self.train_set))
        return -(-batches_per_epoch(size, self.batch_size * world, accumulate, limit) // accumulate)

    def state_dict(self) -> dict[str, int]:
        return {"windows": self.consumed, "batches": self._restored["batches"] + self._new_batches()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._restored = {"windows": int(state["windows"]), "batches": int(state["batches"])}

    def realign(self, checkpoint: dict[str, Any]) -> None:
        """Let Lightning's counters of a checkpoint agree with its cursor where another batch size, accumulation or
        number of devices goes on: they count batches, the cursor counts windows. They become what they would be had the
        whole run been as it is now, so that validation comes at the same optimizer steps."""
        size, accumulate = self._trained_windows(), self.trainer.accumulate_grad_batches  # type: ignore[union-attr]
        global_batch = self.batch_size * self._world
        batches = batches_per_epoch(size, global_batch, accumulate, self._limit)
        state, progress = (
            checkpoint[type(self).__qualname__],
            checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"],
        )
        done = int(state["windows"]) // global_batch
        for counters, count in ((progress["total"], done), (progress["current"], done % batches)):
            if counters["processed"] != count:
                counters.update(ready=count, started=count, processed=count, completed=count - 1)
        state["batches"] = progress["total"]["processed"]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        # In this process and not in collate: one message for all workers, and an error without a worker's traceback.
        module: Any = self.trainer and self.trainer.lightning_module
        if module is not None and self.trainer is not None and self.trainer.training and hasattr(module, "format"):
            module.format.check(batch, self.trainer.global_step)
        return batch

    def train_dataloader(self) -> DataLoader[Any]:
        trainer: Any = self.trainer
        limit = self._limit
        order = TrainingOrder(
            self._trained_windows(),
            self.batch_size,
            self.seed,
            lambda: self.consumed,
            rank=trainer.global_rank if trainer else 0,
            world=self._world,
            accumulate=trainer.accumulate_grad_batches if trainer else 1,
            limit=limit,
            order=None if self.overfitting else self.order,
        )
        if isinstance(limit, float) and len(order) > 1:  # else Lightning would take that share of what it leaves
            self._share, trainer.limit_train_batches = limit, 1.0
        return self._loader(self.train_set, order)

    def val_dataloader(self) -> DataLoader[Any] | None:
        if self.val_set is None:
            return None
        rank, start, batches = self.trainer.global_rank if self.trainer else 0, 0, []
        for number, size in enumerate((self.val_parts or {"": len(cast(Sized, self.val_set))}).values()):
            mine = range(start + rank, start + size, self._world)
            batches += [(number, list(mine[i : i + self.batch_size])) for i in range(0, len(mine), self.batch_size)]
            start += size
        self._part_of_batch = [number for number, _ in batches]
        return self._loader(self.val_set, [batch for _, batch in batches])

    def val_part(self, batch_index: int) -> int:
        """Return which of `val_parts` a validation batch of this rank is of."""
        return self._part_of_batch[batch_index]

    @property
    def overfitting(self) -> bool:
        return bool(getattr(self.trainer, "overfit_batches", 0))

    @property
    def _limit(self) -> float | None:
        if self._share is not None:
            return self._share
        return self.trainer.limit_train_batches if self.trainer else None

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _new_batches(self) -> int:
        """Return the micro-batches that each rank has trained since the state was loaded."""
        if self.trainer is None:
            return 0
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        return max(0, int(progress.total.processed) - self._restored["batches"])

    def _trained_windows(self) -> int:
        """Return how many windows an epoch draws from: all, or the first few of `trainer.overfit_batches`.

        Lightning would cut each epoch's order off after so many batches, and each epoch's order has others in front.
        """
        size, overfit = len(cast(Sized, self.train_set)), getattr(self.trainer, "overfit_batches", 0)
        batch = self.batch_size * self._world
        return min(size, max(batch, int(overfit * (batch if isinstance(overfit, int) else size)))) if overfit else size

    def _loader(self, windows: Dataset[Any], batch_sampler: Any) -> DataLoader[Any]:
        return DataLoader(
            windows,
            batch_sampler=batch_sampler,
            collate_fn=self.collate,
            num_workers=self.num_workers,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            persistent_workers=self.num_workers > 0,
            # Of its own, so that an iterator takes no number from the global stream that dropout draws from.
            generator=Generator().manual_seed(self.seed),
        )
