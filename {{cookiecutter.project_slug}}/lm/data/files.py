"""Which files a path names, what is in them, and their text as a stream: never a whole file of unknown size at once."""

import codecs
import functools
import glob
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from harness.errors import UserError

HEAD = 4096  # bytes that decide what a file is
# Suffixes of files that are not text to train on as it stands, and what reads them.
OTHER_GROUPS = {
    ".jsonl": "data=jsonl", ".ndjson": "data=jsonl", ".csv": "data=csv", ".tsv": "data=csv",
    ".parquet": "data=hf", ".arrow": "data=hf",
}  # fmt: skip
# By these `datasets` marks a folder that its save_to_disk has written.
SAVED = (("dataset_info.json", "state.json"), ("dataset_dict.json",))
MAGIC = {b"PAR1": ".parquet", b"ARROW1": ".arrow"}
# Bytes that text in UTF-8, Latin-1 or the like hardly has; of a compressed file they are a tenth.
CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f\v\b\x1a\x1b"))


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


def group_for(path: Path, files: Iterable[Path]) -> str | None:
    """Return the group that reads most of the bytes at `path`, None where they are for data=text."""
    if any(all((path / name).is_file() for name in names) for names in SAVED):
        return "data=hf"
    bytes_by_group: Counter[str | None] = Counter()
    first: dict[str, Path] = {}
    for file in files:
        group = OTHER_GROUPS.get(suffix(file))
        bytes_by_group[group] += file.stat().st_size
        if group:
            first.setdefault(group, file)
    group = max(bytes_by_group, key=lambda name: bytes_by_group[name], default=None)
    return "data=chat" if group == "data=jsonl" and _is_chat(first[group]) else group


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
        with file.open(encoding="utf-8-sig") as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise not_utf8(file) from error
    except PermissionError as error:
        raise UserError(f"{file} cannot be read: no permission.", cure="Leave it out of data.path.") from error


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


def _is_chat(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8-sig") as stream:
            record = json.loads(stream.readline(1 << 20))
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and bool({"messages", "conversations"} & set(record))
