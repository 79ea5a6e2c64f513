"""What does the event log cost the 14M model? python benchmarks/event_log_overhead.py [ROUNDS]

One run on the CPU, in which steps that record nothing, the loss and gradients, or the updates take turns, so that
all meet the same machine. The cost at the default frequencies is then (loss and gradients) / 10 + (updates) / 50.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = next(Path(__file__).resolve().parents[1].glob("*cookiecutter.project_slug*"))
sys.path.insert(0, str(PROJECT))

from lightning.pytorch import Callback, Trainer  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from harness.callbacks.debug_log import DebugLog  # noqa: E402
from harness.config.compose import compose  # noqa: E402
from lm.fit import train  # noqa: E402

KINDS = ("nothing", "loss and gradients", "nothing", "updates")
EVERY = {"loss and gradients": 10, "updates": 50}
WARM_UP = 4  # steps
taken: dict[str, list[float]] = {kind: [] for kind in KINDS}


class Switched(DebugLog):
    """Records by turns what it would record at its default frequencies."""

    def _due(self, every: int, step: int) -> bool:
        kind = KINDS[step % len(KINDS)]
        return EVERY.get(kind) == every


class Clock(Callback):
    """Times each step from one batch's start to the next's. Comes after every other callback."""

    def __init__(self) -> None:
        self.started = 0.0

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        now, step = time.perf_counter(), trainer.global_step
        if step > WARM_UP:
            taken[KINDS[step % len(KINDS)]].append(now - self.started)
        self.started = now


def main(folder: str, rounds: int) -> None:
    steps = WARM_UP + len(KINDS) * rounds + 1
    cfg = compose([
        "model=14m", f"data.prepared={folder}/prepared", f"run.root={folder}/runs", "data.limit=60",
        "data.batch_size=8", "data.val_fraction=0.1", "trainer=cpu",
        f"trainer.max_steps={steps}", "trainer.limit_val_batches=1", "trainer.val_check_interval=100000",
        "model.compile=false", "logger=none", "callbacks.samples=null", "checkpoint.every_n_steps=null",
        "checkpoint.every_minutes=null", "callbacks.debug_log._target_=__main__.Switched",
        "+callbacks.clock={_target_:__main__.Clock}",
    ])  # fmt: skip
    OmegaConf.resolve(cfg)
    train(cfg)
    plain = statistics.median(taken["nothing"])
    print(f"\n14M, batch 8 x 256, medians of {rounds} interleaved rounds")
    print(f"{'nothing recorded':20} {plain * 1e3:7.1f} ms a step")
    cost = 0.0
    for kind, every in EVERY.items():
        more = statistics.median(taken[kind]) - plain
        cost += more / every
        print(f"{kind:20} {more * 1e3:+7.1f} ms, every {every} steps")
    print(f"step time with the event log / without: {1 + cost / plain:.4f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(scratch, int(sys.argv[1]) if len(sys.argv) > 1 else 12)
