"""Which files a path names, what is in them, and their text or rows as a stream: never a whole file at once."""

import codecs
import csv
import functools
import glob
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from harness.errors import UserError

HEAD = 4096  # bytes that decide what a file is
MAGIC = {b"PAR1": ".parquet", b"ARROW1": ".arrow"}
# Bytes that text in UTF-8, Latin-1 or the like hardly has; of a compressed file they are a tenth.
CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f\v\b\x1a\x1b"))
# A single file is cut at blank lines into pieces of about this many characters, so that it can be split and
# shuffled. Where there are none, it is cut at a line end, and where there are none either, anywhere.
BLOCK_CHARACTERS = 4096
LINES, ANYWHERE = 8 * BLOCK_CHARACTERS, 64 * BLOCK_CHARACTERS
# bytes: a row of a table is in memory as a whole, as text and as tokens, and one this long is a mistake in the file
LONGEST_ROW = 8 << 20


class Files:
    """Files below one root, which gives them their names. With `on_bad` skip, what cannot be used is left out, and
    `on_skip(where, why)` is told; else it is an error."""

    on_bad: str | None = None

    def __init__(self, root: Path, files: list[Path]) -> None:
        self.root = root
        self.files = files
        self.on_skip: Callable[[str, str], None] = lambda where, why: None

    def bad(self, where: str, why: str, error: UserError) -> None:
        """Raise `error`, or leave out what is at `where`."""
        if self.on_bad != "skip":
            raise error
        self.on_skip(where, why)

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(file.stat().st_size for file in self.files)

    def fingerprint(self) -> str:
        """Return hex digits that change with a file's name or content."""
        whole = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                whole.update(self.relative(file).encode("utf-8", "surrogateescape"))
                whole.update(hashlib.file_digest(stream, "sha256").digest())
        return whole.hexdigest()

    def relative(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else file.as_posix()


def find(path: str) -> tuple[Path, list[Path]]:
    """Return the files that a path names (a file, a folder without its hidden files, or a glob), and their root."""
    given = Path(path).expanduser()
    if given.is_dir():
        files = sorted(file for file in given.rglob("*") if file.is_file())
        return given, [file for file in files if not any(p.startswith(".") for p in file.relative_to(given).parts)]
    if given.is_file():
        return given.parent, [given]
    found = glob.glob(str(given), recursive=True)  # noqa: PTH207 (absolute patterns)
    return Path(glob.escape(str(given))).parent, sorted(Path(file) for file in found if Path(file).is_file())


def suffix(file: Path) -> str:
    """Return what a file is by its first bytes or, if they do not say, by its name."""
    head = _head(file)
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), file.suffix.lower())


def is_text(file: Path) -> bool:
    """Say whether a file may be UTF-8 text, which has no zero byte."""
    return b"\0" not in _head(file)


@contextmanager
def reading(file: Path) -> Iterator[TextIO]:
    """Open a file of UTF-8 text; an error while it is read is a UserError that says where."""
    try:
        with readable(file), file.open(encoding="utf-8-sig") as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise not_utf8(file) from error


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn the error of a file that one may not read into a UserError."""
    try:
        yield
    except PermissionError as error:
        raise UserError(f"{file} cannot be read: no permission.", cure="Leave it out of data.path.") from error


def blocks(stream: TextIO) -> Iterator[str]:
    """Cut a text at blank lines into blocks of at least BLOCK_CHARACTERS; nothing is lost and the last may be shorter.

    A block without a blank line ends at a line end beyond `LINES` characters, a line without an end at `ANYWHERE`.
    """
    block: list[str] = []
    size = 0
    for line in iter(functools.partial(stream.readline, ANYWHERE), ""):
        block.append(line)
        size += len(line)
        blank, ends = not line.strip(), line.endswith("\n")
        if (size >= BLOCK_CHARACTERS and blank) or (size >= LINES and ends) or size >= ANYWHERE:
            yield "".join(block)
            block, size = [], 0
    if any(line.strip() for line in block):
        yield "".join(block)


def text_lines(file: Path) -> list[str]:
    """Return the lines of a file. Raises UserError where there are none, or no text."""
    if not file.is_file():
        raise UserError(f"There is no file at {file} (looked from {Path.cwd()}).")
    try:
        with readable(file), file.open(encoding="utf-8") as stream:
            lines = [line.removesuffix("\n") for line in stream]
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    if not lines:
        raise UserError(f"{file} is empty.")
    return lines


def json_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield what each line of a file says, with the line's number. A line that is not JSON is yielded as a ValueError:
    whoever reads them decides whether that is the end."""
    with readable(file), file.open("rb") as stream:
        for number, line in enumerate(iter(functools.partial(stream.readline, LONGEST_ROW), b""), start=1):
            if line.strip():
                yield number, _json(line, stream)


def _json(line: bytes, stream: BinaryIO) -> Any:
    if len(line) == LONGEST_ROW and not line.endswith(b"\n"):
        while (rest := stream.readline(LONGEST_ROW)) and not rest.endswith(b"\n"):
            pass
        return ValueError(f"it is longer than {LONGEST_ROW:,} bytes")
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return ValueError(f"it is not UTF-8 text: {error.reason} at byte {error.start} of the line")
    except ValueError as error:
        return error
    except RecursionError:
        return ValueError("it is nested too deeply")


def csv_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a CSV file (TSV by its name) as its first line names them, with the number of their last
    line."""
    csv.field_size_limit(LONGEST_ROW)  # its own limit is 128 kB, less than some texts
    with reading(file) as lines:
        table = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        try:
            for row in table:
                yield table.line_num, row
        except csv.Error as error:
            raise UserError(
                f"{file}:{table.line_num} cannot be read as CSV: {error}.", cure="Mend that line."
            ) from error


def not_utf8(file: Path) -> UserError:
    """Return the sentence about a file that is not UTF-8, with the place, or with what it is."""
    head = _head(file)
    controls = len(head) - len(head.translate(None, CONTROL))
    if controls > len(head) / 50 and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return UserError(f"{file} is not text but a binary file.", cure="Leave it out of data.path.")
    return UserError(
        f"{file} is not UTF-8 text: {_bad_byte(file)}.",
        cure=f"Convert it (python devtools/repair_log.py {file} OUT does), or leave it out of data.path.",
    )


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(HEAD)


def _bad_byte(file: Path) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    before = 0
    with file.open("rb") as stream:
        for chunk in iter(functools.partial(stream.read, 1 << 20), b""):
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                return f"{error.reason} at byte {before - waiting + error.start}"
            before += len(chunk)
    return f"it ends within a character, at byte {before - len(decoder.getstate()[0])}"
