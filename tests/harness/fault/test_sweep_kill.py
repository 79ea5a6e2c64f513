"""`kill -9` of a whole sweep, all its processes at once, then the same line: no job twice, none lost."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import Process

JOBS = int(os.environ.get("SWEEP_JOBS", "6"))
RUN = ("trainer.max_steps=2", "checkpoint.every_n_steps=1", "callbacks.samples=null", "logger=none",
       f"seed=range(0,{JOBS})", "+callbacks.slow={_target_:hooks.Slow,seconds:0.3}")  # fmt: skip
pytestmark = [pytest.mark.fault, pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")]


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_killed_sweep_goes_on_with_no_job_twice_and_none_lost(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("subprocess.Popen", in_a_session_of_its_own(Process.__init__.__globals__["subprocess"].Popen))
    words = ["-m", *small, *RUN, f"launcher.jobs={at_once}"]
    moments = random.Random(at_once)
    finished: set[str] = set()
    for kill in range(3):
        process = Process(tmp_path / "w", words)
        process.until(lambda: len(ended(tmp_path)) > len(finished) + (kill == 0))  # noqa: B023
        time.sleep(moments.uniform(0, 1.5))  # into the next job, wherever that is
        kill_all(process)
        finished = ended(tmp_path)
    before = {name: trained(tmp_path, name) for name in finished}
    last = Process(tmp_path / "w", words)
    assert last.ended() == 0, last.output
    [folder] = (tmp_path / "runs").iterdir()
    rows = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert [(row["overrides"]["seed"], row["state"], row["step"]) for row in rows] == [
        (str(seed), "finished", 2) for seed in range(JOBS)
    ]
    assert all(row["val_loss"] for row in rows)
    assert before == {name: trained(tmp_path, name) for name in finished}


def in_a_session_of_its_own(popen):
    return lambda *words, **options: popen(*words, **options, start_new_session=True)


def kill_all(process: Process) -> None:
    """Kill the sweep, its server and its jobs, which have groups of their own, at one moment."""
    session = os.getsid(process.popen.pid)
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    for pid in pids:
        try:
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.popen.wait()


def ended(tmp_path: Path) -> set[str]:
    found = set()
    for path in (tmp_path / "runs").glob("*/status/*.json"):
        if json.loads(path.read_text(encoding="utf-8"))["state"] == "finished":
            found.add(path.stem)
    return found


def trained(tmp_path: Path, name: str) -> str:
    [diary] = (tmp_path / "runs").glob(f"*/{name}/run.json")
    return diary.read_text(encoding="utf-8")
