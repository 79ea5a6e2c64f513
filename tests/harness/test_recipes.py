"""Every recipe of docs/logs.md, run on a real run that skipped a step and then crashed, returns what it says."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from places import PROJECT

from harness.telemetry import events
from lm.__main__ import COMMANDS

GUIDE = (PROJECT / "docs" / "logs.md").read_text(encoding="utf-8")


class Poison(Callback):
    """Makes one gradient of the third step NaN and all of the fifth zero, and crashes at the sixth."""

    def on_after_backward(self, trainer, pl_module) -> None:
        if trainer.global_step == 2:
            next(pl_module.parameters()).grad[0] = torch.nan
        if trainer.global_step == 4:
            for parameter in pl_module.parameters():
                parameter.grad.zero_()

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == 6:
            raise ZeroDivisionError("a mistake in a callback")


def recipes(language: str) -> dict[str, str]:
    """Return the title and the code of each recipe; Python recipes have the sentence above them as a title."""
    pattern = rf"^([^\n]+)\n\n```{language}\n(.*?)\n```$"
    return {title.removeprefix("### "): code for title, code in re.findall(pattern, GUIDE, flags=re.S | re.M)}


@pytest.fixture
def recorded(train: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder in which `runs/x` is such a run."""
    often = [f"callbacks.debug_log.{key}_every_n_steps=1" for key in ("gradients", "updates")]
    often += [
        "callbacks.debug_log.every_n_steps=1",
        "callbacks.samples.every_n_steps=2",
        "trainer.val_check_interval=2",
    ]
    with pytest.raises(ZeroDivisionError):
        poison = "+callbacks.poison={_target_:test_recipes.Poison}"
        train("run.name=x", *often, "trainer.max_steps=9", "data.prompt='class Node:'", poison)
    return tmp_path


def expected(title: str, log: list[dict[str, Any]], samples: list[dict[str, Any]]) -> list[Any]:
    """Return what a recipe should print, found without jq."""

    def data(event_type: str) -> Iterator[tuple[int, dict[str, Any]]]:
        return ((event["step"], event["data"]) for event in log if event["event_type"] == event_type)

    match title:
        case "How many events of each type":
            return [dict(Counter(event["event_type"] for event in log))]
        case "The loss of each recorded step":
            return [f"{s}\t{d['loss']}\t{d['accuracy']}" for s, d in data("training_step")]
        case "The best validation":
            return [
                min(({"step": s, "loss": d["loss"]} for s, d in data("validation")), key=lambda found: found["loss"])
            ]
        case "Everything that is a warning":
            return [[event["step"], event["event_type"]] for event in log if event.get("warning")]
        case "Gradients that are too large or not finite":
            return [[3, None, "nan"]]
        case "Gradients that vanish":
            return [[5, 0]]
        case "The learning rate of each recorded step":
            return [f"{s}\t{d['learning_rate']}" for s, d in data("training_step")]
        case "The learning rate at the start of each epoch":
            return [[s, d["epoch"], d["learning_rate"]] for s, d in data("epoch_start")]
        case "The modules with the largest gradients, at the end":
            return [[*data("gradient_stats")][-1][1]["top"]]
        case "Steps that moved no weight":
            return [3]
        case "What the model predicted, beside what was expected":
            return [[s, d["expected"]["text"], d["predicted"]["text"]] for s, d in data("training_step")]
        case "Skipped steps and their evidence":
            return [[s, d["bundle"]] for s, d in data("nan_skip")]
        case "The traceback of a crash":
            return next(data("exception"))[1]["traceback"].splitlines()
        case "Tokens per second, on average":
            return [pytest.approx(fmean(d["tokens_per_second"] for _, d in data("training_step")))]
        case "What the model says at each step":
            said = [f"--- step {s['step']}\n{s['text']}" for s in samples if s["prompt"] == "class Node:"]
            return "\n".join(said).splitlines()
    raise AssertionError(f"The recipe {title!r} of docs/logs.md has no expectation here.")


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
def test_every_jq_recipe_returns_what_it_says(recorded: Path) -> None:
    # As they are: the reader of events takes control characters out of their texts, and jq does not.
    log = [json.loads(line) for line in events.log_path(recorded / "runs" / "x").read_bytes().split(b"\n") if line]
    lines = (recorded / "runs" / "x" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(recipes("bash")) == 15
    for title, command in recipes("bash").items():
        done = subprocess.run(shlex.split(command), cwd=recorded, capture_output=True, encoding="utf-8", check=True)
        found = done.stdout.rstrip("\n").splitlines() if "jq -r" in command else [*documents(done.stdout)]
        wanted = expected(title, log, [*map(json.loads, lines)])
        assert wanted, title
        if title in (
            "The loss of each recorded step",
            "The learning rate of each recorded step",
        ):  # jq prints other digits
            wanted = [pytest.approx([*map(float, line.split("\t"))]) for line in wanted]
            found = [[*map(float, line.split("\t"))] for line in found]
        assert found == wanted, title


def documents(text: str) -> Iterator[Any]:
    """Yield the JSON documents that follow one another in `text`."""
    while text := text.lstrip():
        document, end = json.JSONDecoder().raw_decode(text)
        yield document
        text = text[end:]


def test_every_python_recipe_runs(recorded: Path) -> None:
    codes = [code for code in recipes("python").values() if "pandas" in code]
    assert len(codes) == 2
    for code in codes:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=recorded,
            env={"PYTHONPATH": str(PROJECT)},
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) >= 6


def test_the_recipe_for_a_picture_draws_one(recorded: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, which the project does not depend on")
    (code,) = (code for code in recipes("python").values() if "matplotlib" in code)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=recorded,
        env={"PYTHONPATH": str(PROJECT), "MPLCONFIGDIR": str(recorded)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert (recorded / "runs" / "x" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_every_command_of_the_guides_names_a_file_that_is_there() -> None:
    text = GUIDE + (PROJECT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    files = set(re.findall(r"python ((?:devtools/)?\w+\.py)", text))
    commands = set(re.findall(r"python -m lm ([\w-]+)", text))
    assert {"train.py", "evaluate.py", "devtools/repair_log.py"} <= files and "report" in commands
    missing = [file for file in files if not (PROJECT / file).is_file()]
    missing += commands - {command.name for command in COMMANDS}
    assert not missing
