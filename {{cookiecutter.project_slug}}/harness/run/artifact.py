"""A folder that is computed once: whole or absent, made by one process at a time, and gone on with after `kill -9`.

ROOT/KEY/        what was made; meta.json, written last, has the size and checksum of every other file
ROOT/.KEY/       being made; hidden files in it (a journal) are the maker's own and go before it appears
ROOT/.KEY.lock   held by the process that makes it
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.errors import Stopped, UserError
from harness.files import write_whole

log = logging.getLogger(__name__)

MANIFEST = "meta.json"
HALF_MADE = re.compile(r"\.[0-9a-f]{16}(-\d+)?")
# Seconds without a change after which what is half made is swept: with a process in its name nobody can go on with it;
# else somebody may, for a while. The disk may be shared, so that whether a process lives cannot be asked here.
LEFT_OVER, ABANDONED = 3600, 7 * 24 * 3600
# Spent in this process on making what was not there: the next one finds it.
seconds_making = 0.0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class Damaged(Exception):
    """A folder is not as it was written; the message says what is wrong."""


def fingerprint(content: list[Any]) -> str:
    """Return 16 hex digits that change with `content`, which is plain values in a fixed order."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def made_of(
    root: Path, content: list[Any], make: Callable[[Path], Mapping[str, Any]], *, instead: str, sums: bool = False
) -> tuple[Path, dict[str, Any], str]:
    """Return the folder in `root` whose name is a fingerprint of `content`, and what `obtain` says of it. A disk that
    is full or must not be written to is a UserError, which names another with `instead`."""
    key = fingerprint(content)
    with writable(root, instead):
        return root / key, *obtain(root, key, make, sums=sums)


def obtain(
    root: Path, key: str, make: Callable[[Path], Mapping[str, Any]], *, sums: bool = False
) -> tuple[dict[str, Any], str]:
    """Return the manifest of ROOT/KEY, made now by `make` unless it is there and whole, and the damage that was found.

    `make` is given a folder, which holds what an earlier try left, and returns what the manifest says besides `files`.
    Sizes are compared at each call, checksums with `sums`. What is damaged is said, removed and made again.
    """
    folder = root / key
    manifest, damage = _found(folder, sums)
    if manifest is not None:
        return manifest, ""
    if damage:
        log.warning("%s is damaged: %s. It is made again.", folder.as_posix(), damage)
    with _claimed(root, key) as work:
        # Another process may have made it while this one waited.
        manifest, _ = _found(folder, sums)
        if manifest is not None:
            return manifest, damage
        _remove(folder)
        _sweep(root, besides=work)
        started = time.monotonic()
        _finish(work, make)
        _appear(work, folder)
    global seconds_making
    seconds_making += time.monotonic() - started
    return read(folder), damage


@contextmanager
def writable(root: Path, instead: str) -> Iterator[None]:
    """Turn an error of a disk that is full or must not be written to into a UserError; `instead` names another."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        cure = f"Make room, or name another folder with {instead}: the same command goes on where it was."
        raise UserError(f"The data cannot be prepared in {root.as_posix()}: {error}.", cure=cure) from error


def read(folder: Path, *, sums: bool = False) -> dict[str, Any]:
    """Return the manifest of a folder whose files have the sizes (and the checksums) that it says. Raises Damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {str(name): (int(entry["size"]), entry["sha256"]) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} cannot be read ({type(error).__name__})") from error
    for name, (size, digest) in files.items():
        file = folder / Path(name).name  # never a path out of the folder
        if not file.is_file():
            raise Damaged(f"{name} is missing")
        if file.stat().st_size != size:
            raise Damaged(f"{name} has {file.stat().st_size:,} bytes instead of {size:,}")
        if sums and _checksum(file) != digest:
            raise Damaged(f"{name} does not have the checksum that it was written with")
    return dict(manifest)


def write_durably(file: Path, content: str) -> None:
    """Write a small file so that after a crash it is the old one or the new one, under its name, never a part."""
    write_whole(file, content)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable. Windows has no such call: there a rename is journalled."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _found(folder: Path, sums: bool) -> tuple[dict[str, Any] | None, str]:
    try:
        return (read(folder, sums=sums), "") if folder.is_dir() else (None, "")
    except Damaged as damage:
        return None, str(damage)


@contextmanager
def _claimed(root: Path, key: str) -> Iterator[Path]:
    """Give the folder in which this process alone makes KEY."""
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / f".{key}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("Another process is making %s: waiting for it.", (root / key).as_posix())
            lock.acquire()
    except (OSError, NotImplementedError):  # a disk without locks: then nobody can go on with what this one leaves
        alone = root / f".{key}-{os.getpid()}"
        try:
            yield alone
        finally:
            shutil.rmtree(alone, ignore_errors=True)
        return
    try:
        yield root / f".{key}"
        with suppress(OSError):  # Windows: it is open. Who waits for it finds the folder.
            (root / f".{key}.lock").unlink()
    finally:
        lock.release()


def _finish(work: Path, make: Callable[[Path], Mapping[str, Any]]) -> None:
    """Make what is missing in `work`, and write its manifest."""
    with suppress(Damaged):
        read(work)
        return  # killed between the manifest and the rename
    work.mkdir(exist_ok=True)
    try:
        facts = make(work)
    except Stopped:
        raise
    except UserError:  # its cure changes the content, and so the key: nobody would go on with this
        shutil.rmtree(work, ignore_errors=True)
        raise
    files = sorted(file for file in work.iterdir() if not file.name.startswith(".") and file.name != MANIFEST)
    entries = {file.name: {"size": file.stat().st_size, "sha256": _checksum(file)} for file in files}
    write_durably(work / MANIFEST, json.dumps({**facts, "files": entries}, indent=2) + "\n")


def _appear(work: Path, folder: Path) -> None:
    for file in work.glob(".*"):
        file.unlink()
    sync_folder(work)
    try:
        work.rename(folder)
    except OSError:
        if not folder.is_dir():  # without locks another process may have been first: it has the same content
            raise
    sync_folder(folder.parent)


def _remove(folder: Path) -> None:
    """Remove a damaged folder: renamed first, so that nobody finds half of it."""
    if folder.is_dir():
        trash = folder.with_name(f".{folder.name}-{os.getpid()}")
        folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def _sweep(root: Path, besides: Path) -> None:
    for path in root.glob(".*"):
        name = HALF_MADE.fullmatch(path.name)
        if name is None or path == besides or not path.is_dir():
            continue
        with suppress(OSError):  # its maker has just finished
            changed = max(entry.stat().st_mtime for entry in (path, *path.iterdir()))
            if time.time() - changed > (LEFT_OVER if name[1] else ABANDONED):
                shutil.rmtree(path, ignore_errors=True)


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
