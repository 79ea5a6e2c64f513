"""Written behind training, a checkpoint holds what there was when it was asked for, and fails as loudly."""

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from exactness import assert_same
from lightning.pytorch import Callback
from places import PATIENCE, PROJECT

from harness.checkpoint import read, write
from harness.checkpoint.behind import Behind
from harness.checkpoint.compare import first_difference
from harness.checkpoint.contents import contents
from harness.checkpoint.snapshot import Snapshot

EACH = ("trainer.max_steps=6", "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=1", "checkpoint.keep_last=99",
        "logger=csv", "trainer.val_check_interval=2", "+model.config.attention_dropout=0.2",
        "model.attention=eager")  # fmt: skip


class Unloadable(Callback):
    def state_dict(self) -> dict:
        return {"path": Path("x")}


def state() -> dict:
    weight = torch.arange(12.0).reshape(4, 3)
    moments = {0: {"step": torch.tensor(7.0), "exp_avg": torch.arange(15.0).reshape(3, 5).t(), "empty": torch.empty(0)}}
    return {
        "weights": {"embed.weight": weight, "lm_head.weight": weight, "half": torch.ones(3, dtype=torch.bfloat16)},
        "trainer": {"global_step": 7, "optimizer_states": [{"state": moments}], "seen": [1, 2], "rows": weight[:2]},
        "rng": [{"torch": torch.arange(9)}],
    }


def test_what_changes_after_the_copy_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    before, now = state(), state()
    copied = Snapshot().take(contents(step=7, **now))
    now["weights"]["embed.weight"].zero_()
    now["weights"]["half"].add_(1)
    now["trainer"]["seen"].append(3)
    for tensor in now["trainer"]["optimizer_states"][0]["state"][0].values():
        tensor.fill_(-1)
    now["rng"][0]["torch"].zero_()
    late, wanted = write.write(tmp_path / "late", copied), write.write(tmp_path / "at once", contents(step=7, **before))
    assert not first_difference(late, wanted)
    assert late.manifest["files"] == wanted.manifest["files"]
    assert late.manifest["aliases"] == {"lm_head.weight": "embed.weight"}


def test_memory_is_taken_once() -> None:
    snapshot = Snapshot()
    first, second = (snapshot.take(contents(step=7, **state())) for _ in range(2))
    for file, group in first.tensors.items():
        assert all(tensor is second.tensors[file][name] for name, tensor in group.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_a_copy_from_a_gpu_is_of_before_the_step_and_nothing_waits_for_it() -> None:
    weight, average = (torch.ones(1 << 24, device="cuda") for _ in range(2))
    made = contents(step=1, weights={"w": weight}, trainer={"average": average}, states={"weights": {"w": weight}})
    snapshot = Snapshot()
    torch.cuda.synchronize()
    snapshot.take(made)  # which allocates
    snapshot.before_change()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        copied = snapshot.take(made)
        average.zero_()  # at once
        snapshot.before_change()
        weight.zero_()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    snapshot.finish()
    for group in copied.tensors.values():
        assert all(tensor.is_pinned() and bool((tensor == 1).all()) for tensor in group.values())


def test_what_has_to_be_finite_is_looked_at_in_the_copy(tmp_path: Path) -> None:
    weight = torch.zeros(3)
    made = contents(step=1, weights={"w": weight}, trainer={}, about={"score": 1.0}, states={"weights": {"w": weight}})
    copied = Snapshot().take(made)
    weight[0] = torch.nan
    assert write.write(tmp_path / "copy", copied).manifest["not_finite"] is None
    spoiled = write.write(tmp_path / "now", made).manifest
    assert (spoiled["not_finite"], spoiled["score"]) == ("weights/w", None)


TEAMS = """
import sys
from pathlib import Path
import psutil, torch
from harness.checkpoint.behind import Behind
from harness.checkpoint.contents import contents
from harness.checkpoint.snapshot import Snapshot
from harness.checkpoint.write import write

weights = {"w": torch.ones(1 << 20), "b": torch.ones(1 << 20, dtype=torch.bfloat16), "t": torch.ones(999, 999).t()}
behind = Behind()
made = Snapshot().take(contents(step=7, weights=weights, trainer={}, states={"weights": weights}))
torch.ones(1 << 22).sum()  # training has a team by now
before = len(psutil.Process().threads())
behind.start(lambda: write(Path(sys.argv[1]), made))
behind.wait()
print(torch.get_num_threads(), len(psutil.Process().threads()) - before)
"""


def test_the_writer_opens_no_second_team_of_threads(tmp_path: Path) -> None:
    # With more threads than cores OpenMP sleeps at its barriers: a step of a small model then took three times as long.
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(PROJECT)}
    words = [sys.executable, "-c", TEAMS, str(tmp_path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stdout.split() == ["2", "1"]  # the writer alone


def test_one_thing_at_a_time_and_what_it_raises_is_raised_to_who_waits() -> None:
    behind, gate, done = Behind(), threading.Event(), []
    behind.start(lambda: done.append(gate.wait()))
    assert behind.busy
    threading.Timer(0.05, gate.set).start()
    behind.start(lambda: done.append(1 / 0))  # waits for the first
    assert done == [True]
    with pytest.raises(ZeroDivisionError):
        behind.wait()
    behind.wait()
    behind.close()
    assert not behind.busy


def test_checkpoints_are_the_same_written_behind_training_or_not(train) -> None:
    behind, waits = (
        train(*EACH, f"run.name={way}", f"checkpoint.write_behind={way}", "callbacks.nan_guard.good_after=1")
        for way in ("true", "false")
    )
    assert_same(behind, waits)
    found, others = (read.checkpoints(folder / "checkpoints") for folder in (behind, waits))
    assert [checkpoint.step for checkpoint in found] == [1, 2, 3, 4, 5, 6]
    for one, other in zip(found, others, strict=True):
        assert not first_difference(one, other)
        assert {**one.manifest["files"], read.TRAINER: 0} == {**other.manifest["files"], read.TRAINER: 0}


class Clock:
    """Ten seconds pass whenever training waits for a checkpoint."""

    now: ClassVar[float] = 0.0

    def __call__(self) -> float:
        return Clock.now


def test_a_disk_that_is_slower_than_checkpoints_are_due_is_said_once(train, monkeypatch, caplog) -> None:
    put, wait, waiting = write._put_in_place, Behind.wait, threading.Event()

    def wait_and_say_so(self: Behind) -> None:
        if self.busy:
            waiting.set()
        wait(self)

    def slowly(*paths: Path) -> None:
        if threading.current_thread() is not threading.main_thread():
            assert waiting.wait(PATIENCE)
            waiting.clear()
            Clock.now += 10
        put(*paths)

    monkeypatch.setattr(Behind, "wait", wait_and_say_so)
    monkeypatch.setattr(write, "_put_in_place", slowly)
    clock = "+callbacks.checkpoint.clock={_target_:test_checkpoint_behind.Clock}"
    with caplog.at_level(logging.WARNING):
        folder = train(*EACH, "run.name=slow", "trainer.max_steps=14", clock)
    assert caplog.text.count("still being written when the next is due") == 1
    assert len(read.checkpoints(folder / "checkpoints")) == 14


@pytest.mark.parametrize("full", [False, True])
def test_an_exception_waits_for_what_is_written_and_is_what_is_seen(train, monkeypatch, tmp_path, caplog, full) -> None:
    put = write._put_in_place

    def slowly(temporary: Path, target: Path) -> None:
        time.sleep(0.3)  # far beyond the step in which it is raised
        if full and target.name == "step-00000004":
            raise OSError(28, "No space left on device")
        put(temporary, target)

    monkeypatch.setattr(write, "_put_in_place", slowly)
    every = ("checkpoint.every_n_steps=2", "+callbacks.mine={_target_:hooks.RaiseAt,hook:step,step:5}")
    with pytest.raises(ValueError, match="a mistake in a callback of one's own"):
        train(*EACH, *every, "run.name=mistake")
    folder = tmp_path / "runs" / "mistake" / "checkpoints"
    assert [checkpoint.step for checkpoint in read.checkpoints(folder)] == ([2] if full else [2, 4])
    assert caplog.text.count("The checkpoint of step 4 could not be written") == full
    assert not list(folder.glob(".*"))


def test_a_state_that_no_checkpoint_can_hold_is_refused(train) -> None:
    mine = "+callbacks.mine={_target_:test_checkpoint_behind.Unloadable}"
    with pytest.raises(TypeError, match="'callbacks' cannot be in a checkpoint"):
        train(*EACH, "run.name=unloadable", mine)


def test_without_memory_for_a_copy_training_waits(train, monkeypatch, caplog) -> None:
    def no_memory(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("harness.checkpoint.snapshot._room", no_memory)
    with caplog.at_level(logging.WARNING):
        folder = train(*EACH, "run.name=short")
    assert caplog.text.count("There is no memory for a copy") == 1
    assert len(read.checkpoints(folder / "checkpoints")) == 6
