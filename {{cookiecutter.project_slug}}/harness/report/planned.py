"""How wrong was the plan? What `train.py --plan` said of a run, beside what the run took."""

from collections.abc import Iterator
from typing import Any

from harness.report.record import RunRecord, number
from harness.run import diary, plans

Share = dict[str, dict[str, float]]


def planned(record: RunRecord) -> Share:
    """Return {what: {planned, actual, ratio}} in bytes and seconds; empty without a plan.

    The time is compared where the run has trained exactly the steps that were planned, in attempts that wrote down
    their ends.
    """
    plan = plans.find(record.folder)
    return {} if plan is None else {name: compared(*pair) for name, pair in pairs(record, plan) if all(pair)}


def pairs(record: RunRecord, plan: plans.Plan) -> Iterator[tuple[str, tuple[float, float]]]:
    known: Any = record.diary.get("attempts")
    attempts = [entry for entry in (known if isinstance(known, list) else ()) if isinstance(entry, dict)]
    if not plan.why_counted:  # a GPU's, or a shard's: this process's is another thing
        yield "memory", (plan.peak, max((number(entry, "peak_memory") or 0.0 for entry in attempts), default=0.0))
    seconds = [number(entry, "seconds") for entry in attempts]
    if record.step == plan.steps and not plan.done and None not in seconds:
        yield "seconds", (sum(plan.seconds.values()), sum(filter(None, seconds)))
    manifest = diary.newest_manifest(record.folder) or {}
    files = manifest.get("files")
    entries = files.values() if isinstance(files, dict) else ()
    size = sum(number(file, "bytes") or 0.0 for file in entries if isinstance(file, dict))
    yield "checkpoint", (plan.checkpoint_bytes, size)


def compared(planned: float, actual: float) -> dict[str, float]:
    return {"planned": planned, "actual": actual, "ratio": planned / actual}
