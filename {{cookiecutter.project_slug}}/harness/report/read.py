"""Read a run for a report: one pass over its events, in memory that does not grow with them."""

import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from harness.config.secrets import masked
from harness.errors import UserError
from harness.run import folder as run_folder
from harness.telemetry import events

Data = dict[str, Any]


class Curve:
    """A series of numbers over steps, in at most `most` bins of equal width: when they are full, the width doubles.

    So a log of any length gives a curve that a page can draw, and what a bin hides stays visible as its range.
    """

    def __init__(self, most: int = 1500) -> None:
        self.most, self.width = most, 1
        self.bins: dict[int, list[float]] = {}  # number, sum of steps, sum, lowest, highest
        self.first = self.last = math.nan

    def add(self, step: int, value: float) -> None:
        place = step // self.width
        found = self.bins.get(place)
        if found is None:
            self._begin(place, step, value)
        else:
            found[0] += 1
            found[1] += step
            found[2] += value
            if value < found[3]:
                found[3] = value
            elif value > found[4]:
                found[4] = value
        self.last = value

    def _begin(self, place: int, step: int, value: float) -> None:
        if not self.bins:
            self.first = value
        self.bins[place] = [1, step, value, value, value]
        if len(self.bins) > self.most:
            self.width *= 2
            narrow, self.bins = self.bins, {}
            for place, (number, steps, total, low, high) in narrow.items():
                to = self.bins.setdefault(place // 2, [0, 0, 0.0, low, high])
                to[:] = to[0] + number, to[1] + steps, to[2] + total, min(to[3], low), max(to[4], high)

    @property
    def lowest(self) -> float:
        return min((found[3] for found in self.bins.values()), default=math.nan)

    @property
    def highest(self) -> float:
        return max((found[4] for found in self.bins.values()), default=math.nan)

    @property
    def mean(self) -> float:
        number = sum(found[0] for found in self.bins.values())
        return sum(found[2] for found in self.bins.values()) / number if number else math.nan

    def points(self) -> Iterator[tuple[float, float, float, float]]:
        """Yield (step, mean, lowest, highest) in the order of steps."""
        for _, (number, steps, total, low, high) in sorted(self.bins.items()):
            yield steps / number, total / number, low, high


class Thinned:
    """A list of at most `most` items, evenly chosen from however many were added, and the last one."""

    def __init__(self, most: int) -> None:
        self.most, self.stride, self.count = most, 1, 0
        self._items: list[Any] = []
        self._last: Any = None

    def add(self, item: Any) -> None:
        if self.count % self.stride == 0:
            self._items.append(item)
            if len(self._items) > self.most:
                self._items, self.stride = self._items[::2], self.stride * 2
        self._last = item
        self.count += 1

    def __iter__(self) -> Iterator[Any]:
        yield from self._items
        if self.count and self._items[-1] is not self._last:
            yield self._last


@dataclass
class Record:
    """What a report needs to know of a run. The events are those that count: superseded ones are left out."""

    folder: Path
    diary: Data
    config: Data
    counts: Counter[str] = field(default_factory=Counter)
    curves: dict[str, Curve] = field(default_factory=dict)
    updates: Thinned = field(default_factory=lambda: Thinned(100))  # (step, module -> relative change)
    epochs: dict[int, dict[str, list[float]]] = field(default_factory=dict)  # name -> first, last
    first_losses: list[float] = field(default_factory=list)
    last_losses: deque[float] = field(default_factory=lambda: deque(maxlen=10))
    modules: dict[str, float] = field(default_factory=dict)  # sum of gradient norms
    marks: dict[str, Thinned] = field(default_factory=dict)  # by kind: (step, data)
    samples: dict[str, Thinned] = field(default_factory=dict)  # by prompt: (step, text)
    start: Data = field(default_factory=dict)
    end: Data | None = None
    step: int = 0
    times: dict[int, list[float]] = field(default_factory=dict)  # by attempt: of its first and last event

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def add(self, event: Data) -> None:
        kind, step = event["event_type"], event["step"]
        self.counts[kind] += 1
        self.step = max(self.step, step)
        if event["attempt"] not in self.times:
            self.times[event["attempt"]] = [event["time"], event["time"]]
        self.times[event["attempt"]][1] = event["time"]
        if kind in READERS:
            READERS[kind](self, step, event["data"])

    @property
    def seconds(self) -> float:
        """How long the run was at work, over all its attempts."""
        return sum(last - first for first, last in self.times.values())

    def curve(self, name: str, step: int, value: float | None) -> None:
        if value is not None:  # else it was not finite, and the curve has a gap
            self.curves.setdefault(name, Curve()).add(step, value)

    def mark(self, kind: str, step: int, data: Data) -> None:
        self.marks.setdefault(kind, Thinned(2000)).add((step, data))

    def steps_of(self, kind: str) -> list[int]:
        """Return the steps of the marks of a kind, each once: a resumed run reports its last skipped step again."""
        return sorted({step for step, _ in self.marks.get(kind, ())})


def training_step(record: Record, step: int, data: Data) -> None:
    epoch = record.epochs.setdefault(data["epoch"], {})
    for name in ("loss", "accuracy", "lr", "tokens_per_second"):
        record.curve(name, step, value := data[name])
        if value is not None:
            epoch.setdefault(name, [value, value])[1] = value
    if (loss := data["loss"]) is None:
        record.mark("nan_loss", step, {})
        return
    if len(record.first_losses) < 20:
        record.first_losses.append(loss)
    record.last_losses.append(loss)


def gradient_stats(record: Record, step: int, data: Data) -> None:
    record.curve("gradient", step, data["norm"])
    for module, norm in data["top"].items():
        record.modules[module] = record.modules.get(module, 0.0) + (norm or 0.0)
    counts = {name: data[name] for name in ("parameters", "with_gradient", "zero")}
    if data["norm"] == 0:
        record.mark("zero_gradient", step, counts)
    elif counts["with_gradient"] < counts["parameters"] or counts["zero"]:
        record.mark("parts_without_gradient", step, counts)


def param_updates(record: Record, step: int, data: Data) -> None:
    record.updates.add((step, data["modules"]))
    # Nothing should move at a rate of 0 or in a skipped step.
    if not data["changed"] and data["lr"] and not data["skipped"]:
        record.mark("no_update", step, {})


def validation(record: Record, step: int, data: Data) -> None:
    record.curve("val_loss", step, data.get("loss"))


def sample(record: Record, step: int, data: Data) -> None:
    record.samples.setdefault(data["prompt"], Thinned(12)).add((step, data["text"]))


def data_sanity_check(record: Record, step: int, data: Data) -> None:
    if data.get("rows_without_label"):
        record.mark("rows_without_label", step, data)
    elif not data["ok"]:
        record.mark("bad_labels", step, data)


def checkpoint(record: Record, step: int, data: Data) -> None:
    if "failed" in data:
        record.mark("no_checkpoint", step, data)


def fit_start(record: Record, step: int, data: Data) -> None:
    record.start, record.end = data, None
    record.marks.pop("exception", None)  # it goes on
    if step:
        record.mark("resume", step, data)


def fit_end(record: Record, step: int, data: Data) -> None:
    record.end = data


def marked(kind: str) -> Any:
    return lambda record, step, data: record.mark(kind, step, data)


READERS: dict[str, Any] = {
    "training_step": training_step,
    "gradient_stats": gradient_stats,
    "param_updates": param_updates,
    "validation": validation,
    "sample": sample,
    "data_sanity_check": data_sanity_check,
    "fit_start": fit_start,
    "fit_end": fit_end,
    "checkpoint": checkpoint,
    **{kind: marked(kind) for kind in ("nan_skip", "rollback", "precision_fallback", "oom", "exception")},
}


def read(folder: Path) -> Record:
    """Read the run in `folder`. Raises UserError where there is none, or none with an event log."""
    path = events.log_path(folder)
    if not path.is_file():
        what = (
            f"{folder} has no event log ({events.FOLDER}/{path.name})."
            if folder.is_dir()
            else f"{folder} is no folder."
        )
        raise UserError(what, cure="Name the folder of a run below runs/; callbacks.debug_log.enabled=true records it.")
    config = OmegaConf.to_container(run_folder.config(folder)) if (folder / "config.yaml").is_file() else {}
    record = Record(folder, run_folder.read(folder), masked(config))
    for event in events.current(path):
        record.add(event)
    if not record.counts:
        raise UserError(
            f"The event log {path} is empty.", cure="Was the run killed in its first seconds? Start it again."
        )
    return record
