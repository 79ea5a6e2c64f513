"""The progress bar of a whole run: loss, validation loss, tokens per second, time left. Touches the device twice a
second."""

import logging
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from harness.telemetry.logs import terminal

log = logging.getLogger(__name__)


class Progress(ProgressBar):
    """A bar over optimizer steps where there is a terminal, a line every `every_seconds` where there is none.

    `refresh_seconds` is how often the loss is read from the device: the only time at which the host waits for it.
    """

    reads_metrics = False

    def __init__(self, every_seconds: float = 30.0, refresh_seconds: float = 0.5) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self.refresh_seconds = refresh_seconds
        self._console = terminal()
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._enabled = True
        self._shown = self._started = 0.0
        self._units, self._unit = 0, "samples"

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = self._shown = time.monotonic()
        self._units = 0
        if not (self._enabled and self._console.is_terminal):
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
        )
        self._bar = Bar(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console, refresh_per_second=2
        )
        total = trainer.max_steps if trainer.max_steps > 0 else None
        # The steps of earlier attempts are shown as done; Rich measures the speed from the steps it sees.
        self._task = self._bar.add_task("training", total=total, completed=trainer.global_step, facts="")
        self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._unit = pl_module.format.unit
        self._units += pl_module.format.size(batch) * trainer.world_size
        now = time.monotonic()
        every = self.refresh_seconds if self._bar else self.every_seconds
        if now - self._shown < every or not self._enabled:
            return
        self._shown = now
        self._show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled:
            self._show(trainer, pl_module)
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _show(self, trainer: Trainer, module: Any) -> None:
        facts = "  ".join(self._facts(trainer, module))
        if self._bar:
            self._bar.update(self._task, completed=trainer.global_step, facts=facts)
        else:
            log.info("step %d of %d  %s", trainer.global_step, trainer.max_steps, facts)

    def _facts(self, trainer: Trainer, module: Any) -> list[str]:
        metrics = trainer.callback_metrics
        # From the module: not every step is logged.
        shown = [] if module.mean is None else [f"loss {float(module.mean.loss):.3f}"]
        if "val/loss" in metrics:
            shown.append(f"val {float(metrics['val/loss']):.3f}")
        if "skipped_steps" in metrics:
            shown.append(f"skipped {int(metrics['skipped_steps'])}")
        seconds = time.monotonic() - self._started
        return [*shown, f"{self._units / max(seconds, 1e-9):,.0f} {self._unit}/s"]

    def _stop(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None
