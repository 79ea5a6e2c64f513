"""When a checkpoint is made: by steps and by minutes, whichever comes first, on a clock that nobody can set."""

from pathlib import Path
from typing import ClassVar

import pytest

from harness.callbacks.checkpoint import DurableCheckpoint
from harness.telemetry import events

RUN = ("trainer.max_steps=10", "trainer.val_check_interval=1000", "logger=none", "checkpoint.keep_last=99")


class Clock:
    """Ten seconds pass whenever a batch is over; the wall clock may do what it likes."""

    now: ClassVar[float] = 0.0

    def __call__(self) -> float:
        return Clock.now


def made(folder: Path) -> list[tuple[int, str]]:
    log = events.read(folder / "debug_log" / "events.jsonl")
    return [(event["step"], event["data"]["reason"]) for event in log if event["event_type"] == "checkpoint"]


@pytest.fixture
def ticking(monkeypatch):
    Clock.now = 0.0
    start = DurableCheckpoint.on_train_batch_start

    def tick(self, *arguments):
        Clock.now += 10
        return start(self, *arguments)

    monkeypatch.setattr(DurableCheckpoint, "on_train_batch_start", tick)
    return "+callbacks.checkpoint.clock={_target_:test_checkpoint_when.Clock}"


def test_minutes_and_steps_whichever_comes_first(train, ticking) -> None:
    folder = train(*RUN, ticking, "checkpoint.every_n_steps=4", "checkpoint.every_minutes=0.5", "run.name=both")
    # 30 s are three batches; a checkpoint by steps starts the minutes anew
    minutes, steps = "every_minutes", "every_n_steps"
    assert made(folder) == [(2, minutes), (4, steps), (7, minutes), (8, steps), (10, "the end")]


def test_either_may_be_off(train, ticking) -> None:
    off = ("checkpoint.every_n_steps=null", "checkpoint.every_minutes=null")
    assert made(train(*RUN, ticking, *off, "run.name=off")) == [(10, "the end")]


def test_minutes_wait_for_the_end_of_an_accumulation_window(train, ticking) -> None:
    every = ("checkpoint.every_n_steps=null", "checkpoint.every_minutes=0.1", "trainer.accumulate_grad_batches=3")
    folder = train(*RUN, ticking, *every, "run.name=windows", "trainer.max_steps=3")
    assert made(folder) == [(1, "every_minutes"), (2, "every_minutes"), (3, "the end")]


def test_a_better_validation_is_committed_and_kept(train) -> None:
    folder = train(
        *RUN, "run.name=best", "checkpoint.every_n_steps=null", "trainer.val_check_interval=2", "optimizer.lr=0.01"
    )
    assert {reason for _, reason in made(folder)} == {"best", "the end"}
