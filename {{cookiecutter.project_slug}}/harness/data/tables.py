"""Documents from tables, a row each: JSON lines, CSV, and what Hugging Face `datasets` has saved. `column` is the text.

A row without text in that column stops the preparation, with its file and number, or is left out with on_bad=skip.
"""

import hashlib
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.data import files as on_disk
from harness.data import hub
from harness.data.documents import Document
from harness.data.sources import COLUMN, KINDS, OTHER_GROUPS, FileSource, is_saved, refuse_policy
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
        root, self.found = on_disk.find(path)
        alone = len(self.found) == 1
        super().__init__(root, [file for file in self.found if alone or on_disk.suffix(file) in self.suffixes])

    def check(self) -> None:
        kinds = {OTHER_GROUPS.get(on_disk.suffix(file)) for file in self.found} - {None}
        own = {OTHER_GROUPS[suffix] for suffix in self.suffixes}
        if kinds and not kinds & own:
            group = sorted(map(str, kinds))[0]
            raise UserError(
                f"What lies at data.path={self.path} is {KINDS[group]}, but not for data={self.name}.",
                cure=f"Type {group} data.path={self.path}{COLUMN.get(group, '')}.",
            )
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
    """A data set as `datasets` reads it: a folder of its save_to_disk, parquet and arrow files, a folder as the hub has
    it, or its name there. `config` and `split` (train) choose a part of what has several."""

    name, suffixes = "hf", (".parquet", ".arrow")
    cure = "Name a file, a folder, a glob or a data set of the hub with data.path=PATH."

    def __init__(
        self,
        path: str | None,
        column: str = "text",
        on_bad: str = "error",
        config: str | None = None,
        split: str | None = None,
        revision: str | None = None,
    ) -> None:
        super().__init__(path, column, on_bad)
        self.config, self.split, self.revision = config, split, revision
        self.on_hub = not self.found and hub.is_name(self.path)
        if self.on_hub:
            self.files = [Path(self.path)]
        elif (config or split) and not self.files:  # a folder as the hub has it: JSON lines, say
            self.files = self.found

    def check(self) -> None:
        if self.found and (self.config or self.split):
            FileSource.check(self)
        elif not self.on_hub:
            super().check()

    @property
    def size(self) -> int:
        return 0 if self.on_hub else super().size

    def fingerprint(self) -> str:
        part = "" if self.config is None and self.split is None else f" {self.config} {self.split}"
        if self.on_hub:  # a revision of a repository is named by its content
            commit = hub.data_set(self.path, self.revision).name
            return hashlib.sha256(f"{self.path} {commit} {self.column} {self.on_bad}{part}".encode()).hexdigest()
        return hashlib.sha256(f"{super().fingerprint()}{part}".encode()).hexdigest() if part else super().fingerprint()

    def rows(self, file: Path) -> Iterator[tuple[int, Any]]:
        if file == self.files[0]:  # one table over all files
            yield from enumerate(self._table())

    def _table(self) -> Any:
        import datasets  # takes seconds, and `check` is asked before anything heavy may be imported

        folder = hub.data_set(self.path, self.revision) if self.on_hub else Path(self.path).expanduser()
        split = self.split or "train"
        try:
            if is_saved(folder):
                saved = datasets.load_from_disk(str(folder))
                table = saved[split] if isinstance(saved, datasets.DatasetDict) else saved
            elif self.on_hub or self.config or self.split:
                table = datasets.load_dataset(str(folder), name=self.config, split=split)
            else:
                kind = on_disk.suffix(self.files[0]).removeprefix(".")
                table = datasets.load_dataset(kind, data_files=self._whole(kind), split="train")
        except UserError:
            raise
        except Exception as error:  # pyarrow's, datasets' and the system's errors have no common base
            why = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            raise UserError(
                f"{self.path} cannot be read as a data set: {why}.",
                cure="data.config=NAME and data.split=NAME choose a part of one that has several.",
            ) from error
        return table.select_columns([self.column]) if self.column in table.column_names else table

    def _whole(self, kind: str) -> list[str]:
        """Return the files that can be read to their end; the others are bad."""
        whole = []
        for file in self.files:
            try:
                _read_through(file, kind)
                whole.append(str(file))
            except Exception as error:  # of pyarrow
                why = f"is not a whole {kind} file: {next(iter(str(error).splitlines()), type(error).__name__)}"
                cure = "Fetch or write it again, or leave such files out with data.on_bad=skip."
                self.bad(file.as_posix(), why, UserError(f"{file} {why}.", cure=cure))
        if not whole:
            raise UserError(f"None of the {len(self.files)} files at {self.path} can be read.")
        return whole


def _read_through(file: Path, kind: str) -> None:
    """Raise where a shard cannot be read: `datasets` would say so without its name."""
    if kind == "parquet":
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(file) as table:
            for _ in table.iter_batches():
                pass
