"""Ranks that a launcher starts all at once, each with the same command line: torchrun, and what works as it does."""

import os
import subprocess
import sys
from pathlib import Path

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


def test_a_multirun_has_its_ranks_in_each_job(command, small: list[str], tmp_path: Path) -> None:
    sweep = ("optimizer.lr=1e-3,3e-4", "launcher.jobs=2", "sweep.name=ranks")
    done = command("train.py", "-m", *small, *RUN, *sweep, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    runs = sorted(path.parent for path in (tmp_path / "runs" / "ranks").glob("*/run.json"))
    assert [newest(run).manifest["ranks"] for run in runs] == [2, 2]
    assert [newest(run).step for run in runs] == [3, 3]
    again = command("train.py", "-m", *small, *RUN, *sweep, OMP_NUM_THREADS="1")
    assert again.returncode == 0, again.stderr
    assert [len(run_folder.read(run)["attempts"]) for run in runs] == [1, 1]  # finished, and so not started
