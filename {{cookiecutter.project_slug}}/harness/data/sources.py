"""Documents from files of text, and the sentence for files that are something else."""

import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.data import files as on_disk
from harness.data.documents import Document
from harness.data.files import Files
from harness.errors import UserError

# bytes: a larger file is cut like a single one, for a document is in memory as a whole, as text and as tokens
LARGEST_DOCUMENT = 4 << 20
# Not code that somebody wrote: other packages, tests full of generated data, and the character tables of encodings/,
# an eighth of the text, which a small model learns before it learns any Python.
NOT_LIBRARY = {
    *("site-packages", "dist-packages", "__pycache__"),
    *("test", "tests", "idle_test", "lib2to3", "turtledemo", "encodings"),
}
# Suffixes of files that are not text to train on as it stands, and what reads them.
OTHER_GROUPS = {
    ".jsonl": "data=jsonl", ".ndjson": "data=jsonl", ".csv": "data=csv", ".tsv": "data=csv",
    ".parquet": "data=hf", ".arrow": "data=hf", ".npy": "data=tokens",
}  # fmt: skip
KINDS = {
    "data=csv": "a table", "data=jsonl": "a table", "data=hf": "a data set", "data=chat": "conversations",
    "data=tokens": "an array of numbers",
}  # fmt: skip
COLUMN = dict.fromkeys(("data=csv", "data=jsonl", "data=hf"), " data.column=NAME")  # what those groups need to know
# By these `datasets` marks a folder that its save_to_disk has written.
SAVED = (("dataset_info.json", "state.json"), ("dataset_dict.json",))


class FileSource(Files):
    """Documents from UTF-8 files: each file one; a large one, or one that is alone, in blocks."""

    def check(self) -> None:
        if not self.size:
            raise UserError(
                f"There is no text in {self.root}: {len(self.files)} file{'s' * (len(self.files) != 1)}, all empty.",
                cure="Name a file, a folder or a glob with data.path=PATH, or try data=stdlib.",
            )

    def documents(self) -> Iterator[Document]:
        for file in self.files:
            try:
                yield from self._documents(file)
            except UserError as error:  # the rest of it cannot be read
                self.bad(file.as_posix(), error.what, error)

    def _documents(self, file: Path) -> Iterator[Document]:
        if len(self.files) == 1 or file.stat().st_size > LARGEST_DOCUMENT:
            with on_disk.reading(file) as stream:
                for number, block in enumerate(on_disk.blocks(stream)):
                    yield Document(f"{self.relative(file)}#{number}", block)
        elif (text := _read(file)).strip():
            yield Document(self.relative(file), text)


class StdlibSource(FileSource):
    """The source files of the running interpreter's standard library."""

    def __init__(self) -> None:
        root = Path(sysconfig.get_path("stdlib"))
        files = sorted(root.rglob("*.py"))
        super().__init__(root, [file for file in files if not NOT_LIBRARY & set(file.relative_to(root).parts[:-1])])

    def check(self) -> None:
        if not self.files:
            raise UserError(
                f"This Python comes without the sources of its standard library (looked in {self.root}).",
                cure="Use text of your own: data=text data.path=PATH.",
            )


class TextSource(FileSource):
    """A file, a folder (all its *.txt, *.md, *.py …: every file that is text), or a glob of UTF-8 text."""

    def __init__(self, path: str | None, on_bad: str | None = None) -> None:
        refuse_policy(on_bad)
        self.on_bad = on_bad
        if path is None:
            raise UserError(
                "data=text needs to know which text.", cure="Name a file, a folder or a glob: data=text data.path=PATH."
            )
        self.path = path
        root, self.found = on_disk.find(path)
        alone = len(self.found) == 1
        super().__init__(root, [file for file in self.found if alone or on_disk.is_text(file)])

    def check(self) -> None:
        if not self.found:
            raise UserError(
                f"There is no file at data.path={self.path} (looked from {Path.cwd()}).",
                cure="Name a file, a folder or a glob of UTF-8 text, or try data=stdlib.",
            )
        if group := group_for(Path(self.path).expanduser(), self.found):
            raise UserError(
                f"What lies at data.path={self.path} is {KINDS[group]}: data=text would train on its markup.",
                cure=f"Type {group} data.path={self.path}{COLUMN.get(group, '')}, or name the text in it with a glob: "
                f"data.path='{self.path}/**/*.txt'.",
            )
        if len(self.found) == 1 and not on_disk.is_text(self.found[0]):
            raise on_disk.not_utf8(self.found[0])
        if not self.files:
            raise UserError(
                f"None of the {len(self.found)} files at data.path={self.path} is text: they are binary.",
                cure="Name a file, a folder or a glob of UTF-8 text.",
            )
        super().check()


def refuse_policy(on_bad: str | None) -> None:
    """Raise UserError for what is not a policy; None is error."""
    if on_bad not in (None, "error", "skip"):
        raise UserError(f"data.on_bad={on_bad} is neither error nor skip.")


def group_for(path: Path, files: Iterable[Path]) -> str | None:
    """Return the group that reads most of the bytes at `path`, None where they are for data=text."""
    if is_saved(path):
        return "data=hf"
    bytes_by_group: Counter[str | None] = Counter()
    first: dict[str | None, Path] = {}
    for file in files:
        group = OTHER_GROUPS.get(on_disk.suffix(file))
        bytes_by_group[group] += file.stat().st_size
        first.setdefault(group, file)
    group = max(bytes_by_group, key=lambda name: bytes_by_group[name], default=None)
    return "data=chat" if group == "data=jsonl" and _is_chat(first[group]) else group


def is_saved(path: Path) -> bool:
    """Say whether `datasets` has written a folder."""
    return any(all((path / name).is_file() for name in names) for names in SAVED)


def _is_chat(file: Path) -> bool:
    _, record = next(on_disk.json_rows(file), (0, None))
    return isinstance(record, dict) and bool({"messages", "conversations"} & set(record))


def _read(file: Path) -> str:
    try:
        with on_disk.readable(file):
            return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        if file.suffix == ".py":  # a source file that declares another encoding; the standard library has a few
            return file.read_text(encoding="latin-1")
        raise on_disk.not_utf8(file) from error
