"""The event log of real runs: the right events at the right steps, and a training that is the same with and without."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file

from harness.errors import UserError
from harness.telemetry import events
from lm.data import datamodule

OFTEN = ("callbacks.debug_log.every_n_steps=2", "callbacks.debug_log.gradients_every_n_steps=3")


class Crash(Callback):
    """A user's callback with a mistake in it."""

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == 3:
            raise ZeroDivisionError("the user's mistake")


def of_type(folder: Path, event_type: str) -> list[dict]:
    return [event for event in events.read(events.log_path(folder)) if event["event_type"] == event_type]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted(folder.glob("checkpoints/step-*"))[-1] / "model.safetensors")


def test_a_run_tells_its_story(train: Callable[..., Path]) -> None:
    folder = train(*OFTEN, "callbacks.debug_log.updates_every_n_steps=4", "trainer.val_check_interval=3")

    (start,) = of_type(folder, "fit_start")
    assert start["data"]["parameters"]["trainable"] == start["data"]["parameters"]["total"] > 0
    assert start["data"]["optimizers"][0]["name"] == "AdamW"
    assert start["run_id"] == json.loads((folder / "run.json").read_text(encoding="utf-8"))["id"]
    (epoch,) = of_type(folder, "epoch_start")
    assert {"lr", "betas", "weight_decay"} <= epoch["data"]["optimizers"][0]["groups"][0].keys()
    assert [e["step"] for e in of_type(folder, "training_step")] == [1, 2, 4, 6]
    assert [e["step"] for e in of_type(folder, "gradient_stats")] == [1, 3, 6]
    assert [e["step"] for e in of_type(folder, "param_updates")] == [1, 4]
    assert [e["step"] for e in of_type(folder, "validation")] == [3, 6]
    assert [e["step"] for e in of_type(folder, "data_sanity_check")] == [0]
    (end,) = of_type(folder, "fit_end")
    assert end["step"] == 6
    assert not any(event.get("warning") for event in events.read(events.log_path(folder)))


def test_the_numbers_of_a_step_make_sense(train: Callable[..., Path]) -> None:
    folder = train("trainer.accumulate_grad_batches=2")
    first = of_type(folder, "training_step")[0]["data"]
    # Untrained, every one of the 300 tokens is as likely as another.
    assert first["loss"] == pytest.approx(math.log(300), abs=0.3)
    assert 0 <= first["accuracy"] < 0.2
    assert first["shape"] == [4, 16] and first["valid_tokens"] == 2 * 4 * 15
    assert len(first["predicted"]["ids"]) == len(first["expected"]["ids"]) == 15
    assert first["expected"]["text"] and first["tokens_per_second"] > 0
    assert first["learning_rate"] == pytest.approx(1e-3 / 3, rel=0.01)  # of the first step, not the next


def test_accumulation_gives_no_false_alarm(train: Callable[..., Path]) -> None:
    folder = train("trainer.accumulate_grad_batches=3", "callbacks.debug_log.updates_every_n_steps=1")
    updates = of_type(folder, "param_updates")
    assert [e["step"] for e in updates] == [1, 2, 3, 4, 5, 6]
    assert all(e["data"]["changed"] == e["data"]["parameters"] and "warning" not in e for e in updates)
    assert all(0 < change < 1 for e in updates for change in e["data"]["modules"].values())


def test_a_rate_of_zero_moves_nothing_and_is_no_alarm(train: Callable[..., Path]) -> None:
    folder = train("optimizer.lr=0")
    (update,) = of_type(folder, "param_updates")
    assert update["data"]["changed"] == 0 and "warning" not in update


def test_weights_that_should_move_and_do_not_are_a_warning(train: Callable[..., Path], monkeypatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: closure and closure())
    folder = train()
    (update,) = of_type(folder, "param_updates")
    assert update["data"]["changed"] == 0 and update["warning"] is True


def test_the_log_does_not_change_the_training(train: Callable[..., Path]) -> None:
    with_log = weights(train("run.name=with", *OFTEN, "callbacks.debug_log.updates_every_n_steps=1"))
    without = weights(train("run.name=without", "callbacks.debug_log.enabled=false"))
    assert with_log.keys() == without.keys()
    assert all(torch.equal(with_log[name], without[name]) for name in without)


def test_turned_off_it_leaves_nothing(train: Callable[..., Path]) -> None:
    assert not (train("callbacks.debug_log.enabled=false") / "debug_log").exists()


def test_labels_beyond_the_vocabulary_are_said_before_they_crash(
    train: Callable[..., Path], tmp_path: Path, monkeypatch
) -> None:
    good = datamodule.collate
    monkeypatch.setattr(
        "lm.data.datamodule.collate", lambda rows, batch_size: {k: v + 1000 for k, v in good(rows, batch_size).items()}
    )
    with pytest.raises(UserError, match="the model's vocabulary has 300 tokens"):
        train("run.name=bad")
    (check,) = of_type(tmp_path / "runs" / "bad", "data_sanity_check")
    assert check["warning"] and check["data"]["id"] >= 1000 and check["data"]["vocabulary"] == 300


def test_a_crash_in_a_users_callback_is_the_last_thing_in_both_logs(
    command: Callable, small: list[str], tmp_path: Path
) -> None:
    done = command("train.py", *small, "run.name=crash", "+callbacks.mine={_target_:test_debug_log.Crash}")
    assert done.returncode == 1
    folder = tmp_path / "runs" / "crash"
    *_, last = events.read(events.log_path(folder))
    assert (last["event_type"], last["step"], last["data"]["type"]) == ("exception", 3, "ZeroDivisionError")
    assert last["data"]["traceback"].endswith("ZeroDivisionError: the user's mistake\n")
    log = (folder / "logs" / "train.log").read_text(encoding="utf-8")
    assert "in on_train_batch_end" in log and log.endswith("ZeroDivisionError: the user's mistake\n")


@pytest.mark.slow
def test_train_log_has_what_the_libraries_say(command: Callable, small: list[str], tmp_path: Path) -> None:
    done = command("train.py", *small, "run.name=a", "trainer.max_steps=1")
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "runs" / "a" / "logs" / "train.log").read_text(encoding="utf-8")
    assert log.count("`Trainer.fit` stopped: `max_steps=1` reached.") == 1
    assert "`Trainer.fit` stopped" not in done.stderr  # what libraries only mention is for the file
    linked = tmp_path / "runs" / "a" / "tensorboard" / "train.log"
    assert linked.read_text(encoding="utf-8") == log


def test_the_start_says_how_much_data_and_the_gradients_their_range(train: Callable[..., Path]) -> None:
    folder = train()
    data = of_type(folder, "fit_start")[0]["data"]
    assert data["data"]["batch_size"] == 4 and data["data"]["steps_per_epoch"] * 4 <= data["data"]["train_set"]
    assert data["data"]["epochs"] == 6 / data["data"]["steps_per_epoch"] and data["schedule"] == ["LambdaLR"]
    gradients = of_type(folder, "gradient_stats")[0]["data"]
    assert gradients["value_min"] < 0 < gradients["value_max"] <= gradients["max"] <= gradients["total_norm"]
