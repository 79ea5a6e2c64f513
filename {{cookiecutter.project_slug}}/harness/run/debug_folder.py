"""The debug folder, devtools/temp_debug/: all that debug runs make, and all that clearing may remove.

A run holds one numbered folder in it, with its outputs/, prepared/ and hf/; a second run at the same time gets the
next. Clearing is something that a command does before a launch, once. Done when a module is imported, every spawned
loader process would do it again, under the feet of its parent.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import UserError
from harness.ranks import rank

ROOT = Path(__file__).resolve().parents[2] / "devtools" / "temp_debug"
MARKER = ".harness-temp-debug"  # without it nothing is removed
# Names a person types, and the only folders that are ever removed.
PARTS = {"outputs": "outputs", "prepared": "prepared", "datasets": "hf/datasets", "all": "."}
EACH_LAUNCH = ("outputs", "prepared", "datasets")
# Tells children (ranks, jobs of a multirun, spawned workers) which folder their parent has claimed.
VARIABLE = "HARNESS_DEBUG_FOLDER"

_held: list[FileLock] = []  # until the process ends; the operating system frees a lock even after a crash


def enter(*, clear: bool, root: Path = ROOT) -> Path:
    """Return this run's folder: in a child its parent's, else the first that no other run holds, cleared if wanted."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    if rank() > 0:
        raise UserError(
            "The ranks of a launcher would each take a debug folder of their own.",
            cure="Let the preset start them, +debug=… trainer.devices=2 without torchrun, or leave the preset out.",
        )
    if not root.is_symlink() and (not root.exists() or not any(root.iterdir())):
        root.mkdir(parents=True, exist_ok=True)
        (root / ".gitignore").write_text("*\n", encoding="utf-8")
        (root / MARKER).write_text("Everything beside this file may be removed at any time.\n", encoding="utf-8")
    _refuse_others(root, root)
    _held.append(next(lock for number in count(1) if (lock := _claimed(root / f"{number}.lock"))))
    folder = Path(_held[-1].lock_file).with_suffix("")
    if clear:
        remove(folder, EACH_LAUNCH)
    folder.mkdir(exist_ok=True)
    os.environ[VARIABLE] = str(folder)
    return folder


def clear_unused(parts: Iterable[str], root: Path = ROOT) -> Iterator[str]:
    """Remove `parts` of every folder that no run holds. Yields what was removed and what was left alone."""
    for folder in sorted(path for path in root.glob("*") if path.name.isdecimal()):
        if lock := _claimed(root / f"{folder.name}.lock"):
            yield from (f"Removed {path}" for path in remove(folder, parts))
            lock.release()
        else:
            yield f"Left {folder} alone: a debug run is using it."


def remove(folder: Path, parts: Iterable[str]) -> list[Path]:
    """Remove `parts` (names in PARTS) of one numbered folder and return what was there. Raises UserError, before
    anything is removed, where that is not ours. Links inside are removed and never followed."""
    targets = [folder / PARTS[part] for part in parts]
    for target in targets:
        _refuse_others(folder.parent, target)
    found = [target for target in targets if target.exists()]
    try:
        for target in found:
            shutil.rmtree(target)
    except OSError as error:
        raise UserError(
            f"Cannot clear {folder}: {error}.", cure="Close the program that has a file in there open."
        ) from error
    return found


def _claimed(path: Path) -> FileLock | None:
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def _refuse_others(root: Path, target: Path) -> None:
    """Refuse a root that no debug run has made, and a link on the way from it to `target`."""
    if not (root / MARKER).is_file():
        raise UserError(f"{root} is not a debug folder: it has no file {MARKER}.", cure="Move it away, or remove it.")
    if target.resolve() != root.parent.resolve() / target.relative_to(root.parent):
        raise UserError(f"{target} is a link to {target.resolve()}.", cure="Remove the link by hand.")
