"""A callback that acts every so often: the part that decides when, for those that say what."""

import math
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, Trainer


class Periodic(Callback):
    """Inherit and write `act(trainer, module)`. It is called every `every_n_steps` optimizer steps, `every_minutes`
    and at each epoch's end, at most once a step."""

    reads_metrics = False

    def __init__(
        self,
        *,
        every_n_steps: int | None = 100,
        every_minutes: float | None = None,
        at_epoch_end: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.every_n_steps = every_n_steps or 0
        self.every_seconds = math.inf if every_minutes is None else 60 * every_minutes
        self.at_epoch_end = at_epoch_end
        self.clock = clock
        self._step = self._acted_at = -1
        self._last = clock()

    def act(self, trainer: Trainer, module: Any) -> None:
        raise NotImplementedError

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._step = self._acted_at = trainer.global_step
        self._last = self.clock()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:  # inside an accumulation window
            return
        self._step = trainer.global_step
        by_step = self.every_n_steps and self._step % self.every_n_steps == 0
        if by_step or self.clock() - self._last >= self.every_seconds:
            self.act_once(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.at_epoch_end:
            self.act_once(trainer, pl_module)

    def act_once(self, trainer: Trainer, module: Any) -> None:
        """Act, unless it was done at this step already."""
        if self._acted_at != trainer.global_step:
            self._acted_at, self._last = trainer.global_step, self.clock()
            self.act(trainer, module)
