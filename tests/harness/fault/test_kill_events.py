"""`kill -9` and the event log: every line but at most the last is whole, and at most 5 seconds are lost."""

import json
import os
import random
import sys
import time
from pathlib import Path

import pytest
from processes import Process

from harness.report.read import read
from harness.telemetry import events

pytestmark = [pytest.mark.fault, pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kill -9")]

KILLS = int(os.environ.get("KILLS", "10"))
PROMISE = 5.0  # seconds
STEP = 0.05  # seconds between two events of a slowed step, and more on a busy machine

RUN = ("run.name=x", "trainer.max_steps=100000", "data.limit=11", "data.batch_size=20", "checkpoint.every_n_steps=20",
       "callbacks.debug_log.every_n_steps=1", "callbacks.samples=null", "trainer.val_check_interval=50", "logger=none",
       f"+callbacks.slow={{_target_:hooks.Slow,seconds:{STEP}}}")  # fmt: skip


def test_ten_kills_lose_little_and_break_no_line(small: list[str], tmp_path: Path) -> None:
    chance = random.Random(5)
    path = events.log_path(tmp_path / "runs" / "x")
    lost = []
    for attempt in range(1, KILLS + 1):
        process = Process(tmp_path, [*small, *RUN])
        process.until(lambda: any(f'"attempt":{attempt},'.encode() in line for line in whole_lines(path)))  # noqa: B023
        time.sleep(chance.uniform(0, 8))
        killed = time.time()
        process.kill()
        log = [json.loads(line, parse_constant=pytest.fail) for line in whole_lines(path)]
        lost.append(killed - log[-1]["time"])
        assert log[-1]["attempt"] == attempt

    print("seconds lost:", *(f"{seconds:.2f}" for seconds in lost))
    assert max(lost) < PROMISE + 1.0  # the clock of a busy machine
    record = read(tmp_path / "runs" / "x")
    steps = [step for step, *_ in record.curves["loss"].points()]
    assert steps == sorted(set(steps)), "a step that was done twice is counted once"
    assert len(record.times) == KILLS


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines that end; what follows the last end of line is a line that a kill has cut."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []
