"""Callbacks of one's own come beside what protects a run, never in its place."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback
from places import PROJECT

from harness.config.compose import compose
from harness.config.protection import LOST, unprotected
from harness.trainer import leave_out_empty_hooks

PROTECTION = ["checkpoint", "signals", "progress", "nan_guard", "debug_log"]
HELLO = "# Says hello.\nhello:\n  _target_: hooks.Slow\n  seconds: 0.0\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, with a callback of a user's own in conf/callbacks/hello.yaml."""
    ignore = shutil.ignore_patterns("__pycache__", "temp_debug", ".*_cache", "runs", "prepared")
    copy = Path(shutil.copytree(PROJECT, tmp_path / "project", ignore=ignore))
    (copy / "conf" / "callbacks" / "hello.yaml").write_text(HELLO, encoding="utf-8")
    return copy


@pytest.mark.parametrize(
    "override",
    [
        "callbacks=default",
        "callbacks=early_stopping",
        "callbacks=[default,early_stopping]",
        "callbacks=[early_stopping,samples]",
        "callbacks=null",
        "~callbacks",
        "+callbacks.hello={_target_:hooks.Slow,seconds:0}",
    ],
)
def test_own_callbacks_keep_the_guard(override: str) -> None:
    cfg = compose([override])
    assert list(cfg.callbacks)[: len(PROTECTION)] == PROTECTION
    assert None not in cfg.callbacks.values()
    assert list(unprotected(cfg)) == []


@pytest.mark.slow
@pytest.mark.parametrize("override", ["callbacks=hello", "callbacks=[default,hello]"])
def test_a_run_with_a_callback_file_of_ones_own_is_kept(
    project: Path, command: Callable[..., object], small: list[str], override: str
) -> None:
    done = command(str(project / "train.py"), *small, "run.name=own", override, cwd=project, PYTHONPATH=_path(project))
    assert done.returncode == 0, done.stderr
    run = Path(next(word for word in small if word.startswith("run.root=")).partition("=")[2]) / "own"
    assert [folder.name for folder in (run / "checkpoints").glob("step-*")] == ["step-00000006"]
    assert (run / "debug_log" / "events.jsonl").is_file()
    assert "hello:" in (run / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# @package _global_\ntrainer: [1\nseed: }\n", "mine.yaml, line 3, column"),
        ("trainer:\n  max_steps: 3\n", "lacks its first line: # @package _global_"),
        ("# @package _global_\noptimizer:\n  learning_rate: 3\n", "Did you mean optimizer.lr?"),
    ],
)
def test_an_experiment_file_that_is_wrong_is_a_sentence(
    project: Path, command: Callable[..., object], small: list[str], text: str, sentence: str
) -> None:
    (project / "conf" / "experiment" / "mine.yaml").write_text(text, encoding="utf-8")
    done = command(str(project / "train.py"), *small, "experiment=mine", cwd=project, PYTHONPATH=_path(project))
    assert done.returncode == 2 and sentence in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (project.parent / "runs").exists()


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("override", ["callbacks.{}=null", "~callbacks.{}"])
def test_what_is_switched_off_is_said(name: str, override: str) -> None:
    assert [sentence.rstrip(".") for sentence in unprotected(compose([override.format(name)]))] == [
        f"{LOST[name]} (callbacks.{name}={'null' if override.endswith('null') else 'absent'})"
    ]


@pytest.mark.slow
def test_a_run_that_keeps_nothing_says_so_first(command: Callable[..., object], small: list[str]) -> None:
    done = command("train.py", *small, "run.name=nothing", "callbacks.checkpoint=null")
    lines = done.stderr.splitlines()
    assert done.returncode == 0, done.stderr
    assert "Nothing of this run is kept" in lines[0]


@pytest.mark.slow
def test_early_stopping_ships(command: Callable[..., object], small: list[str]) -> None:
    more = [
        "trainer.val_check_interval=1",
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.min_delta=9",
    ]
    done = command("train.py", *small, "run.name=early", "callbacks=[default,early_stopping]", *more)
    assert done.returncode == 0, done.stderr


def _path(project: Path) -> str:
    return f"{project}:{Path(__file__).parent}"


def test_only_hooks_that_a_callback_lacks_are_passed_over() -> None:
    class Own(Callback):
        def on_train_batch_end(self, *_: object) -> None: ...

    own, by_instance = Own(), LambdaCallback(on_before_backward=lambda *_: None)
    leave_out_empty_hooks([own, by_instance])
    assert own.on_train_batch_start is None
    assert callable(own.on_train_batch_end)
    assert callable(own.on_train_epoch_end)
    assert callable(by_instance.on_before_backward)
