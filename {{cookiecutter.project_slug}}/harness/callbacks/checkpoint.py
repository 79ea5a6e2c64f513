"""Decides when to checkpoint; `harness.checkpoint` knows how. A checkpoint stops training for a copy of its bytes in
memory; they are written behind training.

A checkpoint is made *at a boundary*: an optimizer step is over, its metrics are logged, its validation is done, and
nothing of the next batch has happened. So a run that goes on from it logs each step once and draws the same random
numbers.
"""

import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from harness.checkpoint import keep, read
from harness.checkpoint.io import DurableIO, Order
from harness.checkpoint.preflight import preflight
from harness.config.schema import Above0, Count, Positive
from harness.distributed import all_reduce_max
from harness.errors import Stopped, UserError
from harness.run.signals import requests
from harness.telemetry import events

log = logging.getLogger(__name__)

OFTEN, WORTH_SAYING = 10, 0.1  # times that one waited for the one before, and the share of the time of training
MOST_FAILURES = 5  # checkpoints in a row that the disk refused, before training ends: what it computes would be lost
# Why a checkpoint is made, the strongest last: ranks agree on the all_reduce_max number.
REASONS = ("", "every_minutes", "best", "SIGUSR1", "rollback")


class DurableCheckpoint(Callback):
    """Saves every `every_n_steps` and every `every_minutes`, whichever comes first, after a validation that beats the
    `keep_best` best, on SIGUSR1, when training stops, and at the end; then removes what is not to be kept.

    With `write_behind` training waits for a copy only. One checkpoint at a time is written so, and whatever asks what
    there is, or ends training, waits for it.

    Belongs before other callbacks, so that none of them has seen the next batch when a checkpoint is made.
    """

    def __init__(
        self,
        *,
        every_n_steps: Positive | None = 100,
        every_minutes: Above0 | None = 2.0,
        keep_last: Positive = 3,
        keep_best: Count = 1,
        max_gb: Above0 | None = None,
        write_behind: bool = True,
        monitor: str = "val/loss",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.every_n_steps = every_n_steps
        self.every_seconds = math.inf if every_minutes is None else 60 * every_minutes
        self.retention = keep.Retention(keep_last, keep_best, None if max_gb is None else max_gb * 1e9)
        self.write_behind = write_behind
        self.monitor = monitor
        self.reads_metrics = not monitor.startswith("val/")
        self.clock = clock
        self._tried_step = 0
        self._tried_at = clock()
        self._failures = 0
        self._score = (-1, math.nan)  # the step of the last validation, and its result
        self._pending: tuple[int, str, float] | None = None  # what is not known to be written: step, reason, seconds
        self._waits, self._waited, self._began = 0.0, 0.0, clock()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._folder = Path(trainer.default_root_dir) / "checkpoints"
        assert isinstance(trainer.strategy.checkpoint_io, DurableIO), "Trainer(plugins=[DurableIO(…)]) writes them"
        self._io = trainer.strategy.checkpoint_io
        if stage == "fit" and trainer.is_global_zero:
            keep.sweep(self._folder)
            self._check_disk(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tried_step = trainer.global_step
        self._tried_at = self._began = self.clock()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            if not self._io.behind.busy:
                self._settle()  # say soon how it went
            if reason := self._due(trainer):
                self._save(trainer, reason, behind=self.write_behind)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._io.snapshot.before_change()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            self._score = trainer.global_step, float(trainer.callback_metrics[self.monitor])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, "the end")
        self._settle()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Stopped is raised at a boundary. Another exception may come from the middle of a step: the last checkpoint
        # stands.
        if isinstance(exception, Stopped):
            self._save(trainer, exception.why)
            self._settle()
        else:
            with suppress(UserError):  # which is in the log: what ends training is the exception
                self._settle()

    def _due(self, trainer: Trainer) -> str:
        """Return why a checkpoint is due now, or an empty text; on every rank the same, by the clock and disk of rank
        0."""
        step = trainer.global_step
        if step <= self._tried_step:
            return ""
        if self.every_n_steps and step % self.every_n_steps == 0:
            return "every_n_steps"
        wanted = requests.checkpoint
        if trainer.is_global_zero and not wanted:
            late = self.clock() - self._tried_at >= self.every_seconds
            wanted = "best" if self._is_best(step) else "every_minutes" if late else ""
        return REASONS[all_reduce_max(REASONS.index(wanted), trainer)]

    def _is_best(self, step: int) -> bool:
        scored_step, score = self._score
        if scored_step != step or math.isnan(score) or not self.retention.best:
            return False
        self._settle()
        known = sorted(
            other for checkpoint in read.checkpoints(self._folder) if not math.isnan(other := keep.score(checkpoint))
        )
        return len(known) < self.retention.best or score < known[self.retention.best - 1]

    def _save(self, trainer: Trainer, reason: str, *, behind: bool = False) -> None:
        if trainer.global_step <= self._tried_step:
            return
        started = self.clock()
        self._wait_for_the_one_before()
        if not trainer.is_global_zero:
            events.sync()  # rank 0 does it where the checkpoint is written
        order = Order(self._about(trainer, reason), behind, self._prune)
        trainer.save_checkpoint(self._folder / "next", weights_only=False, storage_options=order)
        requests.checkpoint = ""
        self._tried_step, self._tried_at = trainer.global_step, self.clock()
        if trainer.is_global_zero:
            made = trainer.global_step, reason, self._tried_at - started
            if behind:
                self._pending = made
            else:
                self._afterwards(*made)

    def _about(self, trainer: Trainer, reason: str) -> dict[str, Any]:
        """Return what the manifest says of this checkpoint alone: why it was made, and how good it is."""
        scored_step, score = self._score
        scored = scored_step == trainer.global_step and math.isfinite(score)
        return {
            "reason": reason,
            "monitor": self.monitor,
            "score": score if scored else None,
            "ended_early": [trainer.max_steps, trainer.max_epochs] if trainer.should_stop else None,
        }

    def _prune(self, checkpoint: read.Checkpoint) -> None:
        keep.prune(self._folder, checkpoint.manifest["run_id"], self.retention)

    def _wait_for_the_one_before(self) -> None:
        """Say once when that is often long: checkpoints are due faster than they are written."""
        busy, began = self._io.behind.busy, self.clock()
        self._settle()
        now = self.clock()
        self._waits, self._waited = self._waits + busy, self._waited + busy * (now - began)
        share = self._waited / max(now - self._began, 1e-9)
        if self._waits >= OFTEN and share > WORTH_SAYING:
            log.warning(
                "%.0f %% of the time training waits for a checkpoint that is still being written when the next is due: "
                "raise checkpoint.every_n_steps or checkpoint.every_minutes.",
                100 * share,
            )
            self._waits = -math.inf

    def _settle(self) -> None:
        """Wait for what is being written, and say how it went."""
        made, self._pending = self._pending, None
        if made:
            self._io.behind.wait()
            self._afterwards(*made)

    def _afterwards(self, step: int, reason: str, seconds: float) -> None:
        """Say how it went. A full disk is loud, but training goes on."""
        if failure := self._io.failure:
            self._failures += 1
            events.emit("checkpoint", step, {"reason": reason, "failed": str(failure)}, warning=True)
            log.error(
                "The checkpoint of step %d could not be written (%s). Training goes on; it is tried again.",
                step,
                failure,
            )
            if self._failures >= MOST_FAILURES or not read.checkpoints(self._folder):
                raise UserError(
                    f"No checkpoint can be written in {self._folder} ({failure}), tried {self._failures} times.",
                    cure="Free some space; the same command then goes on from the last checkpoint.",
                ) from failure
            return
        self._failures = 0
        checkpoint = self._io.checkpoint
        assert checkpoint is not None
        if bad := checkpoint.manifest["not_finite"]:
            log.warning("Step %d: %s has values that are not finite. No rollback goes here.", step, bad)
            events.emit("not_finite", step, {"where": bad}, warning=True)
        data = {"path": checkpoint.path.name, "reason": reason, "seconds": seconds, "write_seconds": self._io.seconds}
        events.emit("checkpoint", step, data | {"bytes": checkpoint.bytes})
        log.info(
            "Checkpoint %s (%s, %.2f s, written in %.2f s)", checkpoint.path.name, reason, seconds, self._io.seconds
        )

    def _check_disk(self, module: LightningModule) -> None:
        # Weights and AdamW's two moments; another optimizer may need less.
        elsewhere = getattr(module, "weights_elsewhere", None)
        size = sum(
            parameter.numel() * parameter.element_size() * (3 if parameter.requires_grad else elsewhere is None)
            for parameter in module.parameters()
        )
        kept = self.retention.last + self.retention.best
        warnings = preflight(self._folder, checkpoint_bytes=size, checkpoints=kept, seconds_between=self.every_seconds)
        for warning in warnings:
            log.warning(warning)
