"""Record what a run does in `debug_log/events.jsonl`: see `harness/telemetry/events.py` for the file, `docs/logs.md`
for every field.

Counted in optimizer steps, so that accumulation changes nothing. A recorded step costs some milliseconds of the device
and no waiting for it; any other step costs nothing that can be measured.
"""

import contextlib
import math
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.optim import Optimizer

from harness.batch import Batch, BatchFormat
from harness.checkpoint.io import run_facts
from harness.errors import Stopped
from harness.module import GuardedModule
from harness.step.delayed import DelayedReadback
from harness.telemetry import events, logs, statistics
from harness.telemetry.description import describe, groups


class DebugLog(Callback):
    """Writes an event at step 1 and every so many optimizer steps (0: never): the loss and predictions beside labels,
    the norms of the gradients, how far a step moved the weights."""

    reads_metrics = False

    def __init__(
        self,
        *,
        enabled: bool = True,
        every_n_steps: int = 10,
        gradients_every_n_steps: int = 10,
        updates_every_n_steps: int = 50,
        top: int = 10,
        buffer: int = 100,
        flush_seconds: float = 5.0,
    ) -> None:
        self.enabled = enabled
        self.every_n_steps = every_n_steps
        self.gradients_every_n_steps = gradients_every_n_steps
        self.updates_every_n_steps = updates_every_n_steps
        self.top = top
        self.buffer = buffer
        self.flush_seconds = flush_seconds
        self._lagged = DelayedReadback(0)
        self._readers: deque[Callable[[list[float]], None]] = deque()  # one for each entry of _lagged
        self._weights: statistics.Weights | None = None
        self._checked = False
        self._step, self._lr = 0, 0.0
        self._units, self._since, self._validating_since = 0, 0.0, 0.0

    def setup(self, trainer: Trainer, pl_module: GuardedModule, stage: str) -> None:  # type: ignore[override]
        link_log(trainer)
        if not self.enabled:
            return
        facts = run_facts(trainer)
        events.open_log(
            Path(trainer.default_root_dir),
            run_id=facts.id or "",
            attempt=facts.attempt,
            rank=trainer.global_rank,
            buffer=self.buffer,
            flush_seconds=self.flush_seconds,
        )

    def on_train_start(self, trainer: Trainer, pl_module: GuardedModule) -> None:  # type: ignore[override]
        named = [(n, p) for n, p in pl_module.named_parameters() if p.requires_grad]
        self._names, self._parameters = [n for n, _ in named], [p for _, p in named]
        # A GPU works behind the host: read at once, a number would wait until its queue is empty, and it would idle.
        self._lagged = DelayedReadback(2 if trainer.strategy.root_device.type == "cuda" else 0)
        self._step, self._since = trainer.global_step, time.monotonic()
        # Here and not in on_fit_start: the step is that of the restored run only now.
        events.emit("fit_start", trainer.global_step, describe(trainer, pl_module))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: GuardedModule) -> None:  # type: ignore[override]
        optimizers = [groups(o) for o in trainer.optimizers]
        first = optimizers[0]["groups"][0]
        data = {"epoch": trainer.current_epoch, "learning_rate": first.get("lr")}
        data |= {name: first[name] for name in ("betas", "weight_decay") if name in first}
        data["optimizers"] = optimizers
        events.emit("epoch_start", trainer.global_step, data)

    def on_train_batch_start(self, trainer: Trainer, pl_module: GuardedModule, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        if self.enabled and not self._checked:
            self._checked = True
            first_look(trainer.global_step, pl_module.format, batch)
        pl_module.keep_outputs = self._due(self.every_n_steps, trainer.global_step + 1)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: GuardedModule, optimizer: Optimizer) -> None:  # type: ignore[override]
        step = trainer.global_step + 1
        self._lr = float(optimizer.param_groups[0]["lr"])  # now, before the schedule moves on
        if self._due(self.updates_every_n_steps, step):
            self._weights = statistics.Weights(self._parameters)
        if self._due(self.gradients_every_n_steps, step):
            assert pl_module.mean is not None
            norms, factor = statistics.gradient_norms(self._parameters), pl_module.mean.factor
            values = statistics.gradient_range(self._parameters) * factor
            self._read(step, torch.cat((values, norms.where(norms < 0, norms * factor))), self._tell_gradients)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: GuardedModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        logs.beat()
        self._units += pl_module.format.size(batch) * trainer.world_size
        if trainer.global_step == self._step:  # inside an accumulation window
            return
        self._step = trainer.global_step
        if self._weights is not None:
            assert pl_module.decision is not None
            numbers = torch.cat((pl_module.decision.skip.float().reshape(1), self._weights.changes()))
            self._read(self._step, numbers, self._tell_changes, self._lr)
            self._weights = None
        if self._due(self.every_n_steps, self._step):
            self._read_step(trainer, pl_module, batch)
        self._hear(self._step)

    def on_validation_start(self, trainer: Trainer, pl_module: GuardedModule) -> None:  # type: ignore[override]
        self._validating_since = time.monotonic()

    def on_validation_batch_end(self, *_: Any) -> None:
        logs.beat()

    def on_validation_end(self, trainer: Trainer, pl_module: GuardedModule) -> None:  # type: ignore[override]
        if trainer.sanity_checking:
            return
        seconds = time.monotonic() - self._validating_since
        self._since += seconds
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        data = {name.removeprefix("val/"): value for name, value in metrics.items()}
        events.emit("validation", trainer.global_step, {"epoch": trainer.current_epoch, "seconds": seconds, **data})

    def on_train_end(self, trainer: Trainer, pl_module: GuardedModule) -> None:  # type: ignore[override]
        pl_module.keep_outputs, pl_module.outputs = False, None
        self._end(trainer, stopped_by=None)

    def on_exception(self, trainer: Trainer, pl_module: GuardedModule, exception: BaseException) -> None:  # type: ignore[override]
        if isinstance(exception, Stopped):
            self._end(trainer, stopped_by=exception.why)
            return
        with contextlib.suppress(RuntimeError):  # the device may be what failed
            self._hear(trainer.global_step + self._lagged.lag)
        data = {"type": type(exception).__name__, "message": str(exception)}
        data["traceback"] = "".join(traceback.format_exception(exception))
        events.emit("exception", trainer.global_step, data, warning=True)
        # Closed, so that whatever the other callbacks still say about it, the traceback is the last line.
        events.close_log()

    def teardown(self, trainer: Trainer, pl_module: GuardedModule, stage: str) -> None:  # type: ignore[override]
        events.close_log()
        link_log(trainer)  # where it is a copy, a newer one

    def _due(self, every: int, step: int) -> bool:
        return self.enabled and every > 0 and (step % every == 0 or step == 1)

    def _read(self, step: int, numbers: Tensor, tell: Callable[..., None], *known: Any) -> None:
        """Have `tell(step, numbers on the host, *known)` called as soon as that costs no wait."""
        self._lagged.push(step, numbers)
        self._readers.append(lambda values: tell(step, values, *known))

    def _hear(self, step: int) -> None:
        for record in self._lagged.ready(step):
            self._readers.popleft()(record.values)

    def _end(self, trainer: Trainer, stopped_by: str | None) -> None:
        self._hear(trainer.global_step + self._lagged.lag)
        data = {"epoch": trainer.current_epoch, "max_steps": trainer.max_steps, "stopped_by": stopped_by}
        events.emit("fit_end", trainer.global_step, data)

    def _read_step(self, trainer: Trainer, module: GuardedModule, batch: Batch) -> None:
        assert module.mean is not None
        measured = None if module.outputs is None else module.format.measure(module.outputs, batch)
        module.outputs = None
        shape = list(next(iter(batch.values())).shape)
        known = {"epoch": trainer.current_epoch, "learning_rate": self._lr, "shape": shape}
        loss = torch.stack((module.mean.loss, module.mean.labels))
        numbers = loss if measured is None else torch.cat((loss, measured))
        self._read(self._step, numbers, self._tell_step, known, module.format)

    def _tell_step(self, step: int, numbers: list[float], known: dict[str, Any], format: BatchFormat) -> None:
        loss, labels, *measured = numbers
        # Over the time since the last such event, which waited for the device too, less validation.
        now = time.monotonic()
        rate = self._units / max(now - self._since, 1e-9)
        self._units, self._since = 0, now
        data = known | {"loss": loss, f"valid_{format.unit}": int(labels), f"{format.unit}_per_second": rate}
        if measured:
            data |= format.explain(measured)
        events.emit("training_step", step, data, warning=not math.isfinite(loss))

    def _tell_gradients(self, step: int, numbers: list[float]) -> None:
        low, high, *norms = numbers
        data = statistics.explain_gradients(norms, self._names, self.top) | {"value_min": low, "value_max": high}
        events.emit("gradient_stats", step, data, warning=not 0 < data["total_norm"] < math.inf)

    def _tell_changes(self, step: int, numbers: list[float], lr: float) -> None:
        skipped, *changes = numbers
        data = statistics.explain_changes(changes, self._names, self.top)
        data |= {"skipped": bool(skipped), "learning_rate": lr}
        events.emit("param_updates", step, data, warning=not (data["changed"] or skipped or lr == 0))


def first_look(step: int, format: BatchFormat, batch: Batch) -> None:
    """Look at the first batch of an attempt."""
    data = format.first_look(batch)
    events.emit("data_sanity_check", step, data, warning=not data["ok"])


def link_log(trainer: Trainer) -> None:
    """Show `train.log` in TensorBoard's folder too."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            logs.link(Path(logger.log_dir))
