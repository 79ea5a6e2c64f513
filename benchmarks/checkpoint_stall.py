"""How long does a checkpoint of the 14M model stop training? python benchmarks/checkpoint_stall.py [FOLDER]

Trains on FOLDER's disk (default: a temporary folder) and checkpoints after every step; before each checkpoint the same
bytes are written to one file and fsynced, which is the least that any durable checkpoint can cost. Prints both, and
their ratio. A virtual machine that has just started gives out memory slowly the first time it is touched, which is
measured
then: believe the ratio when a second run agrees.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = next(Path(__file__).resolve().parents[1].glob("*cookiecutter.project_slug*"))
sys.path.insert(0, str(PROJECT))

from lightning.pytorch import LightningModule, Trainer  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from harness.callbacks.checkpoint import DurableCheckpoint  # noqa: E402
from harness.checkpoint import read  # noqa: E402
from harness.config.compose import compose  # noqa: E402
from lm.fit import train  # noqa: E402

ROUNDS = 16
PAUSE = 0.5
plain: list[float] = []
stalls: list[float] = []


class Timed(DurableCheckpoint):
    """Times each checkpoint from the moment training stops to the moment it goes on, before or after a plain write."""

    def _save(self, trainer: Trainer, reason: str) -> None:
        checkpoints = read.checkpoints(self._folder)
        if not checkpoints:
            return super()._save(trainer, reason)
        time.sleep(PAUSE)  # a run has minutes between checkpoints: what the one before left to do is done
        beside = self._folder.parent / "plain"
        measure = {
            "plain": lambda: plain.append(seconds(lambda: write_plainly(trainer, beside, checkpoints[-1].bytes))),
            "checkpoint": lambda: stalls.append(seconds(lambda: super(Timed, self)._save(trainer, reason))),
        }
        for name in sorted(measure, reverse=len(plain) % 2 == 0):
            measure[name]()
        beside.unlink()
        return None


def write_plainly(trainer: Trainer, path: Path, size: int) -> None:
    """Write every tensor of model and optimizer, as it lies in memory, to one file; fsync."""
    module: LightningModule = trainer.lightning_module
    tensors = [*module.parameters()]
    tensors += [value for state in trainer.optimizers[0].state.values() for value in state.values()]
    with path.open("wb", buffering=0) as file:
        for tensor in tensors:
            file.write(memoryview(tensor.detach().numpy().reshape(-1)).cast("B"))
        assert abs(file.tell() / size - 1) < 0.02, (file.tell(), size)
        os.fsync(file.fileno())


def seconds(action: Any) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main(folder: str) -> None:
    text = Path(folder) / "text"
    text.mkdir()
    for number in range(50):
        (text / f"{number}.txt").write_text(
            f"def number_{number}(): return {number} * {number}\n" * 40, encoding="utf-8"
        )
    cfg = compose(
        [
            "model=14m",
            "model.config.max_position_embeddings=16",
            "model.config.vocab_size=2048",
            "data=text",
            f"data.path={text}",
            "data.batch_size=1",
            f"data.prepared={folder}/prepared",
            f"run.root={folder}/runs",
            "trainer=cpu",
            "trainer.precision=32-true",
            f"trainer.max_steps={ROUNDS}",
            "trainer.limit_val_batches=0",
            "model.compile=false",
            "logger=none",
            "checkpoint.every_n_steps=1",
            "data.val_fraction=0.2",
            "callbacks.checkpoint._target_=__main__.Timed",
        ]
    )
    OmegaConf.resolve(cfg)
    train(cfg)
    least, ours = statistics.median(plain), statistics.median(stalls)
    size = read.checkpoints(Path(cfg.run.dir) / "checkpoints")[-1].bytes
    print(f"\n{size / 1e6:.0f} MB on {folder}, medians of {len(stalls)} interleaved rounds")
    print(f"plain write + fsync  {least * 1e3:6.0f} ms")
    print(f"a checkpoint             {ours * 1e3:6.0f} ms")
    each = ", ".join(f"{b / a:.2f}" for a, b in zip(plain, stalls, strict=True))
    print(f"ratio                {ours / least:6.2f}   (each round: {each})")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as scratch:
        main(scratch)
