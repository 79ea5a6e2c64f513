"""Ranks that a launcher starts all at once, each with the same command line: torchrun, and what works as it does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from exactness import newest
from places import HARNESS_TESTS, PATIENCE, PROJECT

from harness.run import folder as run_folder

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="gloo of Linux and macOS")]

RUN = ("trainer.max_steps=3", "trainer.devices=2", "+trainer.strategy=ddp", "logger=csv", "data.batch_size=2",
       "checkpoint.every_n_steps=2", "callbacks.samples=null")  # fmt: skip


@pytest.fixture
def torchrun(small: list[str], tmp_path: Path):
    def start(*overrides: str) -> str:
        path = os.pathsep.join([str(PROJECT), str(HARNESS_TESTS)])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
        environment.pop("HARNESS_ATTEMPT", None)
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        done = subprocess.run(
            [*words, str(PROJECT / "train.py"), *small, *RUN, *overrides], cwd=tmp_path, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", check=False, timeout=PATIENCE
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    return start


def test_torchrun_starts_a_new_run_and_goes_on_with_it(torchrun, tmp_path: Path) -> None:
    torchrun("run.name=x")
    folder = tmp_path / "runs" / "x"
    assert newest(folder).step == 3
    assert newest(folder).manifest["ranks"] == 2
    assert len(run_folder.read(folder)["attempts"]) == 1
    torchrun("run.name=x", "trainer.max_steps=5")
    assert newest(folder).step == 5
    assert len(run_folder.read(folder)["attempts"]) == 2


def test_the_ranks_of_torchrun_agree_on_a_fresh_folder(torchrun, tmp_path: Path) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    torchrun("run.name=x", "resume=never")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["x", "x-2"]
    assert newest(tmp_path / "runs" / "x-2").manifest["ranks"] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_torchrun_and_its_ranks_stops_at_a_checkpoint(
    small: list[str], tmp_path: Path, number: int
) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    slow = ("run.name=x", "trainer.max_steps=500", "+callbacks.slow={_target_:hooks.Slow,seconds:2}")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    folder = tmp_path / "runs" / "x"
    with (tmp_path / "output.txt").open("wb") as output:
        torchrun = subprocess.Popen(
            [*words, str(PROJECT / "train.py"), *small, *RUN, *slow], cwd=tmp_path, env=environment, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    while not (folder / "checkpoints" / "step-00000002").exists():
        assert torchrun.poll() is None and time.monotonic() < deadline, (tmp_path / "output.txt").read_text("utf-8")
        time.sleep(0.05)
    for process in psutil.Process(torchrun.pid).children(recursive=True):  # as a cluster does
        process.send_signal(number)
    time.sleep(0.2)
    torchrun.send_signal(number)  # which hands it on
    torchrun.wait(PATIENCE)
    diary = run_folder.read(folder)
    assert (diary["status"], diary["attempts"][-1].get("reason")) == ("stopped", signal.Signals(number).name)
