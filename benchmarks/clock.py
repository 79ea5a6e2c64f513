"""A Lightning callback that times a stretch of steps from inside of a run."""

import os
from typing import Any

from lightning.pytorch import Callback, Trainer
from timing import Sample, Stopwatch


class Clock(Callback):
    """Times `steps` steps after `warm_up` others, from one batch's first hook to a later batch's. Comes last. With
    `ends`, the run is over then: of one that would last for hours, and is set up as such."""

    reads_metrics = False
    last: Sample  # of a step, of the newest run

    def __init__(self, steps: int, warm_up: int, ends: bool = False) -> None:
        self.steps, self.warm_up, self.ends = steps, warm_up, ends

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.warm_up:
            self.watch = Stopwatch()
        elif batch_idx == self.warm_up + self.steps:
            Clock.last = self.watch.read().per(self.steps)
            trainer.should_stop |= self.ends


class FirstStep(Callback):
    """Ends the process where the first training step would begin."""

    reads_metrics = False

    def on_train_batch_start(self, *_: Any) -> None:
        os._exit(0)
