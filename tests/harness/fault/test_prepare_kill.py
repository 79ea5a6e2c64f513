"""`kill -9` while the data are prepared: the next start prepares them whole, and they are the same."""

import signal
import sys
from pathlib import Path

import pytest
from processes import Process

pytestmark = [pytest.mark.fault, pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")]


def prepared(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.glob("[!.]*/*")}


def test_a_kill_while_data_are_prepared_leaves_no_trace(small, tmp_path) -> None:
    slow = ("data.source._target_=slow_source.SlowText", f"+data.source.reached={tmp_path / 'reached'}")
    base = [*small, *slow, "logger=none", "run.name=killed", f"data.prepared={tmp_path / 'prepared'}"]
    process = Process(tmp_path, base)
    process.until((tmp_path / "reached").exists)
    process.kill()
    assert process.popen.returncode == -signal.SIGKILL
    assert prepared(tmp_path / "prepared") == {}, "what is half made must not be taken for data"
    again = Process(tmp_path, base)
    assert again.ended() == 0, again.output
    straight = Process(tmp_path, [*base, "run.name=straight", f"data.prepared={tmp_path / 'straight'}"])
    assert straight.ended() == 0, straight.output
    assert prepared(tmp_path / "prepared") == prepared(tmp_path / "straight")
