"""A few steps of the real thing, timed: the run's own Trainer with all its callbacks, in a process of its own."""

import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from lightning.pytorch import Callback, LightningModule, Trainer

from harness.callbacks.checkpoint import DurableCheckpoint
from harness.callbacks.periodic import Periodic
from harness.checkpoint.io import DurableIO
from harness.data.exact import ExactData
from harness.hardware import peak_memory
from harness.module import GuardedModule
from harness.plan.amounts import Found, Times
from harness.plan.counted import bytes_of, states
from harness.run import artifact
from harness.run import folder as run_folder

FIRST = 2  # steps that are slower: memory is touched for the first time, kernels are chosen or compiled
LEAST, MOST = 3, 100  # steps that are timed
SECONDS = 12.0  # after which that many are enough
VALIDATION_SECONDS = 4.0  # about


class TooLarge(Exception):
    """It would not fit into this machine's memory; the message says why."""


class Measuring(Trainer):
    """Trains a few steps, validates a few batches, writes a checkpoint, lets what acts now and then act, and raises
    what all that took."""

    def fit(self, model: Any, datamodule: Any = None, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        refuse_if_too_large(model)
        asked = [copy.copy(callback) for callback in _callbacks(self)]
        quiet(_callbacks(self))
        watch = Watch(_resident())
        _callbacks(self).append(watch)
        validates = bool(self.limit_val_batches) and datamodule.val_set is not None
        self.limit_val_batches = 0
        super().fit(model, datamodule)
        if validates:
            passes = (
                3 * VALIDATION_SECONDS * self.accumulate_grad_batches / max(watch.steps)
            )  # forward without backward
            self.limit_val_batches = min(MOST, max(LEAST, int(passes)))
            self.validate(model, datamodule, verbose=False)
        raise watch.found(self, model, datamodule, asked)


class Watch(Callback):
    """Times what happens between the hooks of a training. Comes last, so that all others have done their work.

    resident: bytes of the process before the training, the weights included.
    """

    reads_metrics = False

    def __init__(self, resident: int) -> None:
        self.resident = resident
        self.steps: list[float] = []
        self.validation: list[float] = []
        self.periodic: dict[str, float] = {}
        self.checkpoint = 0.0
        self.sizes: dict[str, int] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = time.time()
        self._step, self._last = trainer.global_step, time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self._step:  # inside an accumulation window
            return
        self._step, now = trainer.global_step, time.perf_counter()
        self.steps.append(now - self._last)
        timed = self.steps[FIRST:]
        if len(timed) >= MOST or (len(timed) >= LEAST and sum(timed) >= SECONDS):
            trainer.should_stop = True
        self._last = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.checkpoint = time.perf_counter() - self._last
        weights, gradients = sum(map(bytes_of, states(pl_module))), gradient_bytes(pl_module)
        moments = sum(bytes_of(value) for o in trainer.optimizers for s in o.state.values() for value in s.values())
        self.sizes = {"weights": weights, "gradients": gradients, "moments": moments}
        for callback in _callbacks(trainer):
            if isinstance(callback, Periodic):
                callback.act(trainer, pl_module)  # the first time it imports and compiles
                began = time.perf_counter()
                callback.act(trainer, pl_module)
                self.periodic[type(callback).__name__] = time.perf_counter() - began

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validating = time.perf_counter()

    def on_validation_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        self.validation.append(now - self._validating)
        self._validating = now

    def found(self, trainer: Trainer, module: GuardedModule, data: ExactData, callbacks: Sequence[Callback]) -> Found:
        diary = run_folder.read(Path(trainer.default_root_dir))
        opened = float(diary["attempts"][-1]["clock"])
        first = min(FIRST, len(self.steps) - 1)
        batches = sorted(self.validation)
        times = Times(
            start=opened - psutil.Process().create_time(),
            begin=self.began - opened - artifact.seconds_making,
            first=first,
            first_seconds=sum(self.steps[:first]),
            step=_mean(self.steps[first:]),
            validation_batch=_mean(batches[:-1] or batches),  # the first one is slower
            checkpoint=self.checkpoint,
            periodic=self.periodic,
        )
        device = trainer.strategy.root_device.type
        peak = peak_memory(device)
        baseline = 0 if device == "cuda" else max(0, self.resident - self.sizes["weights"])
        known = self.sizes | ({"libraries": baseline} if baseline else {})
        io = trainer.strategy.checkpoint_io
        checkpoint = io.checkpoint if isinstance(io, DurableIO) else None
        return Found(
            module, data, callbacks, device, str(trainer.precision),
            memory=known | {"activations": max(0, peak - sum(known.values()))},
            checkpoint_bytes=checkpoint.bytes if checkpoint else 0,
            parameters=sum(p.numel() for p in module.parameters()),
            trainable=sum(p.numel() for p in module.parameters() if p.requires_grad),
            times=times,
        )  # fmt: skip


def refuse_if_too_large(module: LightningModule) -> None:
    """Raise TooLarge where gradients and the usual two moments would fill this machine's memory."""
    more, free = 3 * gradient_bytes(module), psutil.virtual_memory().available
    if more > free:
        what = f"its gradients and moments alone take {more / 1e9:.1f} GB"
        raise TooLarge(f"{what}, and {free / 1e9:.1f} GB of memory are free")


def gradient_bytes(module: LightningModule) -> int:
    return sum(bytes_of(parameter) for parameter in module.parameters() if parameter.requires_grad)


def quiet(callbacks: Sequence[Callback]) -> None:
    """Let nothing that happens now and then happen in the steps that are timed."""
    for callback in callbacks:
        if isinstance(callback, DurableCheckpoint):
            callback.every_n_steps, callback.every_seconds = None, math.inf
        elif isinstance(callback, Periodic):
            callback.every_n_steps, callback.every_seconds, callback.at_epoch_end = 0, math.inf, False


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined, no-any-return]  # set by Lightning


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
