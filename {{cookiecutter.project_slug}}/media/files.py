"""Media that a table or a conversation names: files beside it, or bytes in it. What cannot be had is a ValueError."""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.data import files as on_disk
from harness.data.documents import MARK, Medium

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif", ".ppm", ".pgm"}
SOUNDS = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".m4a", ".aac", ".webm", ".wma"}


class NamesFiles:
    """Before a source of rows in its bases: its fingerprint covers the files that `media_of` finds in them, too."""

    def fingerprint(self) -> str:
        source: Any = self
        whole = hashlib.sha256(super().fingerprint().encode())  # type: ignore[misc]
        for table in source.files:
            for _, row in source._readable(table):
                try:
                    for medium in source.media_of(row):
                        whole.update(hashlib.sha256(medium.data).digest())
                except ValueError:  # said when it is read for its text
                    whole.update(b"-")
        return whole.hexdigest()


def kind_of(name: str) -> str:
    """Return the kind of a file by its name."""
    suffix = Path(name).suffix.lower()
    if suffix in PICTURES or suffix in SOUNDS:
        return "image" if suffix in PICTURES else "audio"
    raise ValueError(f"names {name!r}, which is neither a picture nor a sound by its name")


def from_file(name: str, folder: Path, kind: str | None = None) -> Medium:
    """Return the medium in a file, whose name is relative to `folder`, or a data: URI."""
    if name.startswith("data:"):
        return from_base64(kind or "image", name.partition(",")[2], "a data: URI")
    if "://" in name:
        raise ValueError(f"names {name!r}: nothing is fetched from a network; fetch it and name the file")
    kind, file = kind or kind_of(name), folder / name
    try:
        return Medium(kind, file.read_bytes(), str(file))
    except OSError as error:
        raise ValueError(f"names {file}, which cannot be read: {error.strerror or error}") from error


def from_base64(kind: str, text: Any, name: str) -> Medium:
    try:
        return Medium(kind, base64.b64decode(str(text), validate=True), name)
    except binascii.Error as error:
        raise ValueError(f"has {name} that is not base64: {error}") from error


def from_cell(kind: str, cell: Any, folder: Path, name: str) -> list[Medium]:
    """Return the media of a cell: {"bytes", "path"} as the hub has them, the name of a file, a list of them, or
    none."""
    if cell is None:
        return []
    if isinstance(cell, list):
        return [medium for each in cell for medium in from_cell(kind, each, folder, name)]
    if isinstance(cell, str):
        return [from_file(cell, folder, kind)]
    if not isinstance(cell, dict) or not (cell.get("bytes") or cell.get("path")):
        raise ValueError(f"has no {name} where one is meant to be")
    if cell.get("bytes"):
        return [Medium(kind, bytes(cell["bytes"]), cell.get("path") or name)]
    return [from_file(str(cell["path"]), folder, kind)]


def json_table(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield the rows of JSON lines or of a JSON list, with their numbers. A list is in memory as a whole."""
    if file.suffix.lower() != ".json":
        yield from on_disk.json_rows(file)
        return
    try:
        with on_disk.readable(file):
            table = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        table = [ValueError(f"is not JSON: {error}")]
    yield from enumerate(table if isinstance(table, list) else [table], start=1)


def plain(text: str) -> str:
    """Return a text in which nothing is taken for the place of a medium."""
    return text.replace(MARK, "\ufffd")
