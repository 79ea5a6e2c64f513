"""`summary.json` beside the event log: where the run stands, in a few numbers, for a script or a person with `cat`."""

import contextlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from harness.files import recovered, write_whole

SCHEMA = 1  # of events, too


class Summary:
    def __init__(self, path: Path, same: dict[str, Any]) -> None:
        self.path = path
        self.values: dict[str, Any] = {"schema": SCHEMA, "events": {}, "warnings": 0}
        self.values |= recovered(path, parse_summary) or {}  # else the first attempt, or counting starts again
        self.values |= same
        self._count = Counter(self.values["events"])

    def add(self, event: dict[str, Any], data: dict[str, Any]) -> None:
        self._count[event["event_type"]] += 1
        self.values["warnings"] += bool(event.get("warning"))
        self.values |= {"time": event["time"], "step": event["step"], "last_event": event["event_type"]}
        key = {"training_step": "loss", "validation": "val_loss"}.get(event["event_type"])
        if key and math.isfinite(loss := data.get("loss") or math.nan):
            seen = self.values.setdefault(key, {"first": loss, "lowest": loss})
            self.values[key] = {"first": seen["first"], "last": loss, "lowest": min(loss, seen["lowest"])}

    def write(self) -> None:
        text = json.dumps(self.values | {"events": dict(self._count)}, indent=1)
        # A full disk, or on Windows a reader that has it open: the next flush writes it.
        with contextlib.suppress(OSError):
            write_whole(self.path, text + "\n", durable=False)


def parse_summary(text: str) -> dict[str, Any]:
    """Return the numbers of an earlier attempt. Raises ValueError for anything else."""
    values = json.loads(text)
    counts = [values["warnings"], *values["events"].values()]
    losses = [number for key in ("loss", "val_loss") if key in values for number in values[key].values()]
    if not all(type(count) is int for count in counts) or not all(type(number) in (int, float) for number in losses):
        raise ValueError("it is not a summary")
    return dict(values)
