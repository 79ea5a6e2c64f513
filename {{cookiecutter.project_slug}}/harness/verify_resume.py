"""Prove that a resumed run is exact on your own config: python -m lm verify-resume [overrides]

Trains a few steps twice in a temporary folder: once at a stretch, once killed with `kill -9` right after a checkpoint
and started again. Then compares weights, optimizer, schedule, generators and logged losses, bit for bit.
"""

import argparse
import csv
import itertools
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.config.compose import compose
from harness.errors import UserError

HALF = 3  # steps to the checkpoint, and from there to the end
TIMES = {"time", "tokens_per_second", "seconds"}  # columns of metrics.csv that differ between any two runs

TARGET = "harness.verify_resume:verify"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for train.py: model=30m data.batch_size=4")
    return parser


def verify(overrides: list[str], train: str) -> None:
    """Print that resuming is exact, or raise UserError with what differs first. `train` is a `module:function`."""
    cfg = compose(overrides)
    with tempfile.TemporaryDirectory(prefix="verify-resume-") as scratch:
        short = [*overrides, *_short(Path(scratch), int(cfg.trainer.accumulate_grad_batches))]
        print(f"1 of 3: {2 * HALF} steps at a stretch", flush=True)
        straight = _train(Path(scratch), train, short, "straight")
        print(f"2 of 3: {HALF} steps, then kill -9 after the checkpoint", flush=True)
        _train(Path(scratch), train, short, "resumed", killed=True)
        print("3 of 3: the same command again", flush=True)
        resumed = _train(Path(scratch), train, short, "resumed")
        if difference := _difference(resumed, straight):
            print("They differ. Once more at a stretch, to see whether that alone is reproducible", flush=True)
            again = _difference(_train(Path(scratch), train, short, "again"), straight)
            raise UserError(f"Not exact: {difference}.", cure=_cure(again), code=1)
    print(
        "Exact: killed and resumed, it has the same weights, optimizer, schedule, generators and losses, bit for bit."
    )


def _short(folder: Path, accumulate: int) -> list[str]:
    """A checkpoint in the middle that coincides with a validation, and nothing left behind."""
    return [
        f"run.root={folder.as_posix()}",
        "resume=auto",
        "resume_from=null",
        "logger=csv",
        f"trainer.max_steps={2 * HALF}",
        "trainer.log_every_n_steps=1",
        f"trainer.val_check_interval={HALF * accumulate}",
        "trainer.check_val_every_n_epoch=null",
        "trainer.limit_val_batches=2",
        f"checkpoint.every_n_steps={HALF}",
        "checkpoint.every_minutes=null",
    ]


def _train(scratch: Path, train: str, overrides: list[str], name: str, *, killed: bool = False) -> Path:
    fault = {"HARNESS_FAULT": "after_rename"} if killed else {}
    done = subprocess.run(
        [sys.executable, "-c", f"from harness.cli import run; run({train!r})", *overrides, f"run.name={name}"],
        env={**os.environ, **fault},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    expected = -getattr(signal, "SIGKILL", -signal.SIGTERM) if killed else 0
    if done.returncode != expected:
        raise UserError(f"The training itself failed:\n{done.stdout[-3000:]}", cure="Try it with train.py.")
    return scratch / name


def _difference(one: Path, other: Path) -> str:
    from harness.checkpoint.compare import first_difference  # imports torch, which --help must not wait for
    from harness.checkpoint.read import newest_valid

    checkpoints = [newest_valid(folder / "checkpoints") for folder in (one, other)]
    assert checkpoints[0] and checkpoints[1]
    if difference := first_difference(checkpoints[0], checkpoints[1]):
        return difference
    ours, theirs = (_logged(folder) for folder in (one, other))
    pairs = itertools.zip_longest(ours, theirs)
    return next((f"metrics.csv: {left} and {right}" for left, right in pairs if left != right), "")


def _logged(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def _cure(again: str) -> str:
    if not again:
        return "Two runs at a stretch are equal, so it is resuming: does a callback of yours have no state_dict?"
    return f"Two runs at a stretch differ too ({again}): trainer.deterministic=true allows exact kernels only."
