"""What does the event log cost the 14M model?

One run on the CPU, in which steps that record nothing, the loss and gradients, or the updates take turns. The cost at
the default frequencies is then (loss and gradients) / 10 + (updates) / 50.
"""

import tempfile
from pathlib import Path
from typing import Any

import project
from lightning.pytorch import Callback, Trainer
from timing import Bar, Outcome, Sample, Stopwatch

from harness.callbacks.debug_log import DebugLog

KINDS = ("nothing", "loss and gradients", "nothing", "updates")
EVERY = {"loss and gradients": 10, "updates": 50}
NONE, ALL = "nothing recorded", "at the default frequencies"
WARM_UP = 4  # steps
taken: dict[str, list[Sample]] = {kind: [] for kind in KINDS}


class Switched(DebugLog):
    """Records by turns what it would record at its default frequencies."""

    def _due(self, every: int, step: int) -> bool:
        kind = KINDS[step % len(KINDS)]
        return EVERY.get(kind) == every


class Switch(Callback):
    """Times each step from one batch's start to the next's. Comes after every other callback."""

    reads_metrics = False
    watch: Stopwatch

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step > WARM_UP:
            taken[KINDS[trainer.global_step % len(KINDS)]].append(self.watch.read())
        self.watch = Stopwatch()


def measure(rounds: int = 12, *, short: bool = False) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        project.train([
            *project.overrides(Path(folder)), "model=14m", "data.batch_size=8", "trainer=cpu",
            f"trainer.max_steps={WARM_UP + len(KINDS) * rounds + 1}", "logger=none",
            "checkpoint.every_n_steps=null", "checkpoint.every_minutes=null",
            "callbacks.debug_log._target_=benchmark_events.Switched",
            "+callbacks.switch._target_=benchmark_events.Switch",
        ])  # fmt: skip
    plain = taken["nothing"][: 2 * rounds : 2]
    samples = {NONE: plain, ALL: []}
    for base, *recorded in zip(plain, *(taken[kind] for kind in EVERY), strict=False):
        samples[ALL].append(Sample(*(amortized(clock, base, recorded) for clock in ("wall", "cpu"))))
    samples[NONE] = plain[: len(samples[ALL])]
    return Outcome(samples, [Bar("the event log at 14M over none", ALL, NONE, 1.01)])


def amortized(clock: str, base: Sample, recorded: list[Sample]) -> float:
    """Return the seconds of a step with its share of what only one step in so many does."""
    plain = float(getattr(base, clock))
    more = [(getattr(sample, clock) - plain) / every for sample, every in zip(recorded, EVERY.values(), strict=True)]
    return plain + sum(more)
