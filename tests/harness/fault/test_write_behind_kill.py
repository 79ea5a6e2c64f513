"""SIGKILL in each phase of a checkpoint that is written behind training: the newest whole one is there, and the run
that goes on from it ends as if nothing had been.

Each is a training of its own in a process of its own, forked from one that has imported everything: what would take a
minute each as `python train.py` takes two seconds. The point at which it dies is drawn from all that an undisturbed run
passes. test_kill.py does the same with `train.py`, in a chain.
"""

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from exactness import assert_same, newest
from places import PATIENCE

from conftest import overrides
from harness.checkpoint import keep, read
from harness.telemetry import events

KILLS = int(os.environ.get("KILLS", "50"))
POINTS = {
    "copy": ("in_copy",),
    "write": ("in_write", "after_write"),
    "fsync": ("in_fsync", "after_fsync"),
    "rename": ("before_rename", "after_rename"),
    "prune": ("before_prune", "in_prune"),
}
MANY = 1_000_000
# Some thousand parameters; validation coincides with every second checkpoint, dropout draws from the generators.
RUN = ("trainer.max_steps=13", "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=2", "checkpoint.keep_last=2",
       "trainer.val_check_interval=4", "data.limit=11", "model.config.num_hidden_layers=1",
       "model.config.hidden_size=8", "model.config.intermediate_size=8", "+model.config.attention_dropout=0.2",
       "model.attention=eager", "model.compile=false", "logger=csv")  # fmt: skip

Train = Callable[..., int]


def body(folder: Path, words: list[str], fault: str, counted: Path | None) -> None:
    """Train in this process, its words in a file; `counted` is to hold how often the point of `fault` was passed."""
    log = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["HARNESS_FAULT"] = fault
    from harness.config.compose import compose
    from lm import fit

    fit.train(compose(words))
    if counted:
        counted.write_text(str(MANY - int(os.environ["HARNESS_FAULT"].partition(":")[2])), encoding="utf-8")


@pytest.fixture
def train(corpus: Path, tmp_path: Path) -> Iterator[Train]:
    """Train the run of a name in a process, and return how that ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lm.fit", "lm.data", "lm.models", "transformers.models.llama.modeling_llama"])

    def run(name: str, fault: str = "", counted: Path | None = None) -> int:
        words = [*overrides(corpus, tmp_path), *RUN, f"run.name={name}"]
        process = context.Process(target=body, args=(tmp_path, words, fault, counted))
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
        assert process.exitcode is not None, f"It did not end:\n{output(tmp_path)}"
        return process.exitcode

    yield run


def output(folder: Path) -> str:
    return (folder / "output.txt").read_text(encoding="utf-8", errors="replace")[-4000:]


def said_to_be_written(run: Path) -> list[int]:
    """Return the steps of the checkpoints of which the event log says that they are there."""
    log = run / "debug_log" / "events.jsonl"
    found = events.read(log) if log.is_file() else ()
    return [e["step"] for e in found if e["event_type"] == "checkpoint" and "path" in e["data"]]


@pytest.mark.fault
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_a_kill_in_any_phase_leaves_no_trace(train: Train, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    passes = {}
    for point in [point for points in POINTS.values() for point in points]:
        assert train(f"counts-{point}", f"{point}:{MANY}", tmp_path / point) == 0, output(tmp_path)
        passes[point] = int((tmp_path / point).read_text(encoding="utf-8"))
    assert all(passes.values()), passes
    reference = runs / "counts-in_copy"
    assert newest(reference).step == 13
    chance = random.Random(0)
    for number in range(KILLS):
        point = chance.choice(list(POINTS.values())[number % len(POINTS)])
        fault = f"{point}:{chance.randint(1, passes[point])}"
        run = runs / f"kill-{number}"
        assert train(run.name, fault) == -signal.SIGKILL, f"{fault} did not come:\n{output(tmp_path)}"
        found = read.checkpoints(run / "checkpoints")
        print(f"kill {number + 1}: {fault}, step {found[-1].step if found else 0}", flush=True)
        for checkpoint in found:
            read.verify(checkpoint)
        assert len(found) == len(list((run / "checkpoints").glob("step-*"))), "half a checkpoint under a whole name"
        assert max(said_to_be_written(run), default=0) <= max((c.step for c in found), default=0), fault
        if found:
            assert read.load_weights(newest(run)) and read.load_trainer(newest(run))["global_step"] == newest(run).step
        assert train(run.name) == 0, output(tmp_path)
        assert_same(run, reference)
        assert keep.sweep(run / "checkpoints") == [], "leftovers of a killed process"
