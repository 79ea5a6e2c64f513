"""Documents from tables, a row each: JSON lines, CSV, and what Hugging Face `datasets` has saved. `column` is the text.

A row without text in that column stops the preparation, with its file and number, or is left out with on_bad=skip.
"""

import csv
import hashlib
import json
import logging
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import UserError
from lm.data import files as on_disk
from lm.data.sources import Document, FileSource

log = logging.getLogger(__name__)


class RowSource(FileSource):
    """What the formats share. A format says which files it reads of a folder, and yields their rows with numbers."""

    name: str
    suffixes: tuple[str, ...]

    def __init__(self, path: str | None, column: str = "text", on_bad: str = "error") -> None:
        if path is None:
            raise UserError(f"data={self.name} needs to know which files.", cure="Name them with data.path=PATH.")
        if on_bad not in ("error", "skip"):
            raise UserError(f"data.on_bad={on_bad} is neither error nor skip.")
        self.path, self.column, self.on_bad = path, column, on_bad
        root, found = on_disk.find(path)
        super().__init__(root, [file for file in found if len(found) == 1 or on_disk.suffix(file) in self.suffixes])

    def check(self) -> None:
        if not self.files:
            raise UserError(
                f"There is no {' or '.join(self.suffixes)} file at data.path={self.path} (looked from {Path.cwd()}).",
                cure="Name a file, a folder or a glob.",
            )
        super().check()

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{super().fingerprint()} {self.column} {self.on_bad}".encode()).hexdigest()

    def documents(self) -> Iterator[Document]:
        left_out = 0
        for file in self.files:
            for number, row in self.rows(file):
                text = row.get(self.column) if isinstance(row, dict) else None
                if isinstance(text, str) and not any("\ud800" <= character <= "\udfff" for character in text):
                    yield Document(f"{self._name(file)}:{number}", text)
                elif self.on_bad == "error":
                    raise self._bad(file, number, row)
                else:
                    left_out += 1
        if left_out:
            log.warning("%s rows without text in the column %s were left out.", f"{left_out:,}", self.column)

    def rows(self, file: Path) -> Iterator[tuple[int, Any]]:
        """Yield the rows of a file, each with a number that finds it. What cannot be read is not a dict."""
        raise NotImplementedError

    def _bad(self, file: Path, number: int, row: Any) -> UserError:
        has = f"it has {', '.join(map(repr, row))}" if isinstance(row, dict) else f"it is {reprlib.repr(row)}"
        return UserError(
            f"{file}:{number} has no text in the column {self.column!r}: {has}.",
            cure="Name the column with data.column=NAME, or leave such rows out with data.on_bad=skip.",
        )


class JsonlSource(RowSource):
    """JSON lines: an object a line."""

    name, suffixes = "jsonl", (".jsonl", ".ndjson")

    def rows(self, file: Path) -> Iterator[tuple[int, Any]]:
        with on_disk.reading(file) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except (ValueError, RecursionError):
                        yield number, line


class CsvSource(RowSource):
    """CSV, or TSV by its name, with a first line of column names."""

    name, suffixes = "csv", (".csv", ".tsv")

    def rows(self, file: Path) -> Iterator[tuple[int, Any]]:
        csv.field_size_limit(2**31 - 1)  # its own limit is 128 kB, less than some texts
        with on_disk.reading(file) as lines:
            table = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
            for row in table:
                yield table.line_num, row


class HfSource(RowSource):
    """A folder written by `datasets`' save_to_disk (of its splits, `train`), or parquet and arrow files."""

    name, suffixes = "hf", (".parquet", ".arrow")

    def documents(self) -> Iterator[Document]:
        self._mapped = self._open()
        return super().documents()

    def rows(self, file: Path) -> Iterator[tuple[int, Any]]:
        if file == self.files[0]:  # one table over all files
            yield from enumerate(self._mapped)

    def _open(self) -> Any:
        import datasets  # takes seconds, and `check` is asked before anything heavy may be imported

        folder = Path(self.path).expanduser()
        try:
            if any(all((folder / name).is_file() for name in names) for names in on_disk.SAVED):
                saved = datasets.load_from_disk(str(folder))
                table = saved["train"] if isinstance(saved, datasets.DatasetDict) else saved
            else:
                kind = on_disk.suffix(self.files[0]).removeprefix(".")
                table = datasets.load_dataset(kind, data_files=[str(file) for file in self.files], split="train")
        except Exception as error:  # pyarrow's, datasets' and the system's errors have no common base
            raise UserError(f"{self.path} cannot be read as a data set: {error}.") from error
        return table.select_columns([self.column]) if self.column in table.column_names else table
