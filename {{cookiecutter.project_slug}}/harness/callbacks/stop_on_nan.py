"""Stop in the debugger at the first loss that is not finite."""

import logging
import sys
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

log = logging.getLogger(__name__)


class StopOnNan(Callback):
    """After each forward pass, before the backward one. Waits for the device each time, so it is for debugging only."""

    def __init__(self) -> None:
        self.batch: Any = None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        self.batch = batch

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        if torch.isfinite(loss).all():
            return
        batch = self.batch  # noqa: F841, for the person who looks around here
        # Not Python's breakpoint(): without a debugger it would wait for a keyboard that a batch job does not have.
        debugpy = sys.modules.get("debugpy")
        if debugpy is not None and debugpy.is_client_connected():
            debugpy.breakpoint()
        log.warning("The loss at step %d is %s.", trainer.global_step, loss.item())
