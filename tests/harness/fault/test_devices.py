"""One run on 1, 2 and 4 processes: the windows and the loss of each step are those of a run that never moved."""

import sys
import time
from pathlib import Path

import psutil
import pytest
from exactness import newest
from places import PATIENCE
from processes import Process
from step_record import STEP_RECORD, Step, recorded

from conftest import overrides
from harness.checkpoint import read

pytestmark = [pytest.mark.fault, pytest.mark.skipif(sys.platform != "linux", reason="gloo and process trees of Linux")]

# 16 windows a step, and about 110 in the text: a step often lies across two epochs.
RUN = ("data.global_batch=256", "data.limit=11", "trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true",
       "trainer.max_steps=50", "trainer.val_check_interval=20", "checkpoint.every_n_steps=6", "callbacks.samples=null",
       "logger=none", STEP_RECORD)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory) -> list[Step]:
    """The steps of the run in one process."""
    root = tmp_path_factory.mktemp("one")
    process = Process(root, [*overrides(corpus, root), *RUN, "run.name=one", "trainer.devices=1"])
    assert process.ended() == 0, process.output
    return recorded(root / "runs" / "one")


def assert_same_steps(run: Path, reference: list[Step]) -> None:
    steps = recorded(run)
    assert [step.windows for step in steps] == [step.windows for step in reference]
    assert [step.loss for step in steps] == pytest.approx([step.loss for step in reference], rel=0, abs=1e-5)


def ranks_of(process: Process) -> list[psutil.Process]:
    """Return the processes that rank 0 has started."""
    return psutil.Process(process.popen.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(is_alive(one) for one in processes):
        assert time.monotonic() < deadline, f"Still there: {processes}"
        time.sleep(0.1)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # an orphan, which is for init to collect
    except psutil.NoSuchProcess:
        return False


def test_two_processes_train_what_one_trains(small, undisturbed, tmp_path) -> None:
    process = Process(tmp_path, [*small, *RUN, "run.name=two", "trainer.devices=2"])
    assert process.ended() == 0, process.output
    assert "256 tokens a step: 2 ranks x 4 rows x 2 micro-batches of 16" in process.output
    assert_same_steps(tmp_path / "runs" / "two", undisturbed)


def test_a_run_that_is_killed_and_moved_trains_what_it_would_have(small, undisturbed, tmp_path) -> None:
    folder = tmp_path / "runs" / "moved"
    moves = [
        (12, ["trainer.devices=2"]),
        (24, ["trainer.devices=1", "data.batch_size=8", "data.num_workers=2"]),
        (36, ["trainer.devices=4", "data.batch_size=2"]),
    ]
    base = [*small, *RUN, "run.name=moved"]
    for until, spread in moves:
        process = Process(tmp_path, [*base, *spread])
        process.until(lambda until=until: any(one.step >= until for one in read.checkpoints(folder / "checkpoints")))
        others = ranks_of(process)
        process.kill()
        assert_gone(others)
    process = Process(tmp_path, [*base, "trainer.devices=2", "data.num_workers=2"])
    assert process.ended() == 0, process.output
    assert "Changed since the last attempt: trainer.devices: 4 -> 2" in process.output
    assert newest(folder).manifest["ranks"] == 2
    assert_same_steps(folder, undisturbed)


def test_a_rank_ends_with_rank_0_even_while_it_begins(small, tmp_path) -> None:
    process = Process(tmp_path, [*small, *RUN, "run.name=short", "trainer.devices=2"])
    process.until(lambda: bool(ranks_of(process)))
    others = ranks_of(process)
    process.kill()
    assert_gone(others)
