"""`kill -9` at any moment, then the same command: the run ends as if nothing had been."""

import os
import random
import threading
import time
from pathlib import Path

import pytest
from exactness import assert_same
from processes import Process

from conftest import overrides
from harness.checkpoint import keep, read

KILLS = int(os.environ.get("KILLS", "25"))  # per chain; there are two
STEPS = 12 * KILLS  # more than they leave time for
POINTS = ("after_write", "after_fsync", "before_rename", "after_rename", "before_prune", "in_prune")
# 5 micro-batches an epoch, so that most of the run is beyond epoch 2; a validation coincides with every second
# checkpoint.
RUN = (f"trainer.max_steps={STEPS}", "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=3", "data.limit=11",
       "data.batch_size=20", "+model.config.attention_dropout=0.2", "model.attention=eager", "logger=csv",
       "trainer.val_check_interval=6", "+callbacks.slow={_target_:hooks.Slow,seconds:0.02}")  # fmt: skip


class Watcher(threading.Thread):
    """Looks every 5 ms: from the first checkpoint on there must always be a whole one."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.looks = 0
        self.complaints: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.005):
            if not self.looks and not read.checkpoints(self.folder):
                continue
            self.looks += 1
            if not any(whole(checkpoint) for checkpoint in reversed(read.checkpoints(self.folder))):
                self.complaints.append(f"look {self.looks}: {[path.name for path in self.folder.iterdir()]}")


def whole(checkpoint: read.Checkpoint) -> bool:
    try:
        read.verify(checkpoint)
    except read.DamagedCheckpoint:
        return False
    return True


def killed(process: Process, chance: random.Random, folder: Path) -> None:
    """Kill at a random moment of training, or, one time in five, of the start."""
    before = {checkpoint.path for checkpoint in read.checkpoints(folder)}
    if chance.random() < 0.2:
        time.sleep(chance.uniform(0, 6))
    else:
        process.until(lambda: {checkpoint.path for checkpoint in read.checkpoints(folder)} != before)
        time.sleep(chance.uniform(0, 0.3))
    process.kill()


@pytest.mark.fault
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_chain_of_kills_leaves_no_trace(corpus, tmp_path, accumulate) -> None:
    base = [*overrides(corpus, tmp_path), *RUN, f"trainer.accumulate_grad_batches={accumulate}"]
    chance = random.Random(accumulate)
    folder = tmp_path / "runs" / "chain" / "checkpoints"
    watcher = Watcher(folder)
    watcher.start()
    steps = []
    for number in range(KILLS):
        workers = f"data.num_workers={chance.choice((0, 0, 2))}"  # the order does not depend on them
        if number % 3 == 0:  # inside a save
            fault = f"{chance.choice(POINTS)}:{chance.randint(1, 3)}"
            process = Process(tmp_path, [*base, "run.name=chain", workers], HARNESS_FAULT=fault)
            assert process.ended() == -9, f"{fault} did not come:\n{process.output}"
        else:
            process = Process(tmp_path, [*base, "run.name=chain", workers])
            killed(process, chance, folder)
        steps.append(max((checkpoint.step for checkpoint in read.checkpoints(folder)), default=0))
        print(f"kill {number + 1}: step {steps[-1]}", flush=True)
    assert steps == sorted(steps), "work that was saved was lost"
    assert steps[-1] < STEPS, "the run ended before the last kill: it proves less than it says"
    last = Process(tmp_path, [*base, "run.name=chain"])
    assert last.ended() == 0, last.output
    watcher.over.set()
    watcher.join()
    assert watcher.looks > 100
    assert watcher.complaints == []
    reference = Process(tmp_path, [*base, "run.name=reference"])
    assert reference.ended() == 0, reference.output
    assert_same(tmp_path / "runs" / "chain", tmp_path / "runs" / "reference")
    assert keep.sweep(folder) == [], "leftovers of killed processes"


@pytest.mark.fault
def test_a_kill_inside_a_save_leaves_no_trace(corpus, tmp_path) -> None:
    base = [*overrides(corpus, tmp_path), *RUN, "trainer.max_steps=7", "run.name=killed"]
    process = Process(tmp_path, base, HARNESS_FAULT="before_rename:2")
    assert process.ended() == -9
    folder = tmp_path / "runs" / "killed" / "checkpoints"
    assert [checkpoint.step for checkpoint in read.checkpoints(folder)] == [3]
    assert any(path.name.startswith(".tmp-") for path in folder.iterdir())
    again = Process(tmp_path, base)
    assert again.ended() == 0, again.output
    reference = Process(tmp_path, [*base, "run.name=reference"])
    assert reference.ended() == 0, reference.output
    assert_same(tmp_path / "runs" / "killed", tmp_path / "runs" / "reference")
    assert keep.sweep(folder) == []
