"""What a step logs is logged when somebody reads it, with the same numbers: a logger, a callback, whoever comes
last."""

import io
import math
from pathlib import Path
from typing import Any

import pytest
from exactness import logged
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.progress import Progress as Bar

from harness.callbacks.checkpoint import DurableCheckpoint
from harness.callbacks.progress import Progress
from harness.module import GuardedModule

calls: list[tuple[int, str]] = []
seen: dict[int, float] = {}


class Spy(Callback):
    """Notes what is logged at which step, without reading any of it."""

    reads_metrics = False

    def setup(self, trainer: Trainer, pl_module: GuardedModule, stage: str) -> None:
        log = pl_module.log
        pl_module.log = lambda name, *a, **k: (calls.append((trainer.global_step + 1, name)), log(name, *a, **k))


class Reader(Callback):
    """Reads the loss after every step, as a callback that somebody wrote does."""

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        seen[trainer.global_step] = float(trainer.callback_metrics["train/loss"])


SPY, READER = (f"+callbacks.{name.lower()}={{_target_:test_step_logging.{name}}}" for name in ("Spy", "Reader"))


@pytest.fixture(autouse=True)
def forget() -> None:
    calls.clear(), seen.clear()


def rows(folder: Path) -> dict[str, dict[str, str]]:
    return {row["step"]: row for row in logged(folder) if row["train/loss"]}


def test_a_step_that_nobody_reads_is_not_logged_and_the_last_one_is(train) -> None:
    train(SPY, "trainer.log_every_n_steps=4")
    steps = {name: [step for step, logged_name in calls if logged_name == name] for name in ("train/loss", "lr")}
    assert steps == {"train/loss": [4, 6], "lr": [4, 6]}


def test_loggers_get_the_same_numbers_at_the_same_steps(train) -> None:
    every = rows(train("trainer.log_every_n_steps=1", "run.name=every"))
    some = rows(train("trainer.log_every_n_steps=2", "run.name=some"))
    assert list(some) == ["2", "4", "6"]
    assert some == {step: every[step] for step in some}


def test_a_callback_of_ones_own_sees_each_step(train) -> None:
    folder = train(READER, "trainer.log_every_n_steps=1", "run.name=every")
    every = {step: float(row["train/loss"]) for step, row in ((int(s), r) for s, r in rows(folder).items())}
    seen.clear()
    train(READER, "trainer.log_every_n_steps=100", "run.name=never")
    assert seen == pytest.approx(every) and len(seen) == 6


def test_under_accumulation_too(train) -> None:
    folder = train("trainer.accumulate_grad_batches=2", "trainer.log_every_n_steps=2", "trainer.max_steps=4")
    assert list(rows(folder)) == ["2", "4"]


def test_a_checkpoint_by_training_loss_reads_each_step() -> None:
    assert DurableCheckpoint(monitor="train/loss").reads_metrics and not DurableCheckpoint().reads_metrics


def test_the_bar_shows_the_loss_of_a_step_that_was_not_logged(train, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    facts = Progress._facts
    monkeypatch.setattr(Progress, "_facts", lambda *a: shown.append(facts(*a)[0]) or facts(*a))
    train("callbacks.progress={_target_:harness.callbacks.progress.Progress,every_seconds:0}",
          "trainer.log_every_n_steps=100")  # fmt: skip
    assert len(shown) >= 6 and all(math.isfinite(float(fact.removeprefix("loss "))) for fact in shown)


def test_the_bar_of_a_resumed_run_begins_where_the_run_is(train, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(force_terminal=True, file=io.StringIO(), width=120)
    monkeypatch.setattr("harness.callbacks.progress.terminal", lambda: screen)
    begun: list[tuple[float, float | None]] = []
    add = Bar.add_task

    def noting(bar: Bar, what: str, **known: Any) -> Any:
        if what == "training":
            begun.append((known["completed"], known["total"]))
        return add(bar, what, **known)

    monkeypatch.setattr(Bar, "add_task", noting)
    train("run.name=bar", "trainer.max_steps=4")
    train("run.name=bar", "trainer.max_steps=6")
    assert begun == [(0, 4), (4, 6)]
    assert "6/6" in screen.file.getvalue()
