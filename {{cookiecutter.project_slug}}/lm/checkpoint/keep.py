"""Which commits stay, and how the others go.

Only folders that `write` made for this run are ever removed: commits with this run's id in their manifest, and names
that begin with `.tmp-` or `.trash-`. A folder is renamed to `.trash-…` first, so that no half-deleted commit is ever
taken for one; what cannot be deleted is a warning and is tried again after the next commit.
"""

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from lm.checkpoint.read import Commit, commits
from lm.checkpoint.write import TEMPORARY, TRASH, fault

logger = logging.getLogger(__name__)

SCORE = "score.json"  # a validation writes it after the commit: not in the manifest, and nothing breaks without it


def choose(
    found: Sequence[Commit],
    *,
    keep_last: int,
    keep_best: int = 0,
    protected: Collection[Path] = (),
    max_bytes: float | None = None,
) -> list[Commit]:
    """Return the commits to remove from `found` (oldest first): all but the newest, the best and the protected.

    A disk budget of `max_bytes` shrinks that: the newest and the protected stay in any case, then come the best, then
    the others from new to old, while there is room.
    """
    if not found:
        return []
    newest = list(reversed(found))[: max(1, keep_last)]
    best = sorted((commit for commit in found if not math.isnan(score(commit))), key=score)[:keep_best]
    pinned = [newest[0], *(commit for commit in found if commit.path in protected)]
    kept: dict[Path, int] = {commit.path: commit.bytes for commit in pinned}
    for commit in [*best, *newest]:
        if max_bytes is None or commit.path in kept or sum(kept.values()) + commit.bytes <= max_bytes:
            kept[commit.path] = commit.bytes
    return [commit for commit in found if commit.path not in kept]


def prune(
    folder: Path,
    run_id: str,
    *,
    keep_last: int,
    keep_best: int = 0,
    protected: Collection[Path] = (),
    max_bytes: float | None = None,
) -> list[Path]:
    """Remove what `choose` names among the commits of run `run_id`, and what an earlier call could not delete."""
    ours = [commit for commit in commits(folder) if commit.manifest.get("run_id") == run_id]
    victims = choose(ours, keep_last=keep_last, keep_best=keep_best, protected=protected, max_bytes=max_bytes)
    fault("before_prune")
    for commit in victims:
        try:
            commit.path.rename(folder / f"{TRASH}{commit.path.name}-{time.time_ns()}")
        except OSError as error:
            logger.warning("Could not remove %s (%s); it is tried again after the next commit.", commit.path, error)
    fault("in_prune")
    _delete(folder.glob(f"{TRASH}*"))
    return [commit.path for commit in victims]


def sweep(folder: Path) -> list[Path]:
    """Delete what a killed process left half written or half deleted. Only for the process that holds the run's lock."""
    leftovers = sorted([*folder.glob(f"{TEMPORARY}*"), *folder.glob(f"{TRASH}*")])
    _delete(leftovers)
    return leftovers


def set_score(commit: Commit, value: float) -> None:
    """Note the validation loss of a commit (lower is better): `choose` keeps the best."""
    temporary = commit.path / f"{TEMPORARY}{SCORE}"
    temporary.write_text(json.dumps(value), encoding="utf-8")
    os.replace(temporary, commit.path / SCORE)


def score(commit: Commit) -> float:
    """Return what `set_score` noted, or NaN."""
    try:
        return float(json.loads((commit.path / SCORE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return math.nan


def _delete(folders: Iterable[Path]) -> None:
    for path in folders:
        try:
            shutil.rmtree(path)
        except OSError as error:
            logger.warning("Could not delete %s (%s); it is tried again after the next commit.", path, error)
