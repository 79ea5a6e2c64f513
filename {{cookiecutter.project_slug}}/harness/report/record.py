"""What is known of a run: its events, added up one after the other in memory that does not grow with them.

Nothing in a log is taken for granted: it may be torn, of an older version, or of somebody else. What should be a number
and is not is a gap, and an event without what its reader needs says less.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.report.curves import Curve, Ends, Jumps, Thinned

Data = dict[str, Any]

LOSS_JUMP = 0.5  # nats
GRADIENT_JUMP = math.log(5)  # of the logarithm of the norm
# What each curve is called in an event; the second name is that of logs of before.
FIELDS = {
    "loss": ("loss",),
    "accuracy": ("accuracy",),
    "lr": ("learning_rate", "lr"),
    "tokens_per_second": ("tokens_per_second",),
}


@dataclass
class Epoch:
    """The steps and the recorded values of one epoch."""

    first_step: int  # of which the step before was the last of the epoch before
    values: dict[str, Ends] = field(default_factory=dict)


@dataclass
class RunRecord:
    """What a report needs to know of a run. The events are those that count: superseded ones are left out."""

    folder: Path
    diary: Data
    config: Data
    counts: Counter[str] = field(default_factory=Counter)
    curves: dict[str, Curve] = field(default_factory=dict)
    ends: dict[str, Ends] = field(default_factory=dict)
    epochs: dict[int, Epoch] = field(default_factory=dict)
    updates: Thinned = field(default_factory=lambda: Thinned(100))  # (step, module -> relative change)
    updated: Counter[str] = field(default_factory=Counter)  # recorded steps that moved all, some or none
    labels: Data = field(default_factory=dict)  # the vocabulary, and the smallest and largest label that was seen
    modules: dict[str, float] = field(default_factory=dict)  # sum of gradient norms
    marks: dict[str, Thinned] = field(default_factory=dict)  # by kind: (step, data)
    samples: dict[str, Thinned] = field(default_factory=dict)  # by prompt: (step, text)
    swapped: dict[str, Data] = field(default_factory=dict)  # by what was: the last losses with the own and another's
    start: Data = field(default_factory=dict)
    end: Data | None = None
    step: int = 0
    times: dict[int, list[float]] = field(default_factory=dict)  # by attempt: of its first and last event
    jumps: dict[str, Jumps] = field(
        default_factory=lambda: {"loss": Jumps(LOSS_JUMP), "gradient": Jumps(GRADIENT_JUMP)}
    )

    title: str = ""  # in place of the folder's name

    @property
    def name(self) -> str:
        return self.title or self.folder.resolve().name

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


def number(data: Data, *names: str) -> float | None:
    """Return the first of `names` that `data` has, if it is a finite number."""
    value = next((data[name] for name in names if name in data), None)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < 1e300 else None  # a comparison of integers of any length does not overflow


def mapping(data: Data, name: str) -> Data:
    """Return the mapping in `data` of that name, empty where it is none."""
    found = data.get(name)
    return found if isinstance(found, dict) else {}


def training_step(record: RunRecord, step: int, data: Data) -> None:
    epoch = epoch_of(record, step, data)
    for name, names in FIELDS.items():
        value = number(data, *names)
        record.curve(name, step, value)
        if value is not None:
            for ends in (record.ends, epoch.values):
                ends.setdefault(name, Ends()).add(value)
    if (loss := number(data, "loss")) is None:
        record.mark("nan_loss", step, {})
    elif record.jumps["loss"].add(loss):
        record.mark("loss_jump", step, {"loss": loss})


def epoch_start(record: RunRecord, step: int, data: Data) -> None:
    epoch_of(record, step + 1, data)


def epoch_of(record: RunRecord, step: int, data: Data) -> Epoch:
    epoch = record.epochs.setdefault(int(number(data, "epoch") or 0), Epoch(step))
    epoch.first_step = min(epoch.first_step, step)
    return epoch


def gradient_stats(record: RunRecord, step: int, data: Data) -> None:
    norm = number(data, "total_norm", "norm")
    record.curve("gradient", step, norm)
    if norm and norm > 0 and record.jumps["gradient"].add(math.log(norm)):
        record.mark("gradient_jump", step, {"norm": norm})
    for module in (top := mapping(data, "top")):
        record.modules[module] = record.modules.get(module, 0.0) + (number(top, module) or 0.0)
    counts = {name: int(number(data, name) or 0) for name in ("parameters", "with_gradient", "zero")}
    if norm == 0:
        record.mark("zero_gradient", step, counts)
    elif counts["with_gradient"] < counts["parameters"] or counts["zero"]:
        record.mark("parts_without_gradient", step, counts)


def param_updates(record: RunRecord, step: int, data: Data) -> None:
    modules = mapping(data, "modules")
    record.updates.add((step, {name: number(modules, name) for name in modules}))
    changed, parameters = number(data, "changed"), number(data, "parameters")
    # Nothing should move at a rate of 0 or in a skipped step.
    if data.get("skipped") or not number(data, "learning_rate", "lr") or changed is None:
        return
    record.updated["all" if changed == parameters else "some" if changed else "none"] += 1
    if not changed:
        record.mark("no_update", step, {})


def validation(record: RunRecord, step: int, data: Data) -> None:
    record.curve("val_loss", step, number(data, "loss"))
    for name in (key.removesuffix("/other") for key in data if key.endswith("/other")):
        record.swapped[name] = {which: number(data, f"{name}/{which}") for which in ("own", "other", "right")}


def sample(record: RunRecord, step: int, data: Data) -> None:
    said = str(data.get("text", ""))
    record.samples.setdefault(str(data.get("prompt", "")), Thinned(12)).add((step, said))


def data_sanity_check(record: RunRecord, step: int, data: Data) -> None:
    for name, choose in (("vocabulary", max), ("label_min", min), ("label_max", max)):
        if (value := number(data, name)) is not None:
            record.labels[name] = int(choose(value, record.labels.get(name, value)))
    if data.get("rows_without_label"):
        record.mark("rows_without_label", step, data)
    elif not data.get("ok", True):
        record.mark("bad_labels", step, data)


def checkpoint(record: RunRecord, step: int, data: Data) -> None:
    if "failed" in data:
        record.mark("no_checkpoint", step, data)


def fit_start(record: RunRecord, step: int, data: Data) -> None:
    record.start, record.end = data, None
    record.marks.pop("exception", None)  # it goes on
    if step:
        record.mark("resume", step, data)


def fit_end(record: RunRecord, step: int, data: Data) -> None:
    record.end = data


def marked(kind: str) -> Any:
    return lambda record, step, data: record.mark(kind, step, data)


READERS: dict[str, Any] = {
    "training_step": training_step,
    "epoch_start": epoch_start,
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
