"""Which checkpoint to go back to, and the ledger `skips.jsonl` of having gone back.

Going back takes weights and moments from a checkpoint while step and data go on: what lay between is not trained on
again. The ledger is written before anything is done and a checkpoint follows, so a run that is killed in between does
the same again when it gets there. Checkpoints made between the one that was good and the step that noticed are
*abandoned*.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.checkpoint.read import Checkpoint, checkpoints
from harness.files import json_lines, write_whole

LEDGER = "skips.jsonl"


@dataclass(frozen=True)
class Rollback:
    """At the end of `step`, weights and moments were taken from the checkpoint of `to`; `first_bad` began the trouble.

    The windows from `first_window` to before `next_window`, counted over the whole run, left no trace.
    """

    step: int
    to: int
    first_bad: int
    first_window: int
    next_window: int


def read_ledger(run: Path) -> list[Rollback]:
    """Return what the run went back over so far. A half line is of a process that was killed before it acted."""
    return [Rollback(**entry) for _, entry in json_lines(run / LEDGER) if _is_entry(entry)]


def _is_entry(entry: dict[str, Any]) -> bool:
    return entry.keys() == Rollback.__dataclass_fields__.keys() and all(type(n) is int for n in entry.values())


def write_down(run: Path, rollback: Rollback) -> None:
    """Make sure that the disk has this entry, once."""
    known = read_ledger(run)
    if rollback in known:
        return
    text = "".join(json.dumps(asdict(entry)) + "\n" for entry in [*known, rollback])
    write_whole(run / LEDGER, text)


def usable(run: Path) -> list[Checkpoint]:
    """Return the checkpoints that the run still stands on, oldest first."""
    ledger = read_ledger(run)
    return [checkpoint for checkpoint in checkpoints(run / "checkpoints") if not _abandoned(checkpoint, ledger)]


def good_checkpoints(
    found: Sequence[Checkpoint], ledger: Sequence[Rollback], *, first_bad: int, good_after: int
) -> list[Checkpoint]:
    """Return the checkpoints to try, best first: the newest that had `good_after` steps to prove itself, then older
    ones.

    Where none is so old, the oldest there is: better than to stop. Empty if there is none from before the trouble.
    """
    finite = [c for c in found if not c.manifest.get("not_finite")]
    before = [c for c in finite if c.step < first_bad and not _abandoned(c, ledger)]
    proven = [c for c in before if c.step <= first_bad - good_after]
    return proven[::-1] or before[:1]


def anchors(found: Sequence[Checkpoint], *, first_bad: int, good_after: int) -> list[Checkpoint]:
    """Return what must stay for `good_checkpoints` to find something if trouble began at `first_bad` or later: the
    newest that is old enough, and the one that will be so next, for retention by number lets no other live so long."""
    old = [c for c in found if c.step <= first_bad - good_after][-1:]
    later = [c for c in found if not old or c.step > old[0].step][:1]
    return [*old, *later]


def _abandoned(checkpoint: Checkpoint, ledger: Sequence[Rollback]) -> bool:
    return any(entry.to < checkpoint.step < entry.step for entry in ledger)
