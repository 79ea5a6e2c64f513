"""Skips bad optimizer steps, keeps the evidence, and acts when they come in a row. Looks at each step two steps later,
when that costs no wait; only a bad step costs more."""

import contextlib
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, Trainer

from harness.batch import Batch
from harness.checkpoint.finite import first_non_finite, training_states
from harness.checkpoint.io import wait_for_writing
from harness.checkpoint.keep import pin, unpin
from harness.checkpoint.ledger import anchors, usable
from harness.config.schema import Above0, Positive
from harness.distributed import all_reduce_max
from harness.errors import UserError
from harness.nan import bundle as bundles
from harness.nan.evidence import Memory, facts_about, why
from harness.nan.guard import Guard
from harness.nan.policy import Action, Policy
from harness.nan.rollback import roll_back
from harness.run import signals
from harness.step.delayed import DelayedReadback, Reading
from harness.telemetry import events

log = logging.getLogger(__name__)

LAG = 2  # optimizer steps between a step and its report
REPLAYABLE = 3  # bundles whose checkpoint is kept, so that a replay need not start from the beginning


class NanGuard(Callback):
    """Gives the module its guard, reports what that has skipped, and follows a policy.

    max_grad_norm, skip_above, sigmas: see harness.nan.guard.Guard. patience, forgive, max_rollbacks: see
        harness.nan.policy.Policy.
    good_after: steps after which a checkpoint counts as good. max_bundles: after so many, skipped steps are only
    counted. check_every_n_steps: how often weights and moments are looked at as well, and at the last step;
        None for the last step alone.
    isolate_micro_batches: under accumulation on one device, leave out a bad micro-batch instead of skipping the whole
        step. Costs a copy of the gradients.
    """

    reads_metrics = False

    def __init__(
        self,
        *,
        max_grad_norm: float | None = 1.0,
        skip_above: float | Literal["adaptive"] | None = 100.0,
        sigmas: Above0 = 6.0,
        patience: Positive = 3,
        forgive: float = 0.1,
        good_after: int = 100,
        max_rollbacks: int = 3,
        max_bundles: int = 20,
        check_every_n_steps: Positive | None = 100,
        isolate_micro_batches: bool = False,
    ) -> None:
        self.guard = Guard(max_grad_norm, skip_above, sigmas)
        self.policy = Policy(patience, forgive, max_rollbacks)
        self.good_after = good_after
        self.max_bundles = max_bundles
        self.check_every_n_steps = check_every_n_steps
        self.isolate_micro_batches = isolate_micro_batches
        self.skipped = 0
        self._dropped = 0.0
        self._reports = DelayedReadback(LAG)
        self._memory = Memory(LAG + 1)
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        pl_module.guard = self.guard
        pl_module.isolate_micro_batches = self.isolate_micro_batches
        self._run = Path(trainer.default_root_dir)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self._memory.add(trainer.global_step + 1, batch, trainer.strategy.root_device)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            return  # in the middle of an accumulation window
        self._step = trainer.global_step
        decision, mean = pl_module.decision, pl_module.mean
        dropped = pl_module.dropped_micro_batches.to(decision.norm.device)
        numbers = torch.stack([decision.norm, decision.limit, decision.skip.float(), mean.loss, dropped])
        self._reports.push(self._step, numbers)
        last = is_last_step(trainer)  # which nobody will look at two steps later
        for reading in self._reports.ready(self._step + LAG * last):
            self._judge(trainer, pl_module, reading)
        if last or (self.check_every_n_steps and self._step % self.check_every_n_steps == 0):
            self._check_state(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Pin what a rollback or a replay needs, before the checkpoint that is being made pushes it out."""
        if not trainer.is_global_zero:
            return
        found = usable(self._run)
        for_replay = {name for folder in bundles.newest(self._run, REPLAYABLE) if (name := _replayed_from(folder))}
        first_bad = self.policy.first_bad or trainer.global_step - LAG + 1  # the oldest step not yet reported
        for_rollback = {c.path.name for c in anchors(found, first_bad=first_bad, good_after=self.good_after)}
        for known in found:
            name = known.path.name
            change = pin if name in for_replay | for_rollback else unpin
            # A disk that refuses a pin refuses the checkpoint too, and without a new checkpoint nothing is pushed out.
            with contextlib.suppress(OSError):
                change(known, type(self).__name__)

    def _judge(self, trainer: Trainer, module: Any, reading: Reading) -> None:
        norm, _, skip, _, dropped = reading.values
        if dropped > self._dropped:
            log.warning("Step %d: %d bad micro-batches were left out of it.", reading.step, dropped - self._dropped)
            events.emit("micro_batch_skip", reading.step, {"count": dropped - self._dropped}, warning=True)
            self._dropped = dropped
        if not skip:
            self.policy.good()
            return
        self._report(trainer, module, reading)
        module.log("skipped_steps", float(self.skipped))
        finite = math.isfinite(norm) or not all_reduce_max(first_non_finite(training_states(module, [])) != "", trainer)
        self._act(trainer, module, reading.step, "" if finite else "a weight is not finite")

    def _check_state(self, trainer: Trainer, module: Any) -> None:
        """Look at what no gradient shows: a weight that the last step spoiled, an infinite moment, which would freeze
        its weight for ever without a bad step."""
        bad = first_non_finite(training_states(module, trainer.optimizers))
        if all_reduce_max(bad != "", trainer):
            self._act(trainer, module, self._step, f"{bad or 'a value on another rank'} is not finite")

    def _act(self, trainer: Trainer, module: Any, step: int, spoiled: str) -> None:
        """Do what the policy says about a bad step; `spoiled` says what no later step can repair."""
        plugin: Any = trainer.precision_plugin
        can_fall_back = getattr(plugin, "loss_scale", None) is not None
        action = self.policy.bad(step, weights_finite=not spoiled, can_fall_back=can_fall_back)
        if action is Action.FALL_BACK:
            plugin.fall_back()
            log.warning("fp16 overflowed %d steps: going on in %s.", self.policy.patience, plugin.precision)
            events.emit("precision_fallback", self._step, {"to": plugin.precision}, warning=True)
        elif action is Action.ROLL_BACK:
            self._roll_back(trainer, module, spoiled or "too many bad steps")
        elif action is Action.STOP:
            raise self._given_up(f"after {self.policy.rollbacks} rollbacks its steps are still bad")
        if action is not Action.GO_ON:
            self.policy.acted(action)
            # What is still under way was computed before this action, and says nothing about it.
            self._reports.clear()

    def _report(self, trainer: Trainer, module: Any, reading: Reading) -> None:
        self.skipped += 1
        norm, limit, _, loss, _ = reading.values
        reason = why(norm, limit, loss)
        facts = {"norm": norm, "limit": limit, "loss": loss, "skipped": self.skipped}
        bundle = self._keep_evidence(trainer, module, reading.step, {**facts, "reason": reason})
        events.emit("nan_skip", reading.step, {**facts, "bundle": bundle and bundle.as_posix()}, warning=True)
        if bundle:
            log.warning(
                "Step %d was skipped: its %s. The weights are as before. See why: python -m lm replay %s",
                *(reading.step, reason, bundle.as_posix()),
            )

    def _keep_evidence(self, trainer: Trainer, module: Any, step: int, facts: dict[str, Any]) -> Path | None:
        known = self._memory.recall(step)
        if known is None or self.skipped > self.max_bundles:
            return None
        folder = bundles.folder_of(self._run, step)
        precision = trainer.precision_plugin.precision
        facts |= {"schema": 1, "step": step, "rank": trainer.global_rank, "world_size": trainer.world_size}
        facts |= {
            "precision": precision,
            "checkpoint": self._checkpoint_before(trainer, step),
            **facts_about(known, module),
        }
        try:
            bundles.write(folder, facts, known.batches, known.rng, module.format, rank=trainer.global_rank)
        except OSError as error:  # a full disk must not end the training that the guard is there to save
            log.error("The evidence of step %d could not be written (%s).", step, error)
            return None
        return folder

    def _checkpoint_before(self, trainer: Trainer, step: int) -> str | None:
        wait_for_writing(trainer)
        found = [checkpoint for checkpoint in usable(self._run) if checkpoint.step < step]
        return found[-1].path.name if found else None

    def _roll_back(self, trainer: Trainer, module: Any, reason: str) -> None:
        first_bad = self.policy.first_bad
        assert first_bad is not None
        done = roll_back(trainer, module, first_bad=first_bad, good_after=self.good_after)
        if done is None:
            raise self._given_up(f"{reason}, and there is no checkpoint from before step {first_bad} to go back to")
        self._memory.clear()
        signals.requests.checkpoint = "rollback"
        log.warning(
            "%s since step %d: weights and moments are those of step %d again. The data go on; windows %d to %d "
            "are skipped (skips.jsonl).",
            *(reason.capitalize(), first_bad, done.to, done.first_window, done.next_window - 1),
        )
        events.emit("rollback", self._step, {"to": done.to, "first_bad": first_bad, "reason": reason}, warning=True)

    def _given_up(self, reason: str) -> UserError:
        last: Iterable[Path] = bundles.newest(self._run, 1)
        cure = "".join(f"See why: python -m lm replay {bundle.as_posix()}" for bundle in last)
        return UserError(f"Training stopped at step {self._step}: {reason}.", cure=cure, code=3)

    def state_dict(self) -> dict[str, Any]:
        return {
            "skipped": self.skipped,
            "guard": self.guard.state_dict(),
            "reports": self._reports.state_dict(),
            "policy": self.policy.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped = state["skipped"]
        self.guard.load_state_dict(state["guard"])
        self._reports.load_state_dict(state["reports"])
        self.policy.load_state_dict(state["policy"])


def _replayed_from(bundle: Path) -> str | None:
    try:
        return bundles.read_facts(bundle).get("checkpoint")
    except UserError:  # evidence that was damaged since is no reason to end a training
        return None


def is_last_step(trainer: Trainer) -> bool:
    """Say whether training ends with the optimizer step that was just done."""
    last_epoch = (trainer.max_epochs or -1) == trainer.current_epoch + 1 and trainer.is_last_batch
    return bool(trainer.global_step >= trainer.max_steps > 0 or last_epoch or trainer.should_stop)
