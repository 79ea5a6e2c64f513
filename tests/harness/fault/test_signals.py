"""Signals and time limits, wherever they arrive: a checkpoint at a boundary, the right exit code, an exact
continuation."""

import signal
import sys
from pathlib import Path

import pytest
from exactness import assert_same
from processes import Process

from conftest import overrides
from harness.checkpoint import read

pytestmark = [pytest.mark.fault, pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")]

RUN = ("trainer.max_steps=8", "trainer.log_every_n_steps=1", "trainer.val_check_interval=3", "logger=csv",
       "+model.config.attention_dropout=0.2", "model.attention=eager",
       "checkpoint.every_n_steps=5", "checkpoint.keep_best=0", "checkpoint.keep_last=9")  # fmt: skip


@pytest.fixture
def run(small, tmp_path):
    """Start a run named `name`, paused in a hook if one is given."""

    def start(name: str, *overrides: str, pause: str = "") -> Process:
        extra = []
        if pause:
            hook, step = pause.split()
            place = f"hook:{hook},step:{step},reached:{tmp_path / 'reached'}"
            extra = [f"+callbacks.pause={{_target_:hooks.PauseAt,{place}}}"]
        return Process(tmp_path, [*small, *RUN, f"run.name={name}", *extra, *overrides])

    return start


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("reference")
    process = Process(root, [*overrides(corpus, root), *RUN, "run.name=reference"])
    assert process.ended() == 0, process.output
    return root / "runs" / "reference"


@pytest.mark.parametrize(
    ("number", "pause", "checkpoints"),
    [
        (signal.SIGTERM, "step 4", [5]),
        (signal.SIGINT, "step 2", [3]),
        (signal.SIGTERM, "validation 3", [3]),
        (signal.SIGINT, "save 5", [5]),
        (signal.SIGTERM, "step 0", [1]),
    ],
)
def test_a_stop_is_a_checkpoint_at_a_boundary_and_an_exact_continuation(
    run, reference, tmp_path, number, pause, checkpoints
):
    process = run("stopped", pause=pause)
    process.until((tmp_path / "reached").exists)
    process.send(number)
    assert process.ended() == 128 + number
    assert f"Stopped by {signal.Signals(number).name}. The same command goes on from here." in process.output
    assert "Traceback" not in process.output
    folder = tmp_path / "runs" / "stopped"
    assert [checkpoint.step for checkpoint in read.checkpoints(folder / "checkpoints")] == checkpoints
    again = run("stopped", pause=pause)
    assert again.ended() == 0, again.output
    assert_same(folder, reference)


def test_a_second_signal_ends_at_once(run, tmp_path):
    process = run("stopped", pause="step 4")
    process.until((tmp_path / "reached").exists)
    process.send(signal.SIGTERM)
    process.until(lambda: "once more" in process.output)
    process.send(signal.SIGTERM)
    assert process.ended() == 143
    assert not read.checkpoints(tmp_path / "runs" / "stopped" / "checkpoints")


def test_sigusr1_checkpoints_and_goes_on(run, reference, tmp_path):
    process = run("asked", pause="step 1")
    process.until((tmp_path / "reached").exists)
    process.send(signal.SIGUSR1)
    assert process.ended() == 0, process.output
    folder = tmp_path / "runs" / "asked"
    reasons = [checkpoint.manifest["reason"] for checkpoint in read.checkpoints(folder / "checkpoints")]
    assert "SIGUSR1" in reasons
    assert_same(folder, reference)


def test_before_there_is_anything_to_save_a_signal_ends_the_process(small, tmp_path):
    slow = ("data.source._target_=slow_source.SlowText", f"+data.source.reached={tmp_path / 'reached'}")
    process = Process(tmp_path, [*small, *RUN, "run.name=early", *slow, f"data.prepared={tmp_path / 'prepared'}"])
    process.until((tmp_path / "reached").exists)
    process.send(signal.SIGTERM)
    assert process.ended() == 143
    assert "Stopped by SIGTERM" in process.output
    assert "Traceback" not in process.output


def test_a_time_limit_stops_like_a_signal(run, reference, tmp_path):
    process = run("late", "callbacks.signals.max_minutes=0.001", "callbacks.signals.spare_seconds=0")
    assert process.ended() == 143
    assert "Stopped by the time limit" in process.output
    again = run("late")
    assert again.ended() == 0
    assert_same(tmp_path / "runs" / "late", reference)


def test_slurm_says_when_its_job_ends(run, tmp_path, small):
    process = Process(tmp_path, [*small, *RUN, "run.name=slurm"], SLURM_JOB_END_TIME="1700000000")
    assert process.ended() == 143
    assert "Stopped by the time limit" in process.output
