"""Skips bad optimizer steps and says so. Looks at each step two steps later, when that costs no wait."""

import logging
import math
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from lm import events
from lm.guard import Guard
from lm.lagged import Lagged

log = logging.getLogger(__name__)

LAG = 2  # optimizer steps between a step and its report


class NanGuard(Callback):
    """Gives the module its guard, and reports what that has skipped: a line, an event, a metric.

    max_grad_norm: longer gradients are shortened to this norm. skip_above: a step whose norm before that is larger, or
    not finite, is skipped; or "adaptive": `sigmas` standard deviations of the log-norm above its running mean.
    The module is an LmModule: it has `guard`, and `verdict` and `mean` of its last optimizer step.
    """

    def __init__(self, max_grad_norm: float = 1.0, skip_above: float | str = 100.0, sigmas: float = 6.0) -> None:
        self.guard = Guard(max_grad_norm, skip_above, sigmas)
        self.skipped = 0
        self._reports = Lagged(LAG)
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        pl_module.guard = self.guard

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            return  # in the middle of an accumulation window
        self._step = trainer.global_step
        verdict, mean = pl_module.verdict, pl_module.mean
        assert verdict is not None and mean is not None
        self._reports.push(self._step, torch.stack([verdict.norm, verdict.limit, verdict.skip.float(), mean.loss]))
        before = self.skipped
        for step, values in self._reports.ready(self._step):
            self._report(step, *values)
        if self.skipped > before:
            pl_module.log("skipped_steps", float(self.skipped))

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        for step, values in self._reports.ready(self._step + LAG):
            self._report(step, *values)

    def _report(self, step: int, norm: float, limit: float, skip: float, loss: float) -> None:
        if not skip:
            return
        self.skipped += 1
        reason = "not finite" if not math.isfinite(norm) else f"above the limit of {limit:.4g}"
        log.warning(
            "Step %d was skipped: its gradient norm, %.4g, is %s. The weights are as before.", step, norm, reason
        )
        facts = {"norm": norm, "limit": limit, "loss": loss, "skipped": self.skipped}
        events.emit("nan_skip", step, facts, warning=True)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "guard": self.guard.state_dict(), "reports": self._reports.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped = state["skipped"]
        self.guard.load_state_dict(state["guard"])
        self._reports.load_state_dict(state["reports"])
