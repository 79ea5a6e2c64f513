"""Stops between two optimizer steps when the outside asks for it. With several ranks: one small all-reduce a step."""

import os
import signal
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from harness.distributed import all_reduce_max
from harness.errors import Stopped
from harness.run import signals


class Signals(Callback):
    """Raises Stopped on SIGTERM, SIGINT, SIGUSR2 and `spare_seconds` before a time limit; the checkpoint callback then
    checkpoints.

    The limit is `max_minutes` from the start of the process, or the end of the SLURM job where SLURM tells it.
    """

    reads_metrics = False

    def __init__(self, max_minutes: float | None = None, spare_seconds: float = 60.0) -> None:
        ends = [] if max_minutes is None else [signals.STARTED + 60 * max_minutes]
        if end := os.environ.get("SLURM_JOB_END_TIME"):
            ends.append(time.monotonic() + float(end) - time.time())
        self.deadline = min(ends, default=float("inf")) - spare_seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Once more: Lightning has put its own handlers before ours, and its SIGTERM saves nothing (Lightning #19916).
        signals.install()
        signals.requests.training = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._stop_if_asked(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        step_is_over = (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        # Several ranks have different numbers of batches here, so they cannot agree before the next step.
        if signals.requests.training and step_is_over and trainer.world_size == 1:
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.requests.training = False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        signals.requests.training = False

    def _stop_if_asked(self, trainer: Trainer) -> None:
        requests = signals.requests
        if not requests.stop and time.monotonic() > self.deadline:
            requests.stop = "the time limit"
        if code := all_reduce_max(requests.code, trainer):
            raise Stopped(requests.stop or signal.Signals(code - 128).name, code=code)
