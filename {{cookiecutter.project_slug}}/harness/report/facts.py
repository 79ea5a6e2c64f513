"""The numbers of a run as plain data, for --json and for the two reports that people read."""

from typing import Any

from harness.report.planned import planned
from harness.report.record import RunRecord, mapping

NUMBERS = ("first", "last", "lowest", "highest", "mean")  # of a curve


def facts(record: RunRecord) -> dict[str, Any]:
    """Return what can be said of a run in numbers."""

    number = max(1, record.counts["gradient_stats"])
    largest = sorted(record.modules.items(), key=lambda item: item[1], reverse=True)[:10]
    return {
        "name": record.name,
        "folder": record.folder.as_posix(),
        "status": str(record.diary.get("status", "unknown")),
        "step": record.step,
        "attempts": len(record.times),
        "seconds": record.seconds,
        "parameters": mapping(record.start, "parameters"),
        "events": dict(record.counts),
        "trend": trend(record, "loss"),
        "accuracy_trend": trend(record, "accuracy"),
        "curves": {name: {key: getattr(curve, key) for key in NUMBERS} for name, curve in record.curves.items()},
        "epochs": epochs(record),
        "updates": dict(record.updated),
        "labels": record.labels,
        "modules": {name: total / number for name, total in largest},
        "skipped_steps": record.steps_of("nan_skip"),
        "resumed_at": record.steps_of("resume"),
        "plan": planned(record),
    }


def trend(record: RunRecord, name: str) -> dict[str, float]:
    """Return the means of the first and the last 10 recorded values (of a short run, of its halves), and the change.

    Empty where there are too few.
    """
    found = record.ends[name].trend() if name in record.ends else {}
    return found and found | {"change": (found["last"] - found["first"]) / max(abs(found["first"]), 1e-9)}


def epochs(record: RunRecord) -> dict[int, dict[str, Any]]:
    """Return of each epoch the number of its optimizer steps, and first, last and mean of what was recorded in it."""
    found = sorted(record.epochs.items())
    ends = [*(epoch.first_step - 1 for _, epoch in found[1:]), record.step]
    return {
        place: {
            "steps": max(0, last - epoch.first_step + 1),
            **{name: values.summary() for name, values in epoch.values.items()},
        }
        for (place, epoch), last in zip(found, ends, strict=False)  # no epoch has no end
    }


def duration(seconds: float) -> str:
    """Return `2 h 05 min`, `3 min 20 s` or `12.3 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def size(held: float) -> str:
    """Return bytes as `12.3 MB`, `1.23 GB` or `4.56 TB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9)):
        if held >= factor:
            return f"{held / factor:,.3g} {unit}"
    return f"{held / 1e6:,.3g} MB"
