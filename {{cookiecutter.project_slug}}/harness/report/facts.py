"""The numbers of a run as plain data, for --json and for the two reports that people read."""

from statistics import fmean
from typing import Any

from harness.report.read import Curve, Record


def facts(record: Record) -> dict[str, Any]:
    """Return what can be said of a run in numbers."""

    def ends(curve: Curve) -> dict[str, float]:
        return {
            "first": curve.first,
            "last": curve.last,
            "lowest": curve.lowest,
            "highest": curve.highest,
            "mean": curve.mean,
        }

    number = max(1, record.counts["gradient_stats"])
    largest = sorted(record.modules.items(), key=lambda item: item[1], reverse=True)[:10]
    return {
        "name": record.name,
        "folder": record.folder.as_posix(),
        "status": record.diary.get("status", "unknown"),
        "step": record.step,
        "attempts": len(record.times),
        "seconds": record.seconds,
        "parameters": record.start.get("parameters", {}),
        "events": dict(record.counts),
        "trend": trend(record),
        "curves": {name: ends(curve) for name, curve in record.curves.items()},
        "epochs": record.epochs,
        "modules": {name: total / number for name, total in largest},
        "skipped_steps": record.steps_of("nan_skip"),
        "resumed_at": record.steps_of("resume"),
    }


def trend(record: Record) -> dict[str, float]:
    """Return the means of the first and the last 10 recorded losses (of a short run, of its halves), and the change.

    Empty where there are too few losses.
    """
    number = min(10, len(record.first_losses) // 2)
    if not number:
        return {}
    first, last = fmean(record.first_losses[:number]), fmean([*record.last_losses][-number:])
    return {"first": first, "last": last, "change": (last - first) / max(first, 1e-9)}


def duration(seconds: float) -> str:
    """Return `2 h 05 min`, `3 min 20 s` or `12.3 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"
