"""Two processes, gloo: one runs out of memory, and all do the step again in pieces."""

import random
import sys
from pathlib import Path

import pytest
from faults import OneRankOutOfMemory, with_callback
from processes import Process
from step_record import STEP_RECORD, Step, recorded

from conftest import overrides
from harness.telemetry import events

pytestmark = [pytest.mark.fault, pytest.mark.skipif(sys.platform == "win32", reason="gloo of Linux and macOS")]

RUN = ("data.global_batch=256", "data.limit=11", "trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true",
       "trainer.devices=2", "trainer.max_steps=10", "callbacks.samples=null", "logger=none", STEP_RECORD)  # fmt: skip
RANDOM = random.Random(20)


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory) -> list[Step]:
    root = tmp_path_factory.mktemp("undisturbed")
    process = Process(root, [*overrides(corpus, root), *RUN, "run.name=x"])
    assert process.ended() == 0, process.output
    return recorded(root / "runs" / "x")


def assert_same_losses(run: Path, reference: list[Step]) -> None:
    assert [step.loss for step in recorded(run)] == pytest.approx([step.loss for step in reference], rel=0, abs=1e-6)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("step", [1, RANDOM.randint(2, 9)])
def test_all_ranks_halve_when_one_is_out_of_memory(small, undisturbed, tmp_path, step: int, backward: bool) -> None:
    """In step 1 the buckets of DistributedDataParallel are not yet those of later steps."""
    place = 1 if backward else RANDOM.randint(0, 1)  # in the last of two, where gradients are exchanged on the way
    fault = with_callback(
        OneRankOutOfMemory, rank=RANDOM.randint(0, 1), step=step, micro_batch=place, backward=backward
    )
    process = Process(tmp_path, [*small, *RUN, "run.name=x", fault])
    assert process.ended() == 0, process.output
    assert process.output.count(f"Out of memory at step {step}. Each batch of 4 rows now goes through in 2 pieces") == 1
    run = tmp_path / "runs" / "x"
    assert_same_losses(run, undisturbed)
    told = [event for event in events.read(events.log_path(run)) if event["event_type"] == "oom"]
    assert {(event["step"], event["data"]["pieces"]) for event in told} == {(step, 2)}


def test_a_second_failure_halves_again_and_a_later_attempt_remembers(small, undisturbed, tmp_path) -> None:
    fault = with_callback(OneRankOutOfMemory, rank=1, step=3, again=True)
    for until in (5, 10):
        process = Process(
            tmp_path, [*small, *RUN, "run.name=x", "scheduler=constant", fault, f"trainer.max_steps={until}"]
        )
        assert process.ended() == 0, process.output
    assert "Out of memory" not in process.output
    told = [event for event in events.read(events.log_path(tmp_path / "runs" / "x")) if event["event_type"] == "oom"]
    assert {(event["step"], event["data"]["pieces"]) for event in told} == {(3, 2), (3, 4)}
