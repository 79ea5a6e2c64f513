"""Decides when to checkpoint; `harness.checkpoint` knows how. A checkpoint stops training for a write and fsync of its
bytes.

A checkpoint is made *at a boundary*: an optimizer step is over, its metrics are logged, its validation is done, and
nothing of the next batch has happened. So a run that goes on from it logs each step once and draws the same random
numbers.
"""

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from harness.checkpoint import keep, read
from harness.checkpoint.finite import first_non_finite, training_states
from harness.checkpoint.io import DurableIO
from harness.checkpoint.preflight import preflight
from harness.config.schema import Above0, Count, Positive
from harness.distributed import all_gather, all_reduce_max
from harness.errors import Stopped, UserError
from harness.run.signals import requests
from harness.telemetry import events

log = logging.getLogger(__name__)

MOST_FAILURES = 5  # checkpoints in a row that the disk refused, before training ends: what it computes would be lost
# Why a checkpoint is made, the strongest last: ranks agree on the all_reduce_max number.
REASONS = ("", "every_minutes", "best", "SIGUSR1", "rollback")


class DurableCheckpoint(Callback):
    """Saves every `every_n_steps` and every `every_minutes`, whichever comes first, after a validation that beats the
    `keep_best` best, on SIGUSR1, when training stops, and at the end; then removes what is not to be kept.

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
        monitor: str = "val/loss",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.every_n_steps = every_n_steps
        self.every_seconds = math.inf if every_minutes is None else 60 * every_minutes
        self.retention = keep.Retention(keep_last, keep_best, None if max_gb is None else max_gb * 1e9)
        self.monitor = monitor
        self.reads_metrics = not monitor.startswith("val/")
        self.clock = clock
        self._tried_step = 0
        self._tried_at = clock()
        self._failures = 0
        self._score = (-1, math.nan)  # the step of the last validation, and its result

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._folder = Path(trainer.default_root_dir) / "checkpoints"
        assert isinstance(trainer.strategy.checkpoint_io, DurableIO), "Trainer(plugins=[DurableIO(…)]) writes them"
        self._io = trainer.strategy.checkpoint_io
        if stage == "fit" and trainer.is_global_zero:
            # Deleting takes half as long as writing, and nothing waits for it.
            self._janitor = ThreadPoolExecutor(1, thread_name_prefix="prune")
            self._pruning: Future[Any] | None = None
            keep.sweep(self._folder)
            self._check_disk(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tried_step = trainer.global_step
        self._tried_at = self.clock()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0 and (reason := self._due(trainer)):
            self._save(trainer, reason)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            self._score = trainer.global_step, float(trainer.callback_metrics[self.monitor])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, "the end")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Stopped is raised at a boundary. Another exception may come from the middle of a step: the last checkpoint
        # stands.
        if isinstance(exception, Stopped):
            self._save(trainer, exception.why)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            self._janitor.shutdown()

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
        known = sorted(
            other for checkpoint in read.checkpoints(self._folder) if not math.isnan(other := keep.score(checkpoint))
        )
        return len(known) < self.retention.best or score < known[self.retention.best - 1]

    def _save(self, trainer: Trainer, reason: str) -> None:
        if trainer.global_step <= self._tried_step:
            return
        started = self.clock()
        events.sync()
        about = self._about(trainer, reason)
        trainer.save_checkpoint(self._folder / "next", weights_only=False, storage_options=about)
        requests.checkpoint = ""
        self._tried_step, self._tried_at = trainer.global_step, self.clock()
        if trainer.is_global_zero:
            self._afterwards(trainer.global_step, reason, self._tried_at - started)

    def _about(self, trainer: Trainer, reason: str) -> dict[str, Any]:
        """Return what the manifest says of this checkpoint alone: why it was made, and how good it is."""
        scored_step, score = self._score
        seen = first_non_finite(training_states(trainer.lightning_module, trainer.optimizers))
        bad = next(filter(None, all_gather(seen, trainer)), "")  # each rank sees what it holds
        if bad:
            log.warning("Step %d: %s has values that are not finite. No rollback goes here.", trainer.global_step, bad)
            events.emit("not_finite", trainer.global_step, {"where": bad}, warning=True)
        scored = scored_step == trainer.global_step and math.isfinite(score) and not bad
        return {
            "reason": reason,
            "monitor": self.monitor,
            "score": score if scored else None,
            "not_finite": bad or None,
            "ended_early": [trainer.max_steps, trainer.max_epochs] if trainer.should_stop else None,
        }

    def _afterwards(self, step: int, reason: str, seconds: float) -> None:
        """Say how it went, and prune once the new checkpoint is on the disk. A full disk is loud, but training goes
        on."""
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
        data = {"path": checkpoint.path.name, "reason": reason, "seconds": seconds, "bytes": checkpoint.bytes}
        events.emit("checkpoint", step, data)
        log.info("Checkpoint %s (%s, %.2f s)", checkpoint.path.name, reason, seconds)
        if self._pruning:
            self._pruning.result()
        self._pruning = self._janitor.submit(keep.prune, self._folder, checkpoint.manifest["run_id"], self.retention)

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
