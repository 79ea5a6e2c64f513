"""Documents from tables, a row each: JSON lines, CSV, and what Hugging Face `datasets` has saved. `column` is the text.

A row without text in that column stops the preparation, with its file and number, or is left out with on_bad=skip.
"""

import hashlib
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.data import files as on_disk
from harness.data.documents import Document
from harness.data.sources import FileSource, is_saved, refuse_policy
from harness.errors import UserError


class RowSource(FileSource):
    """What the formats share. A format says which files it reads of a folder, yields their rows with numbers, and makes
    a document of a row."""

    name: str
    suffixes: tuple[str, ...]
    cure = "Name a file, a folder or a glob with data.path=PATH."
    cure_of_row = "Name the column with data.column=NAME, or leave such rows out with data.on_bad=skip."

    def __init__(self, path: str | None, column: str = "text", on_bad: str = "error") -> None:
        if path is None:
            raise UserError(f"data={self.name} needs to know which files.", cure=self.cure)
        refuse_policy(on_bad)
        self.path, self.column, self.on_bad = path, column, on_bad
        root, found = on_disk.find(path)
        super().__init__(root, [file for file in found if len(found) == 1 or on_disk.suffix(file) in self.suffixes])

    def check(self) -> None:
        if not self.files:
            raise UserError(
                f"There is no {' or '.join(self.suffixes)} file at data.path={self.path} (looked from {Path.cwd()}).",
                cure=self.cure,
            )
        super().check()

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{super().fingerprint()} {self.column} {self.on_bad}".encode()).hexdigest()

    def documents(self) -> Iterator[Document]:
        for file in self.files:
            for number, row in self._readable(file):
                try:
                    document = self.document(f"{self.relative(file)}:{number}", row)
                except ValueError as error:
                    where, why = f"{file}:{number}", str(error)
                    self.bad(where, why, UserError(f"{where} {why}.", cure=self.cure_of_row))
                else:
                    yield document

    def _readable(self, file: Path) -> Iterator[tuple[int, Any]]:
        try:
            yield from self.rows(file)
        except UserError as error:  # the rest of it cannot be read
            self.bad(file.as_posix(), error.what, error)

    def rows(self, file: Path) -> Iterator[tuple[int, Any]]:
        """Yield the rows of a file, each with a number that finds it. What cannot be read is not a dict."""
        raise NotImplementedError

    def document(self, name: str, row: Any) -> Document:
        """Return a row as a document. Raises ValueError, with what is wrong with the row."""
        text = row.get(self.column) if isinstance(row, dict) else None
        if isinstance(text, str) and not any("\ud800" <= character <= "\udfff" for character in text):
            return Document(name, text)
        has = f"it has {', '.join(map(repr, row))}" if isinstance(row, dict) else f"it is {reprlib.repr(row)}"
        has = f"it is not JSON ({row})" if isinstance(row, ValueError) else has
        raise ValueError(f"has no text in the column {self.column!r}: {has}")


class JsonlSource(RowSource):
    """JSON lines: an object a line."""

    name, suffixes = "jsonl", (".jsonl", ".ndjson")

    def rows(self, file: Path) -> Iterator[tuple[int, Any]]:
        return on_disk.json_rows(file)


class CsvSource(RowSource):
    """CSV, or TSV by its name, with a first line of column names."""

    name, suffixes = "csv", (".csv", ".tsv")

    def rows(self, file: Path) -> Iterator[tuple[int, Any]]:
        return on_disk.csv_rows(file)


class HfSource(RowSource):
    """A folder written by `datasets`' save_to_disk (of its splits, `train`), or parquet and arrow files."""

    name, suffixes = "hf", (".parquet", ".arrow")

    def rows(self, file: Path) -> Iterator[tuple[int, Any]]:
        if file == self.files[0]:  # one table over all files
            yield from enumerate(self._table())

    def _table(self) -> Any:
        import datasets  # takes seconds, and `check` is asked before anything heavy may be imported

        folder = Path(self.path).expanduser()
        try:
            if is_saved(folder):
                saved = datasets.load_from_disk(str(folder))
                table = saved["train"] if isinstance(saved, datasets.DatasetDict) else saved
            else:
                kind = on_disk.suffix(self.files[0]).removeprefix(".")
                table = datasets.load_dataset(kind, data_files=[str(file) for file in self.files], split="train")
        except Exception as error:  # pyarrow's, datasets' and the system's errors have no common base
            raise UserError(f"{self.path} cannot be read as a data set: {error}.") from error
        return table.select_columns([self.column]) if self.column in table.column_names else table
