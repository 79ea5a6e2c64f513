"""What the jobs of a sweep say together: how much each swept key does to the validation loss."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from harness.files import Unreadable, parsed
from harness.report.record import RunRecord, number

TABLE = "sweep.json"
MOST_VALUES = 8  # of a key, each with a line of its own; a search has more, and they are put together in parts
PARTS = 4


@dataclass(frozen=True)
class Row:
    """A job that has ended: its run, what was swept, and its last validation loss."""

    name: str
    values: dict[str, str]
    loss: float


@dataclass(frozen=True)
class Effect:
    """The validation losses of all jobs that have a value in common, whatever else they differ in."""

    key: str
    value: str
    losses: list[float]

    def cells(self) -> list[str]:
        """Return key, value, number of jobs, mean, standard deviation and lowest."""
        spread = f"{stdev(self.losses):.4f}" if len(self.losses) > 1 else ""
        return [
            self.key,
            self.value,
            str(len(self.losses)),
            f"{fmean(self.losses):.4f}",
            spread,
            f"{min(self.losses):.4f}",
        ]


HEADS = ("key", "value", "jobs", "mean loss", "spread", "lowest")


def rows_in(folder: Path) -> list[Row]:
    """Return the finished jobs of the sweep in `folder`; none where it is no sweep, or its table is damaged."""
    try:
        found = parsed(folder / TABLE, json.loads)
    except Unreadable:
        return []
    return rows_of(found) if isinstance(found, list) else []


def rows_of(table: list[Any]) -> list[Row]:
    """Return the finished jobs of such a table that have a validation loss."""
    return [row for one in table if (row := _row(one))]


def effects(rows: Sequence[Row]) -> list[Effect]:
    """Return the effect of each value of each key, in the order of the values; of seeds, what is left without them."""
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    found = [effect for key in keys if key != "seed" for effect in _of(key, rows)]
    if len({row.values.get("seed") for row in rows}) > 1:
        found += _over_seeds(rows)
    return found


def name_by_values(records: Sequence[RunRecord], rows: Sequence[Row]) -> None:
    """Call the runs of a sweep by what was swept: their folders differ in a hash."""
    by_name = {row.name: row for row in rows}
    for record in records:
        if (row := by_name.get(record.folder.name)) and row.values:
            record.title = " ".join(f"{key}={value}" for key, value in row.values.items())


def _of(key: str, rows: Sequence[Row]) -> list[Effect]:
    losses: dict[str, list[float]] = {}
    for row in rows:
        losses.setdefault(row.values.get(key, ""), []).append(row.loss)
    if len(losses) < 2:
        return []
    try:
        ordered = sorted(losses, key=float)
    except ValueError:  # names, which have no order but that of the table
        return [Effect(key, value, found) for value, found in losses.items()]
    if len(ordered) <= MOST_VALUES:
        return [Effect(key, value, losses[value]) for value in ordered]
    edges = [len(ordered) * part // PARTS for part in range(PARTS + 1)]
    parts = [ordered[first:last] for first, last in zip(edges, edges[1:], strict=False)]
    return [Effect(key, f"{part[0]} to {part[-1]}", [x for value in part for x in losses[value]]) for part in parts]


def _over_seeds(rows: Sequence[Row]) -> Iterator[Effect]:
    losses: dict[str, list[float]] = {}
    for row in rows:
        rest = " ".join(f"{key}={value}" for key, value in row.values.items() if key != "seed")
        losses.setdefault(rest, []).append(row.loss)
    return (Effect("over seeds", rest, found) for rest, found in losses.items())


def _row(one: Any) -> Row | None:
    if not isinstance(one, dict) or not isinstance(one.get("overrides"), dict) or one.get("state") != "finished":
        return None
    loss = number(one, "val_loss")
    values = {str(key): str(value) for key, value in one["overrides"].items()}
    return None if loss is None else Row(str(one.get("name")), values, loss)
