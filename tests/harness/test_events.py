"""The event log: strict lines, little lost in a crash, and a reader that knows which attempt counts."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from places import PROJECT

from harness.telemetry import events


@pytest.fixture
def opened(tmp_path: Path):
    events.open_log(tmp_path, run_id="r1", attempt=1)
    yield events.log_path(tmp_path)
    events.close_log()


def lines(path: Path) -> list[dict]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_carries_what_a_reader_needs(opened: Path) -> None:
    events.emit("training_step", 10, {"loss": 1.5, "text": "ﬁn ↯"})
    events.close_log()

    (line,) = lines(opened)
    assert time.time() - line.pop("time") < 60
    assert line == {"schema": 1, "run_id": "r1", "attempt": 1, "rank": 0, "step": 10} | {
        "event_type": "training_step",
        "data": {"loss": 1.5, "text": "ﬁn ↯"},
    }


def test_without_an_open_log_emit_does_nothing() -> None:
    events.close_log()
    events.emit("training_step", 1, {})
    events.sync()


def test_a_nan_becomes_null_and_is_named(opened: Path) -> None:
    data = {"loss": math.nan, "norms": {"h.0": [1.0, math.inf]}, "low": -math.inf, "f": np.float32("nan"), "n": 3}
    events.emit("training_step", 1, data)
    events.close_log()

    (line,) = lines(opened)
    assert line["data"] == {"loss": None, "norms": {"h.0": [1.0, None]}, "low": None, "f": None, "n": 3}
    assert line["nonfinite"] == {"loss": "nan", "norms.h.0.1": "inf", "low": "-inf", "f": "nan"}


def test_text_that_utf8_cannot_hold_is_replaced(opened: Path) -> None:
    events.emit("sample", 1, {"text": "half of a pair: \ud800"})
    events.close_log()
    assert lines(opened)[0]["data"]["text"] == "half of a pair: ?"


def test_a_tensor_is_refused(opened: Path) -> None:
    with pytest.raises(TypeError, match="plain values, not a Fake"):
        events.emit("training_step", 1, {"loss": type("Fake", (), {})()})


def test_a_hundred_lines_or_a_warning_are_written_at_once(opened: Path) -> None:
    for step in range(99):
        events.emit("training_step", step, {})
    assert opened.read_bytes() == b""
    events.emit("training_step", 99, {})
    assert len(lines(opened)) == 100
    events.emit("nan_skip", 100, {}, warning=True)
    assert lines(opened)[-1]["warning"] is True


def test_a_lonely_line_is_written_soon(tmp_path: Path) -> None:
    events.open_log(tmp_path, run_id="r", attempt=1, flush_seconds=0.05)
    events.emit("training_step", 1, {})
    deadline = time.monotonic() + 10
    while not events.log_path(tmp_path).read_bytes() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(lines(events.log_path(tmp_path))) == 1
    events.close_log()


def test_other_ranks_have_their_own_files(tmp_path: Path) -> None:
    events.open_log(tmp_path, run_id="r", attempt=1, rank=3)
    events.emit("training_step", 1, {})
    events.close_log()
    assert lines(tmp_path / "debug_log" / "events-rank3.jsonl")[0]["rank"] == 3
    assert not (tmp_path / "debug_log" / "summary.json").exists()


def test_the_summary_continues_over_attempts(tmp_path: Path) -> None:
    for attempt, loss in ((1, 3.0), (2, 2.0), (3, math.nan)):
        events.open_log(tmp_path, run_id="r", attempt=attempt)
        events.emit("training_step", attempt, {"loss": loss}, warning=attempt == 3)
        events.close_log()
    summary = json.loads((tmp_path / "debug_log" / "summary.json").read_text(encoding="utf-8"))
    assert summary["events"] == {"training_step": 3}
    assert summary["loss"] == {"first": 3.0, "last": 2.0, "lowest": 2.0}
    assert (summary["step"], summary["attempt"], summary["warnings"]) == (3, 3, 1)


@contextmanager
def room(size: int) -> Iterator[None]:
    """Let the kernel refuse to write beyond so many bytes of any file: in the middle of a line, as on a full disk."""
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_delays_the_lines_and_loses_none(opened: Path, caplog) -> None:
    with room(250):
        for step in range(10):
            events.emit("training_step", step, {"pad": "x" * 50}, warning=True)
        assert caplog.text.count("training goes on") == 1
    events.sync()
    assert [line["step"] for line in lines(opened)] == list(range(10))


def test_a_disk_that_stays_full_does_not_fill_the_memory(opened: Path, monkeypatch) -> None:
    monkeypatch.setattr("harness.telemetry.append.MOST_WAITING", 2000)
    with room(250):  # cuts the second line
        for step in range(100):
            events.emit("training_step", step, {"pad": "x" * 50}, warning=True)
    events.sync()
    first, cut, *rest = opened.read_bytes().splitlines()
    assert json.loads(first)["step"] == 0 and not cut.endswith(b"}")
    assert 5 < len(rest) < 20
    assert [json.loads(line)["step"] for line in rest] == list(range(100 - len(rest), 100))


def test_a_half_line_of_a_killed_attempt_is_cut_at_the_next_start(opened: Path) -> None:
    events.emit("training_step", 1, {})
    events.close_log()
    with opened.open("ab") as file:
        file.write(b'{"schema":1,"time":17' + b"9" * 100_000)
    events.open_log(opened.parent.parent, run_id="r1", attempt=2)
    events.emit("training_step", 2, {})
    events.close_log()
    assert [line["step"] for line in lines(opened)] == [1, 2]


def test_reading_leaves_out_lines_that_are_not_events(tmp_path: Path, caplog) -> None:
    path = tmp_path / "events.jsonl"
    event = {"time": 1.0, "attempt": 1, "step": 1, "event_type": "fit_start", "data": {}}
    odd = [b"\0\0\0", b"[1,2]", b"7", b"null", b'"fit_start"', b"[" * 100_000]
    odd += [json.dumps(event | wrong).encode() for wrong in ({"step": None}, {"data": "fit_start"}, {"time": "noon"})]
    odd += [b'{"step":1,"event_type":"fit_start"}', json.dumps(event | {"step": 10**30}).encode()]
    first, second = (json.dumps(event | {"step": step, "data": {"text": "a\u2028b\x85c"}}) for step in (1, 2))
    lines = [first.encode(), *odd, second.encode(), b'{"step":3']
    path.write_bytes(b"\n".join(lines))
    assert [event["step"] for event in events.read(path)] == [1, 2]
    assert f"{len(odd)} lines" in caplog.text and "the first is line 2" in caplog.text
    assert events.starts(path) == [1, 2]
    assert [event["step"] for event in events.current(path)] == [1, 2]


def event_line(step: object, **more: object) -> bytes:
    event = {"time": 1.0, "attempt": 1, "step": step, "event_type": "x", "data": {}} | more
    return json.dumps(event, ensure_ascii=False).encode() + b"\n"


@pytest.mark.parametrize("odd", [b"[]\n", b"1\n", b"null\n", b"{}\n", b"[" * 100_000 + b"\n", b'{"step":' * 990 + b"\n",
                                 event_line(None), event_line("3"), event_line(3, data=[]), event_line(3, time=None),
                                 event_line(3, event_type=None), event_line(3, attempt="1"), b"\xff\n"])  # fmt: skip
def test_what_is_no_event_is_left_out_and_said(tmp_path: Path, caplog, odd: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(event_line(1) + odd + event_line(2))
    assert [event["step"] for event in events.read(path)] == [1, 2]
    assert [event["step"] for event in events.current(path)] == [1, 2]
    assert "left out" in caplog.text


def test_line_ends_of_other_scripts_are_part_of_a_text(tmp_path: Path, caplog) -> None:
    path, text = tmp_path / "events.jsonl", "a\u2028b\u2029c"
    path.write_bytes(event_line(1, data={"text": text}))
    assert [event["data"]["text"] for event in events.read(path)] == [text]
    assert not caplog.text


@pytest.mark.parametrize("escape", ["\x1b]0;owned\x07", "\x1b[2J", "\x9b31m", "\x08\x08", "\r", "\x7f"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_texts_of_events_do_nothing_to_a_terminal(tmp_path: Path, escape: str, ascii_only: bool) -> None:
    path = tmp_path / "events.jsonl"
    event = {
        "time": 1.0,
        "attempt": 1,
        "step": 1,
        "event_type": f"{escape}x",
        "data": {f"k{escape}": [f"a{escape}b\n"]},
    }
    path.write_text(json.dumps(event, ensure_ascii=ascii_only) + "\n", encoding="utf-8")
    (read,) = events.read(path)
    assert (read["event_type"], read["data"]) == ("x", {"k": ["ab\n"]})


def test_what_a_later_attempt_did_again_is_superseded(tmp_path: Path) -> None:
    plan = [(1, 0, 250), (2, 200, 230), (3, 220, 300)]  # attempt, first and last step
    for attempt, first, last in plan:
        events.open_log(tmp_path, run_id="r", attempt=attempt)
        events.emit("fit_start", first, {})
        for step in range(first + 10, last + 1, 10):
            events.emit("training_step", step, {})
        events.close_log()

    steps = [(e["attempt"], e["step"]) for e in events.current(events.log_path(tmp_path)) if "step" in e["event_type"]]
    assert steps == (
        [(1, s) for s in range(10, 201, 10)] + [(2, s) for s in (210, 220)] + [(3, s) for s in range(230, 301, 10)]
    )


def test_a_start_from_step_0_replaces_everything(tmp_path: Path) -> None:
    for attempt in (1, 2):
        events.open_log(tmp_path, run_id="r", attempt=attempt)
        events.emit("fit_start", 0, {})
        events.emit("data_sanity_check", 0, {})
        events.close_log()
    assert [e["attempt"] for e in events.current(events.log_path(tmp_path))] == [2, 2]


WRITER = """
import sys, time
from pathlib import Path
from harness.telemetry import events
events.open_log(Path(sys.argv[1]), run_id="r", attempt=int(sys.argv[2]), flush_seconds=0.2)
step = 0
while True:
    step += 1
    events.emit("training_step", step, {"text": "x" * 1000})
    time.sleep(0.002)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no kill -9")
def test_a_kill_loses_little_and_breaks_at_most_the_last_line(tmp_path: Path) -> None:
    path = events.log_path(tmp_path)
    for attempt in (1, 2, 3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(attempt)], cwd=PROJECT)
        deadline = time.monotonic() + 30
        size = path.stat().st_size if path.exists() else 0
        while not (path.exists() and path.stat().st_size > size + 50_000) and time.monotonic() < deadline:
            time.sleep(0.05)
        killed = time.time()
        writer.kill()
        writer.wait()
        whole = path.read_bytes().split(b"\n")[:-1]
        seen = [json.loads(line) for line in whole]
        assert seen[-1]["attempt"] == attempt
        assert killed - seen[-1]["time"] < 1.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_writes_nothing(opened: Path) -> None:
    events.emit("training_step", 1, {})
    child = os.fork()
    if child == 0:
        events.emit("training_step", 2, {}, warning=True)
        events.close_log()
        os._exit(0)
    os.waitpid(child, 0)
    events.close_log()
    assert [line["step"] for line in lines(opened)] == [1]


def test_a_torn_summary_does_not_stop_a_run(tmp_path: Path) -> None:
    (tmp_path / "debug_log").mkdir()
    (tmp_path / "debug_log" / "summary.json").write_text('{"even', encoding="utf-8")
    events.open_log(tmp_path, run_id="r", attempt=2)
    events.emit("fit_start", 5, {})
    events.close_log()
    assert json.loads((tmp_path / "debug_log" / "summary.json").read_text(encoding="utf-8"))["step"] == 5
