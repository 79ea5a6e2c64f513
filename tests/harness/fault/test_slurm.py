"""A sweep on a real SLURM: preempted, killed, left alone and typed again, it is what it would have been.

It takes the SLURM whose `sbatch` is on PATH, or starts the one of $SLURM_ONE_NODE: a program of which `start FOLDER`
starts a cluster, of which FOLDER/env is the shell's environment, and `stop FOLDER` stops it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from exactness import assert_same, newest
from places import PATIENCE, PROJECT
from processes import Process

from harness.launch import squeue
from harness.launch.status import Status, parse
from harness.run import folder as run_folder

pytestmark = [pytest.mark.fault, pytest.mark.skipif(sys.platform == "win32", reason="SLURM is not for Windows")]

RUN = ("trainer.max_steps=12", "checkpoint.every_n_steps=1", "checkpoint.keep_last=9", "callbacks.samples=null",
       "logger=csv", "trainer.log_every_n_steps=1", "+callbacks.slow={_target_:hooks.Slow,seconds:1}")  # fmt: skip
SLURM = ("launcher=slurm", "launcher.time=60")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster that answers, in this process's environment."""
    if shutil.which("sbatch"):
        if squeue.look() is None:
            pytest.skip("the SLURM on PATH does not answer")
        yield
        return
    if not (program := os.environ.get("SLURM_ONE_NODE")):
        pytest.skip("there is no sbatch on PATH, and SLURM_ONE_NODE does not say what starts a cluster")
    folder = tmp_path_factory.mktemp("slurm")
    environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # `nproc` heeds it
    started = subprocess.run(
        [program, "start", str(folder)], env=environ, capture_output=True, text=True, encoding="utf-8"
    )
    try:
        if started.returncode:
            pytest.skip(f"no SLURM can be started: {started.stderr.strip()[-300:]}")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment_after(folder / "env").items():
                patch.setenv(name, value)
            yield
    finally:
        subprocess.run([program, "stop", str(folder)], check=False)


def environment_after(script: Path) -> dict[str, str]:
    done = subprocess.run(["bash", "-c", '. "$0"; env -0', str(script)], capture_output=True, check=True)
    variables = (entry.partition("=") for entry in done.stdout.decode().split("\0") if entry)
    return {name: value for name, _, value in variables if name in ("PATH", "LD_LIBRARY_PATH", "SLURM_CONF")}


class Sweep:
    """What a test sees of a sweep below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def status(self, seed: int) -> Status | None:
        for path in self.root.glob("*/status/*.json"):
            status = parse(path.read_text(encoding="utf-8"))
            if status.overrides.get("seed", "0") == str(seed):
                return status
        return None

    def run(self, seed: int) -> Path:
        status = self.status(seed)
        assert status is not None
        [folder] = self.root.iterdir()
        return folder / status.name

    def seen(self, seed: int) -> squeue.Seen | None:
        status = self.status(seed)
        return (squeue.look() or {}).get(status.queued) if status else None

    def is_at(self, seed: int, step: int) -> bool:
        return self.status(seed) is not None and (self.run(seed) / "checkpoints" / f"step-{step:08}").exists()

    def attempts(self, seed: int) -> list[dict[str, Any]]:
        return list(run_folder.read(self.run(seed))["attempts"])


def slurms(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=PATIENCE)


def preempt(seen: squeue.Seen | None, run: Path) -> None:
    """Send what a job gets before its time is up. scancel asks again and again, for minutes, and would send it to the
    next attempt as well: it is ended when this one has."""
    assert seen is not None
    asking = subprocess.Popen(["scancel", "--signal=USR2", seen.id], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while not run_folder.read(run)["attempts"][-1].get("reason"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    asking.kill()
    asking.wait()


def requeue(seen: squeue.Seen | None) -> None:
    """Do what SLURM does to a job that has to make room for another: it gets SIGTERM, and soon SIGKILL."""
    assert seen is not None
    subprocess.run(["scontrol", "requeue", seen.id], check=True, capture_output=True, timeout=PATIENCE)


def restarted(sweep: Sweep, seed: int) -> bool:
    """Spare a requeued job the two minutes that SLURM would have it wait."""
    seen = sweep.seen(seed)
    if seen is None or seen.state not in ("PENDING", "REQUEUED"):
        return False
    slurms("scontrol", "update", f"JobId={seen.id}", "StartTime=now")
    return True


@pytest.fixture
def undisturbed(small: list[str], tmp_path: Path) -> Callable[..., Sweep]:
    """The same sweep on this machine, with nothing done to it."""

    def run(*words: str) -> Sweep:
        process = Process(tmp_path / "w", ["-m", *small, *RUN, *words, f"run.root={tmp_path / 'undisturbed'}"])
        assert process.ended() == 0, process.output
        return Sweep(tmp_path / "undisturbed")

    return run


def test_jobs_that_are_preempted_or_killed_end_as_if_nothing_had_been(
    slurm: None, small: list[str], tmp_path: Path, undisturbed: Callable[..., Sweep]
) -> None:
    words = ["-m", *small, *RUN, "seed=0,1,2,3", *SLURM]
    sweep = Sweep(tmp_path / "runs")
    first = Process(tmp_path / "w", words)
    first.until(lambda: sweep.is_at(0, 2))
    preempt(sweep.seen(0), sweep.run(0))
    first.until(lambda: sweep.is_at(1, 2))
    requeue(sweep.seen(1))
    victim = 3  # which starts when others have ended
    first.until(lambda: sweep.is_at(victim, 2))
    os.kill(sweep.attempts(victim)[-1]["pid"], signal.SIGKILL)
    for requeued in (0, 1):
        first.until(lambda: restarted(sweep, requeued))  # noqa: B023
    assert first.ended() == 1, first.output
    assert "1 of 4 jobs failed or stopped" in first.output
    failed = sweep.status(victim)
    assert failed is not None and failed.state == "failed" and "FAILED" in failed.reason
    assert [attempt.get("reason") for attempt in sweep.attempts(0)] == ["SIGUSR2", None]

    second = Process(tmp_path / "w", words)
    assert second.ended() == 0, second.output
    assert "4 jobs, 3 of them finished" in second.output
    assert [len(sweep.attempts(seed)) for seed in range(4)] == [2, 2, 1, 2]
    reference = undisturbed("seed=0,1,2,3")
    for seed in range(4):
        assert_same(sweep.run(seed), reference.run(seed))


def test_a_command_that_no_longer_waits_is_typed_again_and_submits_nothing_twice(
    slurm: None, small: list[str], tmp_path: Path
) -> None:
    words = ["-m", *small, *RUN, *SLURM]
    sweep = Sweep(tmp_path / "runs")
    secret = {"SOME_API_KEY": "hunter2hunter2hunter2"}
    killed = Process(tmp_path / "w", [*words, "seed=0,1"], **secret)
    killed.until(lambda: sweep.is_at(0, 1))
    killed.kill()
    left = Process(tmp_path / "w", [*words, "seed=0,1"], **secret)
    left.until(lambda: left.output.count("is with SLURM already") == 2)
    left.send(signal.SIGINT)
    assert left.ended() == 130, left.output
    assert "jobs stay with SLURM" in left.output and "scancel --name=sweep-" in left.output
    more = Process(tmp_path / "w", [*words, "seed=0,1,2"], **secret)
    assert more.ended() == 0, more.output
    assert [len(sweep.attempts(seed)) for seed in range(3)] == [1, 1, 1]
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert secret["SOME_API_KEY"].encode() not in path.read_bytes(), path


def test_a_job_that_is_cancelled_is_a_row_of_the_table(slurm: None, small: list[str], tmp_path: Path) -> None:
    process = Process(tmp_path / "w", ["-m", *small, *RUN, "seed=0", *SLURM, "launcher.sbatch={hold: true}"])
    sweep = Sweep(tmp_path / "runs")
    process.until(lambda: sweep.seen(0) is not None)
    seen = sweep.seen(0)
    assert seen is not None and seen.state == "PENDING"
    slurms("scancel", seen.id)
    assert process.ended() == 1
    status = sweep.status(0)
    assert status is not None and (status.state, status.reason) == (
        "stopped", f"Its SLURM job {seen.id} ended: CANCELLED."
    )  # fmt: skip


def test_what_slurm_refuses_is_said(slurm: None, small: list[str], tmp_path: Path) -> None:
    process = Process(tmp_path / "w", ["-m", *small, *RUN, "seed=0", *SLURM, "launcher.partition=nowhere"])
    assert process.ended() == 2
    assert "SLURM refused the jobs: sbatch: error: invalid partition specified: nowhere" in process.output
    assert "Traceback" not in process.output


def test_the_ranks_of_a_job_stop_at_one_step_and_go_on(
    slurm: None, small: list[str], tmp_path: Path, undisturbed: Callable[..., Sweep]
) -> None:
    ranks = ("trainer.devices=2", "+trainer.strategy=ddp", "data.batch_size=2", "seed=0")
    process = Process(tmp_path / "w", ["-m", *small, *RUN, *ranks, *SLURM])
    sweep = Sweep(tmp_path / "runs")
    process.until(lambda: sweep.is_at(0, 2))
    preempt(sweep.seen(0), sweep.run(0))
    process.until(lambda: restarted(sweep, 0))
    assert process.ended() == 0, process.output
    assert newest(sweep.run(0)).manifest["ranks"] == 2
    assert [attempt.get("reason") for attempt in sweep.attempts(0)] == ["SIGUSR2", None]
    assert_same(sweep.run(0), undisturbed(*ranks).run(0))


def test_one_big_run_by_torchrun_is_requeued_and_goes_on(slurm: None, small: list[str], tmp_path: Path) -> None:
    ranks = ("+trainer.strategy=ddp", "data.batch_size=2", "run.name=big")
    options = ["--nodes=1", "--gpus-per-node=0", "--cpus-per-task=2", "--time=60", f"--output={tmp_path / 'out.log'}"]
    environment = os.environ | {
        "RANKS": "2", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    script = PROJECT / "devtools" / "slurm" / "train.sh"
    words = ["sbatch", "--parsable", *options, str(script), *small, *RUN, *ranks]
    done = subprocess.run(
        words, cwd=PROJECT, env=environment, capture_output=True, text=True, encoding="utf-8", check=True
    )
    number = done.stdout.strip()
    run = tmp_path / "runs" / "big"

    def seen() -> squeue.Seen | None:
        return next((one for one in (squeue.look() or {}).values() if one.id == number), None)

    def state() -> str:
        one = seen()
        return one.state if one else ""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            output = (tmp_path / "out.log").read_text(encoding="utf-8") if (tmp_path / "out.log").exists() else ""
            assert state() not in squeue.OVER, output
            assert time.monotonic() < deadline, output
            time.sleep(0.5)

    wait(lambda: (run / "checkpoints" / "step-00000002").exists())
    preempt(seen(), run)
    wait(lambda: state() == "PENDING")
    slurms("scontrol", "update", f"JobId={number}", "StartTime=now")
    wait(lambda: run_folder.read(run)["status"] == "finished")
    assert [attempt.get("reason") for attempt in run_folder.read(run)["attempts"]] == ["SIGUSR2", None]
    alone = Process(
        tmp_path / "w",
        [*small, *RUN, *ranks, "trainer.devices=2", "trainer.num_nodes=1", f"run.root={tmp_path / 'alone'}"],
    )
    assert alone.ended() == 0, alone.output
    assert_same(run, tmp_path / "alone" / "big")
