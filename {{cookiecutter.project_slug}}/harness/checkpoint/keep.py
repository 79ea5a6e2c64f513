"""Which checkpoints stay, and how the others go.

Only folders that `write` made for this run are ever removed: checkpoints with this run's id in their manifest, and
names that begin with `.tmp-` or `.trash-`. A folder is renamed to `.trash-…` first, so that no half-deleted checkpoint
is ever taken for one; what cannot be deleted is a warning and is tried again after the next checkpoint.
"""

import logging
import math
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.checkpoint.read import Checkpoint, checkpoints
from harness.checkpoint.write import TEMPORARY, TRASH, fault

logger = logging.getLogger(__name__)

PIN = "KEEP"  # a file in a checkpoint that must stay; says who wants that


@dataclass(frozen=True)
class Retention:
    """The newest `last` checkpoints stay, the `best` with the lowest validation loss, and the pinned.

    A disk budget of `max_bytes` shrinks that: the newest and the pinned stay in any case, then come the best, then the
    others from new to old, while there is room.
    """

    last: int = 3
    best: int = 0
    max_bytes: float | None = None


def choose(found: Sequence[Checkpoint], keep: Retention) -> list[Checkpoint]:
    """Return the checkpoints to remove from `found`, which has the lowest step first."""
    if not found:
        return []
    # A checkpoint of a higher step than the last one written is damaged, or training went back behind it: it is not
    # kept.
    written_last = max(found, key=lambda checkpoint: checkpoint.sequence)
    usable = [checkpoint for checkpoint in found if checkpoint.step <= written_last.step]
    newest = list(reversed(usable))[: max(1, keep.last)]
    best = sorted((checkpoint for checkpoint in usable if not math.isnan(score(checkpoint))), key=score)[: keep.best]
    pinned = [newest[0], *(checkpoint for checkpoint in found if (checkpoint.path / PIN).exists())]
    kept: dict[Path, int] = {checkpoint.path: checkpoint.bytes for checkpoint in pinned}
    for checkpoint in [*best, *newest]:
        if keep.max_bytes is None or checkpoint.path in kept or sum(kept.values()) + checkpoint.bytes <= keep.max_bytes:
            kept[checkpoint.path] = checkpoint.bytes
    return [checkpoint for checkpoint in found if checkpoint.path not in kept]


def prune(folder: Path, run_id: str, keep: Retention) -> list[Path]:
    """Remove what `choose` names among the checkpoints of run `run_id`, and what an earlier call could not delete."""
    victims = choose(
        [checkpoint for checkpoint in checkpoints(folder) if checkpoint.manifest.get("run_id") == run_id], keep
    )
    fault("before_prune")
    for checkpoint in victims:
        try:
            checkpoint.path.rename(folder / f"{TRASH}{checkpoint.path.name}-{time.time_ns()}")
        except OSError as error:
            logger.warning(
                "Could not remove %s (%s); it is tried again after the next checkpoint.", checkpoint.path, error
            )
    fault("in_prune")
    _delete(folder.glob(f"{TRASH}*"))
    return [checkpoint.path for checkpoint in victims]


def sweep(folder: Path) -> list[Path]:
    """Delete what a killed process left half written or half deleted. Only for who holds the run's lock."""
    leftovers = sorted([*folder.glob(f"{TEMPORARY}*"), *folder.glob(f"{TRASH}*")])
    _delete(leftovers)
    return leftovers


def score(checkpoint: Checkpoint) -> float:
    """Return the validation loss that the checkpoint was made with, or NaN; lower is better."""
    value = checkpoint.manifest.get("score")
    return math.nan if value is None else float(value)


def pin(checkpoint: Checkpoint, owner: str) -> None:
    """Keep a checkpoint whatever `choose` says. `touch …/step-00000100/KEEP` does the same by hand, and then it
    stays."""
    path = checkpoint.path / PIN
    if not path.exists():
        path.write_text(owner, encoding="utf-8")


def unpin(checkpoint: Checkpoint, owner: str) -> None:
    """Take back a pin of this `owner`; another one's, or one made by hand, is left alone."""
    path = checkpoint.path / PIN
    if path.is_file() and path.read_text(encoding="utf-8") == owner:
        path.unlink(missing_ok=True)


def _delete(folders: Iterable[Path]) -> None:
    for path in folders:
        try:
            shutil.rmtree(path)
        except OSError as error:
            logger.warning("Could not delete %s (%s); it is tried again after the next checkpoint.", path, error)
