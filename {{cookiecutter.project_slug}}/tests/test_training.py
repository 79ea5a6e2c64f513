"""Runs: one that learns, one that is interrupted and goes on as if nothing had been, one step of every preset."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import CONVERSATIONS, quoted
from lightning.pytorch import Callback
from omegaconf import DictConfig

from harness.checkpoint.compare import first_difference
from harness.checkpoint.read import newest_valid
from harness.config.compose import choices

Train = Callable[..., DictConfig]


class PowerCut(Callback):
    """Ends the run before the step after `step`, as an exception of one's own code would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("The power is gone.")


def losses(cfg: DictConfig, column: str = "train/loss") -> list[str]:
    """Return a column of metrics.csv as it was written, to the last digit."""
    with Path(cfg.run.dir, "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [row[column] for row in csv.DictReader(file) if row.get(column)]


def test_training_lowers_the_loss(train: Train) -> None:
    cfg = train("trainer.max_steps=30", "optimizer.lr=1e-2")
    seen = [float(loss) for loss in losses(cfg)]
    assert len(seen) == 30
    assert sum(seen[-5:]) < 0.8 * sum(seen[:5])


def test_an_interrupted_run_goes_on_as_if_nothing_had_been(train: Train) -> None:
    every_step = ("trainer.accumulate_grad_batches=2", "checkpoint.every_n_steps=2")
    whole = train(*every_step, "run.name=whole")
    with pytest.raises(RuntimeError, match="power"):
        train(*every_step, "run.name=cut", "+callbacks.cut={_target_: test_training.PowerCut, step: 3}")
    cut = train(*every_step, "run.name=cut", "+callbacks.cut={_target_: test_training.PowerCut, step: -1}")

    assert len(losses(whole)) == 6
    for column in ("train/loss", "val/loss", "lr"):
        assert losses(cut, column) == losses(whole, column)
    ours, theirs = (newest_valid(Path(cfg.run.dir, "checkpoints")) for cfg in (cut, whole))
    assert ours and theirs and ours.step == theirs.step == 6
    assert first_difference(ours, theirs) == ""  # weights, optimizer, schedule, position in the data, generators


def test_conversations_train(train: Train) -> None:
    cfg = train("data=chat", f"data.path={CONVERSATIONS}", "data.packing=false", "trainer.max_steps=1")
    assert Path(cfg.run.dir, "checkpoints/step-00000001").is_dir()


@pytest.mark.parametrize("name", choices("optimizer"))
def test_one_step_of_every_optimizer(name: str, train: Train) -> None:
    assert losses(train(f"optimizer={name}", "trainer.max_steps=1"))


@pytest.mark.parametrize("name", choices("scheduler"))
def test_every_schedule_rises_to_the_peak_in_its_warm_up(name: str, train: Train) -> None:
    cfg = train(f"scheduler={name}", "optimizer.lr=1e-3")
    rates = [float(rate) for rate in losses(cfg, "lr")]
    # Those of transformers begin at 0.
    assert 0 <= rates[0] < rates[1] < rates[2] == max(rates) == pytest.approx(1e-3)


@pytest.mark.parametrize("preset", choices("debug"))
def test_one_step_of_every_debug_preset(preset: str, train: Train, tmp_path: Path) -> None:
    here = (f"debug.folder={quoted(tmp_path)}", "trainer.accelerator=cpu", "trainer.max_steps=1", "data.limit=null")
    cfg = train(f"+debug={preset}", *here)
    trained = Path(cfg.run.dir, "checkpoints/step-00000001").is_dir()
    assert trained != bool(cfg.debug.show_data)  # which prints windows and stops
