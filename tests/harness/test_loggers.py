"""Loggers go on where the run goes on: nothing is cut off, nothing comes twice."""

import contextlib
from pathlib import Path

import pytest
from exactness import logged
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from harness.run import folder as run_folder
from harness.telemetry.events import log_path, read
from harness.telemetry.loggers import CsvLogger, build_loggers
from hooks import PowerCut

RUN = ("trainer.max_steps=6", "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=2",
       "trainer.val_check_interval=3")  # fmt: skip
CUT = "+callbacks.cut={_target_:hooks.CutAt,step:6,hook:batch_end}"


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_and_csv_have_every_step_once(train, tmp_path) -> None:
    reference = train(*RUN, "run.name=reference")
    with contextlib.suppress(PowerCut):
        train(*RUN, "run.name=cut", CUT)
    cut = tmp_path / "runs" / "cut"
    assert len(logged(cut)) == 6  # five steps and a validation: one step more than the checkpoint of step 4 has
    train(*RUN, "run.name=cut")
    assert logged(cut) == logged(reference)
    assert scalars(cut, "train/loss") == scalars(reference, "train/loss")
    assert [step for step, _ in scalars(cut, "train/loss")] == list(range(1, 7))


def test_metrics_and_events_name_the_same_step(train) -> None:
    log_all = ("trainer.log_every_n_steps=1", "callbacks.debug_log.every_n_steps=1", "trainer.val_check_interval=2")
    folder = train(*log_all, "trainer.max_steps=3")
    events_of = {e["step"]: e["data"]["loss"] for e in read(log_path(folder)) if e["event_type"] == "training_step"}
    rows = {int(row["step"]): float(row["train/loss"]) for row in logged(folder) if row["train/loss"]}
    assert rows == pytest.approx(events_of) and list(rows) == [1, 2, 3]
    assert dict(scalars(folder, "train/loss")) == pytest.approx(rows)
    assert [int(row["step"]) for row in logged(folder) if row["val/loss"]] == [2, 3]  # 3: the validation at the end
    assert [step for step, _ in scalars(folder, "val/loss")] == [2, 3]


def test_wandb_goes_on_with_the_same_run(tmp_path) -> None:
    group = OmegaConf.create(
        {"wandb": {"_target_": "lightning.pytorch.loggers.WandbLogger", "offline": True, "save_dir": str(tmp_path)}}
    )
    (logger,) = build_loggers(group, run_id="0123456789abcdef", step=7)
    assert logger._wandb_init["id"] == "0123456789abcdef"
    assert logger._wandb_init["resume"] == "allow"


def test_a_row_with_a_new_column_keeps_the_rows_before(tmp_path) -> None:
    logger = CsvLogger(str(tmp_path))
    logger.log_metrics({"a": 1.0}, step=0)
    logger.log_metrics({"b": 2.5}, step=1)
    logger.log_metrics({"a": 3.0}, step=2)
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8").split() == ["step,a,b", "0,1.0,", "1,,2.5", "2,3.0,"]


def test_a_row_that_was_cut_short_is_dropped(tmp_path) -> None:
    (tmp_path / "metrics.csv").write_text("step,a,b\n0,1.0,2.0\n1,1.", encoding="utf-8")
    CsvLogger(str(tmp_path), after_step=1).log_metrics({"a": 3.0}, step=2)
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8").split() == ["step,a,b", "0,1.0,2.0", "2,3.0,"]


def test_the_diary_counts_attempts_and_keeps_the_id(train, tmp_path) -> None:
    with contextlib.suppress(PowerCut):
        train(*RUN, "run.name=cut", "logger=csv", CUT)
    first = run_folder.read(tmp_path / "runs" / "cut")
    train(*RUN, "run.name=cut", "logger=csv")
    second = run_folder.read(tmp_path / "runs" / "cut")
    assert second["id"] == first["id"]
    assert [attempt["status"] for attempt in second["attempts"]] == ["failed", "finished"]
