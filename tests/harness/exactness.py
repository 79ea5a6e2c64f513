"""The oracle of *exact*: checkpoints equal by the bit, every step logged once with the same loss."""

import csv
from pathlib import Path

from harness.checkpoint import read
from harness.checkpoint.compare import first_difference

EXACT = ("train/loss", "val/loss", "lr", "grad_norm", "epoch")


def newest(run: Path) -> read.Checkpoint:
    checkpoint = read.newest_valid(run / "checkpoints")
    assert checkpoint is not None
    return checkpoint


def logged(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv, with what must be exact in them, in the order of the file."""
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [{name: row.get(name, "") for name in ("step", *EXACT)} for row in csv.DictReader(file)]


def assert_same(run: Path, reference: Path) -> None:
    assert newest(run).step == newest(reference).step
    difference = first_difference(newest(run), newest(reference))
    assert not difference, difference
    ours, theirs = logged(run), logged(reference)
    pairs = zip(ours, theirs, strict=False)
    assert ours == theirs, next((pair for pair in pairs if pair[0] != pair[1]), (ours[-1], theirs[-1]))
    trained = [int(row["step"]) for row in logged(run) if row["train/loss"]]
    assert trained == list(range(1, newest(run).step + 1)), "a step is missing or came twice"
