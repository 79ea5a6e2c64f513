"""Callbacks that break, stop or slow a run at a chosen place: `+callbacks.x={_target_:hooks.PauseAt,hook:step,…}`."""

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from harness.checkpoint import read
from harness.errors import Stopped


class PowerCut(Exception):
    """Nothing that training catches: like a kill, but in this process."""


class At(Callback):
    """Acts once, at the first call of `hook` when so many optimizer steps are done."""

    def __init__(self, hook: str, step: int) -> None:
        self.hook = hook
        self.step = step
        self.done = False

    def act(self, trainer: Trainer) -> None:
        raise NotImplementedError

    def _maybe(self, trainer: Trainer, hook: str) -> None:
        if hook == self.hook and trainer.global_step == self.step and not self.done:
            self.done = True
            self.act(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._maybe(trainer, "batch_start")

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._maybe(trainer, "step")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._maybe(trainer, "batch_end")

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._maybe(trainer, "validation")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._maybe(trainer, "save")


class CutAt(At):
    def act(self, trainer: Trainer) -> None:
        raise PowerCut


class RaiseAt(At):
    def act(self, trainer: Trainer) -> None:
        raise ValueError("a mistake in a callback of one's own")


class StopAt(At):
    """What a signal brings about."""

    def act(self, trainer: Trainer) -> None:
        raise Stopped("a test", code=130)


class PauseAt(At):
    """Makes the file `reached`, and waits for `seconds`, so that a test can do something meanwhile."""

    def __init__(self, hook: str, step: int, reached: str, seconds: float = 1.0) -> None:
        super().__init__(hook, step)
        self.reached = Path(reached)
        self.seconds = seconds

    def act(self, trainer: Trainer) -> None:
        if trainer.global_rank == 0 and not self.reached.exists():  # not again in the next attempt
            self.reached.touch()
            time.sleep(self.seconds)


class Slow(Callback):
    """Sleeps after every micro-batch: tiny models are too fast to be hit by a kill."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        time.sleep(self.seconds)


class NoteGpus(Callback):
    """Writes down which GPUs its process may use."""

    def __init__(self, path: str) -> None:
        Path(path).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"), encoding="utf-8")


class KillWorkerAt(At):
    """Kills a loader process."""

    def act(self, trainer: Trainer) -> None:
        for process in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, 9)


class DeleteNewestAt(At):
    """Does what a person with `rm -r` does."""

    def act(self, trainer: Trainer) -> None:
        shutil.rmtree(read.checkpoints(Path(trainer.default_root_dir) / "checkpoints")[-1].path)


class Obstruct(Callback):
    """From the end of optimizer step `first` to that of `last`, the disk of the run is full or its folder of
    checkpoints may not be written: the real thing."""

    def __init__(self, kind: str, first: int, last: int) -> None:
        self.kind, self.first, self.last = kind, first, last

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        folder = Path(trainer.default_root_dir)
        if trainer.global_step == self.first:
            fill(folder) if self.kind == "full" else forbid(folder / "checkpoints", True)
        if trainer.global_step == self.last:
            (folder / "filler").unlink() if self.kind == "full" else forbid(folder / "checkpoints", False)


def fill(folder: Path, leave: int = 0) -> None:
    """Fill the disk of a folder, but for so many bytes."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - leave)


def forbid(folder: Path, forbidden: bool) -> None:
    """Root is not bound by modes, only by an attribute of the file system."""
    if os.geteuid() == 0:
        subprocess.run(["chattr", "+i" if forbidden else "-i", str(folder)], check=True, capture_output=True)
    else:
        folder.chmod(0o555 if forbidden else 0o755)


class Stray(Callback):
    """Writes to a parameter after every optimizer step, whether it is frozen or not."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.network.get_parameter(self.name).data.add_(1)
