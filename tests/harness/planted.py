"""A callback that is given secrets and does not keep them."""

import logging
import os
import sys
import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from harness.telemetry import events


class Leak(Callback):
    def __init__(
        self, api_key: str, token: str, step: int, how: str = "nothing", note: str = "", other: str = ""
    ) -> None:
        self.api_key, self.token, self.step, self.how = api_key, token, step, how

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step != self.step or self.how == "nothing":
            return
        text = f"refused: {self.api_key} {self.token!r} {os.environ['PLANTED_API_KEY']} {os.environ['DOTENV_SECRET']}"
        logging.getLogger("somebody").error(text)
        print(text)
        print(text, file=sys.stderr)
        warnings.warn(text, stacklevel=1)
        events.emit("own", trainer.global_step, {"text": text})
        for logger in trainer.loggers:
            logger.log_hyperparams({"api_key": self.api_key, "note": [text]})
            logger.save()
        if self.how == "crash":
            raise RuntimeError(f"{text} password=Exc3ption-Planted-44 https://me:Addr3ss-Planted-55@host/x")
