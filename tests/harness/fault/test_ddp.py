"""Two ranks on the CPU: when one dies the other ends, and the restart is exact."""

import signal
import sys
from pathlib import Path

import psutil
import pytest
from exactness import assert_same, newest
from faults import SmallValidation, with_callback
from processes import Process

from conftest import overrides
from harness.checkpoint import read
from harness.checkpoint.compare import first_difference
from harness.run import folder as run_folder
from harness.telemetry import events

pytestmark = [pytest.mark.fault, pytest.mark.skipif(sys.platform != "linux", reason="gloo and process trees of Linux")]

RUN = ("trainer.max_steps=8", "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=3", "logger=csv",
       "+model.config.attention_dropout=0.2", "model.attention=eager", "trainer.val_check_interval=4",
       "trainer.devices=2", "+trainer.strategy=ddp", "data.limit=11",
       "+callbacks.slow={_target_:hooks.Slow,seconds:0.2}")  # fmt: skip


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("reference")
    process = Process(root, [*overrides(corpus, root), *RUN, "run.name=reference"])
    assert process.ended() == 0, process.output
    assert newest(root / "runs" / "reference").manifest["ranks"] == 2
    return root / "runs" / "reference"


def test_every_rank_has_generators_of_its_own(reference) -> None:
    checkpoint = newest(reference)
    first, second = (read.load_rng(checkpoint, rank) for rank in range(2))
    assert first is not None
    assert second is not None


@pytest.mark.slow
def test_validation_that_runs_out_of_memory_on_one_rank_halves_there(small, reference, tmp_path) -> None:
    process = Process(tmp_path, [*small, *RUN, "run.name=small", with_callback(SmallValidation, rows=1, rank=1)])
    assert process.ended() == 0, process.output
    folder = tmp_path / "runs" / "small"
    assert not first_difference(newest(folder), newest(reference))  # training knows nothing of it
    loss, expected = (run_folder.read(run)["result"]["val_loss"] for run in (folder, reference))
    assert loss == pytest.approx(expected, rel=1e-6)
    told = [e for e in events.read(events.log_path(folder, rank=1)) if e["event_type"] == "oom"]
    assert [(e["step"], e["data"]["pieces"]) for e in told] == [(4, 2), (4, 4)]


def test_the_death_of_a_rank_ends_the_other_and_the_restart_is_exact(small, reference, tmp_path) -> None:
    base = [*small, *RUN, "run.name=broken"]
    process = Process(tmp_path, base)
    folder = tmp_path / "runs" / "broken"
    process.until(lambda: bool(read.checkpoints(folder / "checkpoints")))
    children = psutil.Process(process.popen.pid).children()
    (other_rank,) = [child for child in children if "train.py" in " ".join(child.cmdline())]
    other_rank.kill()
    assert process.ended() != 0
    again = Process(tmp_path, base)
    assert again.ended() == 0, again.output
    assert_same(folder, reference)


def test_a_signal_to_one_rank_stops_both_at_the_same_step(small, reference, tmp_path) -> None:
    base = [*small, *RUN, "run.name=stopped"]
    process = Process(tmp_path, base)
    folder = tmp_path / "runs" / "stopped"
    process.until(lambda: bool(read.checkpoints(folder / "checkpoints")))
    process.send(signal.SIGTERM)
    assert process.ended() == 143, process.output
    assert "Stopped by SIGTERM" in process.output
    again = Process(tmp_path, base)
    assert again.ended() == 0, again.output
    assert_same(folder, reference)
