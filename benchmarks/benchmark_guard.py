"""What does the NaN guard cost at 14M? Steps with the guard and steps of bare Lightning in one run, 8 x 256 tokens.

Bare means no clipping, no norm, no callback. On a shared machine single steps differ by a tenth, and it takes some 250
rounds to know the ratio to within 0.01.
"""

import tempfile
from pathlib import Path
from typing import Any

import project
from lightning.pytorch import Callback, LightningModule, Trainer
from timing import Bar, Outcome, Sample, Stopwatch
from torch import Tensor

from harness.batch import Batch
from harness.callbacks.nan_guard import NanGuard
from harness.module import GuardedModule
from lm import fit
from lm.module import LmModule

WARM_UP = 4  # steps that are not counted
GUARDED, BARE = True, False
times: dict[bool, list[Sample]] = {GUARDED: [], BARE: []}


class Switched(LmModule):
    """With the guard or without, as `guarded` says."""

    guarded = GUARDED

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        if self.guarded:
            return super().training_step(batch, batch_index)
        _, total, labels = self.training_losses(batch)
        loss = total / labels.clamp(min=1)
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        (super() if self.guarded else super(GuardedModule, self)).backward(loss, *args, **kwargs)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        (super() if self.guarded else super(GuardedModule, self)).optimizer_step(*args, **kwargs)

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        if self.guarded:
            super().configure_gradient_clipping(*args, **kwargs)


class SwitchedGuard(NanGuard):
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if pl_module.guarded:
            super().on_train_batch_start(trainer, pl_module, *args)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if pl_module.guarded:
            super().on_train_batch_end(trainer, pl_module, *args)


class Switch(Callback):
    """Times a step from its first hook to the first hook of the next one, and switches between the two."""

    reads_metrics = False
    watch: Stopwatch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx > WARM_UP:
            times[pl_module.guarded].append(self.watch.read())
        pl_module.guarded = batch_idx % 4 in (0, 3)  # A B B A: a machine whose speed drifts is the same for both
        self.watch = Stopwatch()


def measure(rounds: int = 30, *, short: bool = False) -> Outcome:
    fit.LmModule = Switched  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        project.train([
            *project.overrides(Path(folder)), "model=14m", "data.batch_size=8", "trainer=cpu",
            "trainer.precision=32-true", f"trainer.max_steps={WARM_UP + 4 * rounds + 2}",
            "trainer.log_every_n_steps=1000", "trainer.enable_progress_bar=false", "logger=none",
            "callbacks.checkpoint=null", "callbacks.debug_log=null", "callbacks.progress=null",
            "callbacks.nan_guard._target_=benchmark_guard.SwitchedGuard",
            "+callbacks.switch._target_=benchmark_guard.Switch",
        ])  # fmt: skip
    samples = {name: paired(times[kind]) for name, kind in (("with the guard", GUARDED), ("bare Lightning", BARE))}
    rounds = min(map(len, samples.values()))
    samples = {name: found[:rounds] for name, found in samples.items()}
    return Outcome(samples, [Bar("the NaN guard at 14M over bare Lightning", "with the guard", "bare Lightning", 1.02)])


def paired(steps: list[Sample]) -> list[Sample]:
    """Return the means of every two steps: those of a round."""
    return [Sample((a.wall + b.wall) / 2, (a.cpu + b.cpu) / 2) for a, b in zip(steps[::2], steps[1::2], strict=False)]
