"""Small files beside the checkpoints: written whole or not at all, read without being believed, never through a link.

Checkpoints are the truth of a run. Everything else in its folder can be damaged, and a run whose checkpoints are whole
goes on: what cannot be read is set aside as `NAME.damaged-1`, said in one warning, and made anew. A run's folder may
come from somebody else, so nothing is written through a link, and reading a pipe or a device does not hang.
"""

import json
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from harness.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_BYTES = 256 << 20  # of a file that is read at once
MOST_LINE = 16 << 20
# Windows has none of these; there a file is never a pipe, and making a link needs rights.
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
AS_IS = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
NOT_WAITING = getattr(os, "O_NONBLOCK", 0)


class Unreadable(Exception):
    """Something is there and cannot be used; the message names it and says why."""


def write_whole(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write a small file whole or not at all, on the disk before it takes its place. Raises OSError.

    `durable=False` leaves out the fsync, for what is made anew every few seconds. A link in its place is replaced, and
    a folder is set aside.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)  # of a process that was killed; in a container all have the same number
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK | AS_IS, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(descriptor)
        if path.is_dir() and not path.is_symlink():
            set_aside(path, f"{path} is a folder")
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Yield a folder beside `target` that takes its place at the end, whole, and goes where anything is raised.

    Raises UserError when something is there already.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already.", cure="Name a folder that is not, or move it away.")
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
        if target.exists():
            target.rmdir()
        beside.rename(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error}.", cure="Name another folder, or make room.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read_bytes(path: Path) -> bytes | None:
    """Return the content of a plain file, None where there is nothing. Raises Unreadable."""
    try:
        with _plain_file(path) as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                raise Unreadable(f"{path} is too large")
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(f"{path} cannot be read ({error.strerror or error})") from error


def parsed(path: Path, parse: Callable[[str], T]) -> T | None:
    """Return what `parse` makes of a file, None where there is none. Raises Unreadable, whatever is in the file."""
    content = read_bytes(path)
    if content is None:
        return None
    try:
        return parse(content.decode("utf-8"))
    except Exception as error:  # any bytes may be in there, and a parser may stumble over them in any way
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise Unreadable(f"{path} cannot be read ({reason})") from error


def recovered(path: Path, parse: Callable[[str], T]) -> T | None:
    """As `parsed`, for who may write there: what cannot be read is set aside, and then there is none."""
    try:
        return parsed(path, parse)
    except Unreadable as reason:
        set_aside(path, str(reason))
        return None


def numbered(name: str) -> Iterator[str]:
    """Yield `name`, `name-2`, `name-3`, ..."""
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def set_aside(path: Path, why: str) -> None:
    """Rename what is in the way of a file to `NAME.damaged-N`, with one warning."""
    aside = next(p for number in count(1) if not os.path.lexists(p := path.with_name(f"{path.name}.damaged-{number}")))
    try:
        path.rename(aside)
    except OSError as error:
        log.warning("%s, and cannot be set aside (%s). The run goes on without it.", why, error.strerror or error)
    else:
        log.warning("%s: set aside as %s. The run goes on with a new one.", why, aside.name)


def make_folder(path: Path) -> None:
    """Make a folder of a run. A link or a file in its place is set aside. Raises OSError."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        set_aside(path, f"{path} is {'a link' if path.is_symlink() else 'not a folder'}")
    path.mkdir(parents=True, exist_ok=True)


def open_append(path: Path) -> BinaryIO:
    """Open a file to append to, unbuffered. A link, a folder or a pipe in its place is set aside. Raises OSError."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        set_aside(path, f"{path} is {'a link' if path.is_symlink() else 'not a file'}")
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | NO_LINK | AS_IS, 0o666)
    return os.fdopen(descriptor, "ab", buffering=0)


def json_lines(
    path: Path, *, having: bytes = b"", valid: Callable[[dict[str, Any]], bool] = bool, what: str = "JSON"
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each whole line that is a `valid` JSON object, with its bytes, in constant memory; none without a file.

    Lines end at a newline and nowhere else: Python's `splitlines` also cuts at U+2028 and U+0085, which texts contain.
    Other lines are left out and counted in one warning; the half line of a killed process is left out silently.
    With `having` only lines with these bytes are looked at.
    """
    bad: list[int] = []
    try:
        with _plain_file(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(MOST_LINE), b""), start=1):
                if having not in line:
                    continue
                if (value := _object(line)) and valid(value) and line.endswith(b"\n"):
                    yield line, value
                elif line.endswith(b"\n"):
                    bad.append(number)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("%s cannot be read (%s).", path, error.strerror or error)
    if bad:
        log.warning("%d lines of %s are not %s and were left out; the first is line %d.", len(bad), path, what, bad[0])


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _plain_file(path: Path) -> BinaryIO:
    # Not waiting: opening a pipe would hang until somebody writes into it.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | NOT_WAITING))  # noqa: PTH123, SIM115 (Path.open has no opener)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{path} is not a file")
    return file
