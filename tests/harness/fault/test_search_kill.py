"""`kill -9` of a whole search, twice, then the same line: the trials and the best value of an undisturbed one."""

import json
import os
import random
import sys
import time
from pathlib import Path

import pytest
from fault.test_sweep_kill import in_a_session_of_its_own, kill_all
from processes import Process

pytest.importorskip("optuna", reason="an extra")
TRIALS = int(os.environ.get("SEARCH_TRIALS", "20"))
RUN = ("trainer.max_steps=4", "trainer.val_check_interval=1", "checkpoint.every_n_steps=1", "callbacks.samples=null",
       "logger=none", "callbacks.debug_log.flush_seconds=0.2", "sweep=optuna", f"sweep.n_trials={TRIALS}",
       "optimizer.lr=tag(log, interval(1e-4,1e-1))", "data.batch_size=choice(2,4)")  # fmt: skip
pytestmark = [pytest.mark.fault, pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")]


def test_a_killed_search_comes_to_what_an_undisturbed_one_does(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = Process(tmp_path / "w", ["-m", *small, *RUN, "sweep.name=undisturbed"])
    assert undisturbed.ended() == 0, undisturbed.output
    monkeypatch.setattr("subprocess.Popen", in_a_session_of_its_own(Process.__init__.__globals__["subprocess"].Popen))
    words = ["-m", *small, *RUN, "sweep.name=killed"]
    moments = random.Random(0)
    for ended in (TRIALS // 3, 2 * TRIALS // 3):
        process = Process(tmp_path / "w", words)
        process.until(lambda: len(told(tmp_path)) > ended)  # noqa: B023
        time.sleep(moments.uniform(0, 2))  # into the next trial, wherever that is
        kill_all(process)
    last = Process(tmp_path / "w", words)
    assert last.ended() == 0, last.output
    expected, found = (rows(tmp_path / "runs" / name) for name in ("undisturbed", "killed"))
    assert len(found) == TRIALS
    assert found == expected  # every choice, every loss, where each was given up


def told(tmp_path: Path) -> list[str]:
    paths = (tmp_path / "runs" / "killed").glob("status/*.json")
    states = [json.loads(path.read_text(encoding="utf-8"))["state"] for path in paths]
    return [state for state in states if state in ("finished", "pruned")]


def rows(folder: Path) -> list[tuple[object, ...]]:
    found = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    return [tuple(row[key] for key in ("name", "overrides", "state", "step", "val_loss")) for row in found]
