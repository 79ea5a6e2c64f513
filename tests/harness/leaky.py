"""A callback that forgets its state: what verify_resume is there to find."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Leaky(Callback):
    def __init__(self) -> None:
        self.calls = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.calls += 1
        with torch.no_grad():
            next(pl_module.parameters()).add_(1e-3 * self.calls)
