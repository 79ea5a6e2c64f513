"""Captions in a table beside the files that they name: CSV, JSON, JSON lines, or metadata.csv|jsonl in a folder."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.data import files as on_disk
from harness.data.documents import MARK, Document, Medium
from harness.data.tables import RowSource
from harness.errors import UserError
from media.files import NamesFiles, from_file, json_table, plain

METADATA = ("metadata.csv", "metadata.jsonl")  # a folder with one may have other tables, too


class CaptionSource(NamesFiles, RowSource):
    """A row is a caption in `column` and its file, or files, in the columns `files`, relative to the table."""

    name, suffixes = "captions", (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
    cure = "Name the table, or the folder that has a metadata.csv: data.path=PATH."
    cure_of_row = (
        "data.column=NAME is the caption and data.files=NAME its file, relative to the table; data.on_bad=skip leaves "
        "such rows out."
    )

    def __init__(
        self, path: str | None, column: str = "text", files: str | list[str] = "file_name", on_bad: str | None = None
    ) -> None:
        super().__init__(path, column, on_bad or "error")
        self.of_files = [files] if isinstance(files, str) else list(files)
        metadata = [file for file in self.files if file.name in METADATA]
        self.files = metadata or self.files

    def check(self) -> None:
        if not self.files:
            raise UserError(f"There is no table at data.path={self.path} (looked from {Path.cwd()}).", cure=self.cure)

    def rows(self, file: Path) -> Iterator[tuple[int, Any]]:
        self.folder = file.parent
        return on_disk.csv_rows(file) if file.suffix.lower() in (".csv", ".tsv") else json_table(file)

    def document(self, name: str, row: Any) -> Document:
        document, media = super().document(name, row), self.media_of(row)
        return Document(name, MARK * len(media) + plain(document.text), media=media)

    def media_of(self, row: Any) -> tuple[Medium, ...]:
        """Return the media of a row. Raises ValueError."""
        return tuple(from_file(self._file(row, column), self.folder) for column in self.of_files)

    def _file(self, row: Any, column: str) -> str:
        found = row.get(column) if isinstance(row, dict) else None
        if not isinstance(found, str) or not found:
            raise ValueError(f"has no file in the column {column!r}: it has {', '.join(map(repr, row))}")
        return found

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{super().fingerprint()} {self.of_files}".encode()).hexdigest()
