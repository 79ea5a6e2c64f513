"""How long does a checkpoint of the 14M model stop training?

Three take turns: the same bytes written to one file and fsynced, which is the least that any durable checkpoint can
cost; a checkpoint for which training waits (checkpoint.write_behind=false); and one that is written behind training,
for whose copy alone training waits. What the writer then takes from training is the difference between a step while
it works and a step without.

A virtual machine that has just started gives out memory slowly the first time it is touched, which is measured then:
believe the ratio when a second run agrees.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import project
from lightning.pytorch import Trainer
from timing import Bar, Outcome, Samples, Stopwatch, timed

from harness.callbacks.checkpoint import DurableCheckpoint
from harness.checkpoint import read

PAUSE = 0.5  # seconds: a run has minutes between checkpoints, in which what the one before left to do gets done
STEPS = 5  # that are timed with nothing beside them
PLAIN, WAITS, BEHIND = "plain write and fsync", "a checkpoint", "a checkpoint, written behind"
ALONE, BESIDE = "a step", "a step while one is written"
samples: Samples = {PLAIN: [], WAITS: [], BEHIND: [], ALONE: [], BESIDE: []}


class Timed(DurableCheckpoint):
    """Times each from the moment training stops to the moment it goes on, and then steps, `rounds` times and once."""

    def __init__(self, rounds: int, **options: Any) -> None:
        super().__init__(**options)
        self.rounds = rounds
        self._done = -1  # of the rounds; the first one touches memory for the first time

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 1:
            self._take_turns(trainer)
        if trainer.global_step < 1:
            return
        steps = trainer.global_step - self._since
        if not self._beside and steps == STEPS:
            samples[ALONE].append(self._watch.read().per(steps))
            self._checkpoint(trainer, behind=True)
            self._begin(trainer, beside=True)
        elif self._beside and steps and not self._io.behind.busy:
            samples[BESIDE].append(self._watch.read().per(steps))
            self._settle()
            self._done += 1
            if self._done == 0:
                for timings in samples.values():
                    timings.clear()
            if self._done == self.rounds:
                trainer.should_stop = True
            else:
                self._take_turns(trainer)

    def _take_turns(self, trainer: Trainer) -> None:
        beside = self._folder.parent / "plain"
        actions = {
            PLAIN: lambda: write_plainly(trainer, beside),
            WAITS: lambda: self._checkpoint(trainer, behind=False),
            BEHIND: lambda: self._checkpoint(trainer, behind=True),
        }
        names = list(actions)
        turn = self._done % len(names)
        for who in [*names[turn:], *names[:turn]]:
            time.sleep(PAUSE)
            samples[who].append(timed(actions[who]))
            self._settle()
            self._io.behind.wait()
        written = read.checkpoints(self._folder)[-1].bytes
        assert abs(beside.stat().st_size / written - 1) < 0.02, (beside.stat().st_size, written)
        beside.unlink()
        time.sleep(PAUSE)
        self._begin(trainer, beside=False)

    def _begin(self, trainer: Trainer, *, beside: bool) -> None:
        self._since, self._beside, self._watch = trainer.global_step, beside, Stopwatch()

    def _checkpoint(self, trainer: Trainer, *, behind: bool) -> None:
        self._tried_step = -1
        self._save(trainer, "measured", behind=behind)


def write_plainly(trainer: Trainer, path: Path) -> None:
    """Write every tensor of model and optimizer, as it lies in memory, to one file; fsync."""
    tensors = [*trainer.lightning_module.parameters()]
    tensors += [value for state in trainer.optimizers[0].state.values() for value in state.values()]
    with path.open("wb", buffering=0) as file:
        for tensor in tensors:
            file.write(memoryview(tensor.detach().numpy().reshape(-1)).cast("B"))
        os.fsync(file.fileno())


def measure(rounds: int = 12, *, short: bool = False) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        project.train([
            *project.overrides(Path(folder)), "model=14m", "model.config.max_position_embeddings=16",
            "model.config.vocab_size=2048", "data.batch_size=1", "trainer=cpu", "trainer.precision=32-true",
            "trainer.max_steps=100000", "trainer.val_check_interval=100000", "logger=none",
            "callbacks.checkpoint._target_=benchmark_save.Timed", f"+callbacks.checkpoint.rounds={rounds}",
        ])  # fmt: skip
    plain = "over a plain write and fsync of its bytes"
    bars = [
        Bar(f"a checkpoint {plain}", WAITS, PLAIN, 1.5, clock="wall"),
        Bar(f"how long one that is written behind stops training, {plain}", BEHIND, PLAIN, 0.15, clock="wall"),
        Bar("a step while a checkpoint is written, over one without", BESIDE, ALONE, clock="wall"),
    ]
    notes = ["While a checkpoint is written, its checksums and the disk take processor time from training on a CPU."]
    return Outcome(samples, bars, notes=notes)
