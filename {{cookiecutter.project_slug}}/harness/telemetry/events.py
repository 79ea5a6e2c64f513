"""The event log of a run: one strict JSON line an event in `debug_log/events.jsonl`, written here and read back here.

Used like `logging`: `open_log()` once a process, then `emit()` from anywhere; without an open log `emit` does nothing.
A line has `schema time run_id attempt rank step event_type data`, and where they apply `warning` and `nonfinite`.

Event types that the report understands; own ones are welcome beside them:
    fit_start epoch_start training_step gradient_stats param_updates data_sanity_check validation checkpoint
    nan_skip rollback precision_fallback oom sample exception fit_end

Promises, each with a test: a `kill -9` loses at most `flush_seconds` of events and at most the last line is cut; a full
disk never stops training; a line is standard JSON, so a NaN is `null` and `nonfinite` says what it was.
"""

import atexit
import contextlib
import json
import logging
import math
import numbers
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.config.secrets import hidden, hidden_in_report
from harness.files import json_lines, make_folder, open_append
from harness.telemetry.append import AppendOnlyFile
from harness.telemetry.plain import printable
from harness.telemetry.summary import SCHEMA, Summary

FOLDER = "debug_log"
RELIED_ON: dict[str, Any] = {"event_type": str, "data": dict, "step": int, "attempt": int, "time": (int, float)}

log = logging.getLogger(__name__)

# Where a line may hold a control character: as an escape (but \\n and \\t), or as itself, DEL and C1 in UTF-8.
CONTROL_IN_JSON = re.compile(rb"\\u00[01789]|\\[bfr]|\x7f|\xc2[\x80-\x9f]")


class EventLog:
    """Appends events to one file. `emit` costs one `json.dumps`; a thread writes what has waited `flush_seconds`."""

    def __init__(self, path: Path, *, run_id: str, attempt: int, rank: int, buffer: int, flush_seconds: float) -> None:
        try:
            make_folder(path.parent)
            open_append(path).close()
            cut_partial_line(path)
        except OSError as error:
            log.warning("Cannot open %s (%s).", path, error)
        self.path, self._buffer = path, buffer
        self._same = {"run_id": run_id, "attempt": attempt, "rank": rank}
        self._summary = Summary(path.with_name("summary.json"), self._same) if rank == 0 else None
        self._file = AppendOnlyFile(path)
        self._lines: deque[bytes] = deque()
        self._flushing = False
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._closed = threading.Event()
        threading.Thread(target=self._flush_often, args=(flush_seconds,), name="event-log", daemon=True).start()

    def emit(self, event_type: str, step: int, data: dict[str, Any], *, warning: bool = False) -> None:
        if self._pid != os.getpid() or self._closed.is_set():
            return  # a forked data worker has a copy of the log, but not the thread that writes it
        if event_type == "exception":  # its text may quote anything
            data = {key: hidden_in_report(value) if isinstance(value, str) else value for key, value in data.items()}
        event = {"schema": SCHEMA, "time": time.time(), **self._same, "step": step, "event_type": event_type}
        if warning:
            event["warning"] = True
        self._lines.append(encode(event, data))
        if self._summary:
            self._summary.add(event, data)
        if warning or len(self._lines) >= self._buffer:
            self.flush()

    def flush(self) -> None:
        """Hand every waiting line to the system."""
        if self._pid != os.getpid():
            return
        with self._lock:
            if self._flushing:  # a signal handler interrupted this flush; the loop below takes its line too
                return
            self._flushing = True
            try:
                while True:
                    self._file.write(b"".join(self._lines.popleft() for _ in range(len(self._lines))))
                    if not self._lines:
                        break
                if self._summary:
                    self._summary.write()
            finally:
                self._flushing = False

    def sync(self) -> None:
        """Flush, and wait until the disk has it: called at each checkpoint, so that log and checkpoint survive
        together."""
        self.flush()
        self._file.sync()

    def close(self) -> None:
        self._closed.set()
        self.flush()

    def _flush_often(self, seconds: float) -> None:
        while not self._closed.wait(seconds):
            if self._lines or self._file.waiting:
                self.flush()


_current: EventLog | None = None


def open_log(
    folder: Path, *, run_id: str, attempt: int, rank: int = 0, buffer: int = 100, flush_seconds: float = 5.0
) -> EventLog:
    """Open the log of the run in `folder`; from now on `emit` writes to it. An earlier one is closed."""
    global _current
    close_log()
    _current = EventLog(
        log_path(folder, rank), run_id=run_id, attempt=attempt, rank=rank, buffer=buffer, flush_seconds=flush_seconds
    )
    return _current


def emit(event_type: str, step: int, data: dict[str, Any], *, warning: bool = False) -> None:
    """Record an event. `data` holds host values only (a tensor would make the caller wait for the device)."""
    if _current:
        _current.emit(event_type, step, data, warning=warning)


def sync() -> None:
    """Make what was emitted so far as durable as the checkpoint that is being saved."""
    if _current:
        _current.sync()


@atexit.register
def close_log() -> None:
    global _current
    if _current:
        _current.close()
    _current = None


def log_path(folder: Path, rank: int = 0) -> Path:
    return folder / FOLDER / ("events.jsonl" if rank == 0 else f"events-rank{rank}.jsonl")


def encode(event: dict[str, Any], data: dict[str, Any]) -> bytes:
    """Return the line of an event, in strict JSON: a value that is not finite is null, `nonfinite` has its place."""
    try:
        return _line(event | {"data": data})
    except ValueError:
        found: dict[str, str] = {}
        clean = _without_nonfinite(data, "", found)
        return _line(event | {"nonfinite": found, "data": clean})


def _line(event: dict[str, Any]) -> bytes:
    text = json.dumps(event, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return hidden(text).encode("utf-8", errors="replace") + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, numbers.Real):  # NumPy's scalars; a tensor is none
        return float(value)
    raise TypeError(f"An event holds plain values, not a {type(value).__name__}: read it on the host first.")


def _without_nonfinite(value: Any, where: str, found: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {k: _without_nonfinite(v, f"{where}.{k}".lstrip("."), found) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(v, f"{where}.{i}".lstrip("."), found) for i, v in enumerate(value)]
    if isinstance(value, numbers.Real) and not math.isfinite(value):
        found[where] = str(float(value))  # nan, inf or -inf
        return None
    return value


def cut_partial_line(path: Path) -> None:
    """Cut what follows the last newline: a killed attempt's half line would swallow the first line of the next."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - (1 << 24)))  # 16 MiB: more than any line
        tail = file.read()
        file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a file, in constant memory. A line that is not one (a killed run's last) is left out.

    Texts come without control characters, which could make a terminal do things: the file may be somebody else's.
    """
    for line, event in json_lines(path, valid=is_event, what="events"):
        with contextlib.suppress(RecursionError):  # a text so deep in lists is nobody's event
            yield printable(event) if CONTROL_IN_JSON.search(line) else event


def is_event(value: dict[str, Any]) -> bool:
    """Return whether a line has what every reader relies on."""
    if not all(isinstance(value.get(key), kind) for key, kind in RELIED_ON.items()):
        return False
    return bool(0 <= value["step"] < 2**63 and abs(value["time"]) < 2**63)


def current(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events that count: without what was done beyond the step at which a later start of the run began."""
    later = [math.inf, *reversed(starts(path))]
    limit = min(later)
    for event in read(path):
        if event["event_type"] == "fit_start" and len(later) > 1:
            later.pop()
            limit = min(later)
        # A later start at step 0 restored nothing: it replaces even the earlier events of step 0.
        if event["step"] <= limit and limit:
            yield event


def starts(path: Path) -> list[int]:
    """Return the step at which each start of the run began to train. Cheap: only lines with `fit_start` are parsed."""
    likely = (event for _, event in json_lines(path, having=b'"fit_start"', valid=is_event, what="events"))
    return [event["step"] for event in likely if event["event_type"] == "fit_start"]
