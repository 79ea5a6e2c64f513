"""Ranks that a launcher starts all at once, each with the same command line: torchrun, accelerate and srun."""

import importlib.util
import os
import shutil
import socket
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


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


ACCELERATE = [
    sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no",
]  # fmt: skip
LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    # So it starts ranks on any device; with --cpu it starts one process, and Lightning the others.
    "accelerate": [*ACCELERATE, "--multi_gpu", "--main_process_port", "0"],
    "accelerate --cpu": [*ACCELERATE, "--cpu", "--main_process_port", str(free_port())],
    "srun": ["srun", "--nodes", "1", "--ntasks-per-node", "2", "--export", "ALL", sys.executable],
}  # fmt: skip
here = {
    "accelerate": importlib.util.find_spec("accelerate") is not None,
    "srun": "SLURM_CONF" in os.environ and shutil.which("srun") is not None,
}


@pytest.fixture
def launched(small: list[str], tmp_path: Path):
    def start(launcher: str, *overrides: str) -> str:
        path = os.pathsep.join([str(PROJECT), str(HARNESS_TESTS)])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
        environment.pop("HARNESS_ATTEMPT", None)
        done = subprocess.run(
            [*LAUNCHERS[launcher], str(PROJECT / "train.py"), *small, *RUN, *overrides], cwd=tmp_path, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", check=False, timeout=PATIENCE
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    return start


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(name, marks=pytest.mark.skipif(not here.get(name.split()[0], True), reason=f"{name} is not here"))
        for name in LAUNCHERS
    ],
)
def test_a_launcher_starts_a_new_run_and_goes_on_with_it(launched, tmp_path: Path, launcher: str) -> None:
    launched(launcher, "run.name=x")
    folder = tmp_path / "runs" / "x"
    assert newest(folder).step == 3
    assert newest(folder).manifest["ranks"] == 2
    assert len(run_folder.read(folder)["attempts"]) == 1
    launched(launcher, "run.name=x", "trainer.max_steps=5")
    assert newest(folder).step == 5
    assert len(run_folder.read(folder)["attempts"]) == 2


def test_the_ranks_of_torchrun_agree_on_a_fresh_folder(launched, tmp_path: Path) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    launched("torchrun", "run.name=x", "resume=never")
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
