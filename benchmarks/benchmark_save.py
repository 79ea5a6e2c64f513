"""How long does a checkpoint of the 14M model stop training?

It checkpoints after every step; before or after each, by turns, the same bytes are written to one file and fsynced,
which is the least that any durable checkpoint can cost. A virtual machine that has just started gives out memory slowly
the first time it is touched, which is measured then: believe the ratio when a second run agrees.
"""

import os
import tempfile
import time
from pathlib import Path

import project
from lightning.pytorch import Trainer
from timing import Bar, Outcome, Samples, timed

from harness.callbacks.checkpoint import DurableCheckpoint
from harness.checkpoint import read

PAUSE = 0.5  # seconds: a run has minutes between checkpoints, in which what the one before left to do gets done
PLAIN, OURS = "plain write and fsync", "a checkpoint"
samples: Samples = {PLAIN: [], OURS: []}


class Timed(DurableCheckpoint):
    """Times each checkpoint from the moment training stops to the moment it goes on."""

    def _save(self, trainer: Trainer, reason: str) -> None:
        checkpoints = read.checkpoints(self._folder)
        if not checkpoints:
            return super()._save(trainer, reason)
        time.sleep(PAUSE)
        beside = self._folder.parent / "plain"
        actions = {
            PLAIN: lambda: write_plainly(trainer, beside, checkpoints[-1].bytes),
            OURS: lambda: super(Timed, self)._save(trainer, reason),
        }
        for who in sorted(actions, reverse=len(samples[PLAIN]) % 2 == 0):
            samples[who].append(timed(actions[who]))
        beside.unlink()
        return None


def write_plainly(trainer: Trainer, path: Path, size: int) -> None:
    """Write every tensor of model and optimizer, as it lies in memory, to one file; fsync."""
    tensors = [*trainer.lightning_module.parameters()]
    tensors += [value for state in trainer.optimizers[0].state.values() for value in state.values()]
    with path.open("wb", buffering=0) as file:
        for tensor in tensors:
            file.write(memoryview(tensor.detach().numpy().reshape(-1)).cast("B"))
        assert abs(file.tell() / size - 1) < 0.02, (file.tell(), size)
        os.fsync(file.fileno())


def measure(rounds: int = 16, *, short: bool = False) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        project.train([
            *project.overrides(Path(folder)), "model=14m", "model.config.max_position_embeddings=16",
            "model.config.vocab_size=2048", "data.batch_size=1", "trainer=cpu", "trainer.precision=32-true",
            f"trainer.max_steps={rounds + 1}", "logger=none", "checkpoint.every_n_steps=1",
            "callbacks.checkpoint._target_=benchmark_save.Timed",
        ])  # fmt: skip
    bars = [Bar("a checkpoint over a plain write and fsync of its bytes", OURS, PLAIN, 1.5, clock="wall")]
    return Outcome(samples, bars)
