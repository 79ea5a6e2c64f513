"""What any experiment gets by importing harness: shown with one that has another model and another data set."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from places import HARNESS_TESTS, PROJECT
from regressor import config, train

from harness.checkpoint import read
from harness.checkpoint.compare import first_difference
from harness.replay.rerun import rerun
from harness.report.terminal import report
from harness.telemetry import events


class Poison(Callback):
    """Puts a NaN into one gradient of step 7."""

    def on_after_backward(self, trainer, pl_module) -> None:
        if trainer.global_step == 6:
            next(pl_module.parameters()).grad[0] = torch.nan


POISON = {"callbacks": {"poison": {"_target_": "test_regressor.Poison"}}}


def newest(folder: Path) -> read.Checkpoint:
    return read.checkpoints(folder / "checkpoints")[-1]


def start(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (PROJECT, HARNESS_TESTS)))
    return subprocess.run(
        [sys.executable, str(HARNESS_TESTS / "regressor.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True, encoding="utf-8",
        check=False,
    )  # fmt: skip


def test_it_imports_nothing_of_the_language_model() -> None:
    program = "import sys, regressor, harness.trainer; print([m for m in sys.modules if m.startswith('lm')])"
    path = os.pathsep.join(map(str, (PROJECT, HARNESS_TESTS)))
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        encoding="utf-8", check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["[]"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no kill -9")
def test_killed_and_started_again_it_is_exact(tmp_path: Path) -> None:
    train(config(tmp_path / "whole"))
    killed = start(tmp_path / "killed", HARNESS_FAULT="after_rename:2")
    assert killed.returncode == -signal.SIGKILL and 0 < newest(tmp_path / "killed").step < 30
    again = start(tmp_path / "killed")
    assert again.returncode == 0, again.stderr
    assert newest(tmp_path / "killed").step == 30
    assert first_difference(newest(tmp_path / "killed"), newest(tmp_path / "whole")) == ""


def test_a_nan_is_skipped_kept_as_evidence_and_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "poisoned"
    loss = train(config(folder, **POISON))
    assert loss is not None and loss < 1
    bundle = folder / "nan" / "step-00000007"
    assert "x [" in (bundle / "text-rank0.txt").read_text(encoding="utf-8")
    # Outside of the model: a callback spoiled the gradient.
    assert rerun(bundle, train, trust=["test_regressor"]).kind == "outside"
    report([folder], as_json=False, out=None)
    assert "skipped" in capsys.readouterr().out
    kinds = {event["event_type"] for event in events.read(events.log_path(folder))}
    assert {"fit_start", "training_step", "validation", "nan_skip", "checkpoint", "fit_end"} <= kinds


def test_started_again_it_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train(config(folder)) is not None
    assert train(config(folder)) is None


class PoisonBatch(Callback):
    """Makes the second micro-batch of step 7 NaN."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == 6 and batch_idx % 2:
            batch["y"].fill_(torch.nan)


@pytest.mark.parametrize("isolate", [True, False])
def test_a_bad_micro_batch_costs_only_itself_where_asked(tmp_path: Path, isolate: bool) -> None:
    poison = {"poison": {"_target_": "test_regressor.PoisonBatch"}}
    callbacks = {"callbacks": {**poison, "nan_guard": {"isolate_micro_batches": isolate}}}
    train(config(tmp_path / "run", **callbacks))
    kinds = [event["event_type"] for event in events.read(events.log_path(tmp_path / "run"))]
    assert ("micro_batch_skip" in kinds, "nan_skip" in kinds) == (isolate, not isolate)
    weights = read.load_weights(newest(tmp_path / "run"))
    assert all(tensor.isfinite().all() for tensor in weights.values())
