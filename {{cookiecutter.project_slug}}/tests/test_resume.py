"""A run that was interrupted anywhere and started again equals one that was not, bit for bit."""

from typing import Any

import pytest
from exactness import assert_same, newest
from lightning.pytorch import Callback, LightningModule, Trainer

STEPS = 14
# 5 micro-batches an epoch, so that 14 steps see epoch 2; dropout draws from the global generator.
BASE = (f"trainer.max_steps={STEPS}", "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=2", "data.limit=11",
        "data.batch_size=20", "+model.config.attention_dropout=0.2", "model.attention=eager",
        "trainer.val_check_interval=4", "logger=csv")  # fmt: skip


class PowerCut(Exception):
    """Nothing that training catches: like a kill, but in this process."""


class CutAt(Callback):
    def __init__(self, step: int, hook: str) -> None:
        self.step = step
        self.hook = hook

    def _maybe(self, trainer: Trainer, hook: str) -> None:
        if hook == self.hook and trainer.global_step == self.step:
            raise PowerCut

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._maybe(trainer, "batch_start")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._maybe(trainer, "batch_end")

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._maybe(trainer, "validation")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_power_cuts_anywhere_leave_no_trace(train, accumulate: int) -> None:
    base = (*BASE, f"trainer.accumulate_grad_batches={accumulate}")
    reference = train(*base, "run.name=reference")
    assert newest(reference).step == STEPS
    for cut in ("3,batch_end", "4,validation", "5,batch_start", "6,batch_end", "10,batch_start", "13,batch_end"):
        step, hook = cut.split(",")
        try:
            train(*base, "run.name=cut", f"+callbacks.cut={{_target_:test_resume.CutAt,step:{step},hook:{hook}}}")
        except PowerCut:
            continue
    resumed = train(*base, "run.name=cut")
    assert_same(resumed, reference)
