"""Callbacks that break, stop or slow a run at a chosen place: `+callbacks.x={_target_:hooks.PauseAt,hook:step,…}`."""

import contextlib
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lm.checkpoint import read


class PowerCut(Exception):
    """Nothing that training catches: like a kill, but in this process."""


class At(Callback):
    """Acts once, at the first call of `hook` when so many optimizer steps are done."""

    def __init__(self, hook: str, step: int) -> None:
        self.hook = hook
        self.step = step
        self.done = False

    def act(self, trainer: Trainer) -> None:
        raise NotImplementedError

    def _maybe(self, trainer: Trainer, hook: str) -> None:
        if hook == self.hook and trainer.global_step == self.step and not self.done:
            self.done = True
            self.act(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._maybe(trainer, "batch_start")

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._maybe(trainer, "step")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._maybe(trainer, "batch_end")

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._maybe(trainer, "validation")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._maybe(trainer, "save")


class CutAt(At):
    def act(self, trainer: Trainer) -> None:
        raise PowerCut


class RaiseAt(At):
    def act(self, trainer: Trainer) -> None:
        raise ValueError("a mistake in a callback of one's own")


class PauseAt(At):
    """Makes the file `reached`, and waits for `seconds`, so that a test can do something meanwhile."""

    def __init__(self, hook: str, step: int, reached: str, seconds: float = 1.0) -> None:
        super().__init__(hook, step)
        self.reached = Path(reached)
        self.seconds = seconds

    def act(self, trainer: Trainer) -> None:
        if trainer.global_rank == 0 and not self.reached.exists():  # not again in the next attempt
            self.reached.touch()
            time.sleep(self.seconds)


class Slow(Callback):
    """Sleeps after every micro-batch: tiny models are too fast to be hit by a kill."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        time.sleep(self.seconds)


class KillWorkerAt(At):
    """Kills a loader process."""

    def act(self, trainer: Trainer) -> None:
        for process in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, 9)


class DeleteNewestAt(At):
    """Does what a person with `rm -r` does."""

    def act(self, trainer: Trainer) -> None:
        shutil.rmtree(read.commits(Path(trainer.default_root_dir) / "checkpoints")[-1].path)
