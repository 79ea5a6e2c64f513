"""How everything here is timed: contestants take turns on one machine, wall time beside CPU time, medians and spread.

A shared machine drifts, so contestants are compared within a round, where they met the same machine, and rounds run
forward and backward in turn. CPU time is what is left of a step when others wait for the same cores.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sample:
    """Seconds of one piece of work; `cpu` counts all threads and a timed command's children; None: not counted."""

    wall: float
    cpu: float | None
    megabytes: float = 0.0  # peak of resident memory, of a timed command
    steps: float = 0.0  # optimizer steps, where their number is what is compared

    def per(self, pieces: float) -> "Sample":
        return Sample(self.wall / pieces, self.cpu and self.cpu / pieces, self.megabytes)


class Absent(Exception):
    """What a measurement needs is not here."""


class Stopwatch:
    """Started when made. Waits for what a GPU still has to do."""

    def __init__(self) -> None:
        _synchronize()
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> Sample:
        _synchronize()
        return Sample(time.perf_counter() - self.wall, time.process_time() - self.cpu)


def _synchronize() -> None:
    torch: Any = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(action: Callable[[], Any]) -> Sample:
    watch = Stopwatch()
    action()
    return watch.read()


def command(words: Sequence[str], *, fails: bool = False, log: Path | None = None, **options: Any) -> Sample:
    """Time a command from its start to its end, with its output in `log`. Ends this process with that output where it
    fails unexpectedly."""
    watch = Stopwatch()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if bool(status) != fails:
        sys.exit(f"{' '.join(words)}\n{output.decode(errors='replace')[-2000:]}")
    if log:
        log.write_bytes(output)
    megabytes = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return Sample(watch.read().wall, usage.ru_utime + usage.ru_stime, megabytes)


Samples = dict[str, list[Sample]]


def interleaved(contestants: dict[str, Callable[[], Sample]], rounds: int, warm_up: int = 1) -> Samples:
    """Let every contestant run once a round; every other round begins with the last one."""
    samples: Samples = {name: [] for name in contestants}
    for number in range(-warm_up, rounds):
        for name in sorted(contestants, key=list(contestants).index, reverse=number % 2 == 1):
            sample = contestants[name]()
            if number >= 0:
                samples[name].append(sample)
    return samples


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) < 2:
            return cls(*[values[0]] * 3)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    @property
    def width(self) -> float:
        """How far the quartiles are apart, as a share of the median."""
        return (self.high - self.low) / abs(self.median) if self.median else 0.0


def ratio(samples: Samples, of: str, over: str | float, clock: str) -> Spread:
    """Return how many times as long `of` takes as `over`, or as much as that number: the median of the rounds' ratios,
    and their quartiles."""
    first = [getattr(sample, clock) for sample in samples[of]]
    second = [getattr(sample, clock) for sample in samples[over]] if isinstance(over, str) else [over] * len(first)
    return Spread.of([a / b for a, b in zip(first, second, strict=True)])


@dataclass(frozen=True)
class Bar:
    """A ratio that is to be reached: `of` over `over`, which may be a number, at most `limit`, by the clock that shows
    it best."""

    says: str
    of: str
    over: str | float
    limit: float | None = None  # None: told, not demanded
    clock: str = "cpu"  # or "wall", "steps", "megabytes"


@dataclass
class Outcome:
    """What a benchmark found. `rates`: what each contestant handled a run and its unit, where a speed says more."""

    samples: Samples
    bars: list[Bar]
    unit: str = "ms"  # of the table: "ms" or "s"
    rates: dict[str, float] = field(default_factory=dict)
    rate_unit: str = ""
    memory: bool = False
    notes: list[str] = field(default_factory=list)
