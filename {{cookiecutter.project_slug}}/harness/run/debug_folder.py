"""The debug folder, devtools/temp_debug/: all that debug runs make, and all that clearing may remove.

    temp_debug/
      .harness-temp-debug     the marker: without it nothing in here is removed
      .gitignore         everything
      1.lock             held by a debug run for as long as it lives
      1/                 its folder; a second run at the same time gets 2/
        outputs/         run folders
        prepared/        tokenizers and token files
        hf/datasets/     Hugging Face's prepared data sets and results of `map`
        hf/              with debug.isolate=true all of HF_HOME, downloads too

Clearing is something that a command does before a launch, once. Done when a module is imported, it would be done again
by every spawned child, under the feet of its parent: on Windows and macOS that is each loader process.
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
MARKER = ".harness-temp-debug"
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
    _make(root)
    for number in count(1):
        lock = FileLock(root / f"{number}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        _held.append(lock)
        folder = root / str(number)
        if clear:
            remove(folder, EACH_LAUNCH)
        folder.mkdir(exist_ok=True)
        os.environ[VARIABLE] = str(folder)
        return folder
    raise AssertionError("count() ended")


def clear_unused(parts: Iterable[str], root: Path = ROOT) -> Iterator[str]:
    """Remove `parts` of every folder that no run holds. Yields what was removed and what was left alone."""
    if not root.exists():
        return
    for folder in sorted(path for path in root.iterdir() if path.name.isdecimal()):
        try:
            with FileLock(root / f"{folder.name}.lock", blocking=False):
                yield from (f"Removed {path}" for path in remove(folder, parts))
        except Timeout:
            yield f"Left {folder} alone: a debug run is using it."


def remove(folder: Path, parts: Iterable[str]) -> list[Path]:
    """Remove `parts` (names in PARTS) of one numbered folder and return what was there.

    Raises UserError, before anything is removed, for a folder that is not ours to clear: no marker beside it, a link on
    the way, or a name that is not in the list. Links inside are removed and never followed.
    """
    targets = [_checked(folder, part) for part in parts]
    found = [target for target in targets if target.exists()]
    for target in found:
        try:
            shutil.rmtree(target)
        except OSError as error:
            raise UserError(
                f"Cannot clear {target}: {error}.",
                cure="Close the program that has a file in there open, and try again.",
            ) from error
    return found


def _checked(folder: Path, part: str) -> Path:
    if part not in PARTS:
        raise UserError(f"{part!r} is none of the parts of a debug folder: {', '.join(PARTS)}.")
    root, target = folder.parent, folder / PARTS[part]
    relative = target.relative_to(root)
    if not folder.name.isdecimal() or not (root / MARKER).is_file():
        raise UserError(
            f"{folder} is not a debug folder: nothing was removed.",
            cure=f"Debug folders are numbered and have the file {MARKER} beside them.",
        )
    for step in (root, *(root / part for part in reversed(relative.parents[:-1])), target):
        if step.is_symlink() or (step.exists() and step.resolve() != root.resolve() / step.relative_to(root)):
            raise UserError(
                f"{step} is a link to {step.resolve()}: nothing was removed.", cure="Remove the link by hand."
            )
    return target


def _make(root: Path) -> None:
    """Make the root with its marker. A folder of that name that holds something and has no marker is somebody's own."""
    if root.is_symlink():
        raise UserError(f"{root} is a link to {root.resolve()}.", cure="Remove the link: debug runs make the folder.")
    if root.is_dir() and any(root.iterdir()) and not (root / MARKER).is_file():
        raise UserError(
            f"{root} holds files and has no marker, so debug runs will not use it.", cure="Move it away, or remove it."
        )
    root.mkdir(parents=True, exist_ok=True)
    (root / ".gitignore").write_text("*\n", encoding="utf-8")
    (root / MARKER).write_text("Everything beside this file may be removed at any time.\n", encoding="utf-8")
