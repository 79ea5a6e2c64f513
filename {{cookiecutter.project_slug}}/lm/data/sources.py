"""Where text comes from. A source yields documents in a fixed order and knows a fingerprint of their content.

    source -> documents -> split -> tokens on disk -> windows -> batches
              (here)       split.py prepare.py        windows.py order.py

A source of one's own is a class with these three methods and a YAML file of four lines in conf/data/.
"""

import glob
import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import UserError

# A single file is cut at blank lines into documents of about this many characters, so that it can be split and
# shuffled.
BLOCK_CHARACTERS = 4096
# Not code that somebody wrote: other packages, tests full of generated data, and the character tables of encodings/,
# an eighth of the text, which a small model learns before it learns any Python.
NOT_LIBRARY = {
    *("site-packages", "dist-packages", "__pycache__"),
    *("test", "tests", "idle_test", "lib2to3", "turtledemo", "encodings"),
}


@dataclass(frozen=True)
class Document:
    """A text that is split, shuffled and ended as one: a file, a block of one large file, or a conversation.

    `learned` are the stretches (start, end) of the text that the loss counts, in order; None for all of it.
    """

    name: str
    text: str
    learned: tuple[tuple[int, int], ...] | None = None

    def parts(self) -> Iterator[tuple[str, bool]]:
        """Yield the text in parts, each with whether the loss counts it."""
        if self.learned is None:
            yield self.text, True
            return
        position = 0
        for start, end in (*self.learned, (len(self.text), len(self.text))):
            yield from (
                (part, counts)
                for part, counts in ((self.text[position:start], False), (self.text[start:end], True))
                if part
            )
            position = end


class Source(Protocol):
    """What `data.source` builds. It may also have `special_tokens`: texts that are one token each."""

    def check(self) -> None:
        """Raise UserError, fast and without reading the content, when there is nothing to read."""

    def fingerprint(self) -> str:
        """Return hex digits that change with the content."""

    def documents(self) -> Iterator[Document]:
        """Yield the documents, in the same order on every machine that has the same content."""


class FileSource:
    """Documents from UTF-8 files: each file one, or one large file in blocks."""

    def __init__(self, root: Path, files: list[Path]) -> None:
        self.root = root
        self.files = files

    def check(self) -> None:
        if not any(file.stat().st_size for file in self.files):
            raise UserError(
                f"There is no text in {self.root}: {len(self.files)} file{'s' * (len(self.files) != 1)}, all empty.",
                cure="Name a file, a folder or a glob with data.path=PATH, or try data=stdlib.",
            )

    def fingerprint(self) -> str:
        whole = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                whole.update(self._name(file).encode("utf-8", "surrogateescape"))
                whole.update(hashlib.file_digest(stream, "sha256").digest())
        return whole.hexdigest()

    def documents(self) -> Iterator[Document]:
        for file in self.files:
            text = _read(file)
            if len(self.files) == 1:
                for number, block in enumerate(blocks(text)):
                    yield Document(f"{self._name(file)}#{number}", block)
            elif text.strip():
                yield Document(self._name(file), text)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else file.as_posix()


class StdlibSource(FileSource):
    """The source files of the running interpreter's standard library."""

    def __init__(self) -> None:
        root = Path(sysconfig.get_path("stdlib"))
        super().__init__(
            root,
            [file for file in sorted(root.rglob("*.py")) if not NOT_LIBRARY & set(file.relative_to(root).parts[:-1])],
        )

    def check(self) -> None:
        if not self.files:
            raise UserError(
                f"This Python comes without the sources of its standard library (looked in {self.root}).",
                cure="Use text of your own: data=text data.path=PATH.",
            )


class TextSource(FileSource):
    """A file, a folder (all its *.txt, *.md, *.py …: every file that is text), or a glob of UTF-8 text."""

    def __init__(self, path: str | None) -> None:
        if path is None:
            raise UserError(
                "data=text needs to know which text.", cure="Name a file, a folder or a glob: data=text data.path=PATH."
            )
        given = Path(path).expanduser()
        if given.is_dir():
            super().__init__(
                given, sorted(file for file in given.rglob("*") if _is_text(file.relative_to(given), file))
            )
        elif given.is_file():
            super().__init__(given.parent, [given])
        else:
            super().__init__(
                Path(glob.escape(str(given))).parent,
                sorted(Path(file) for file in glob.glob(str(given), recursive=True) if Path(file).is_file()),  # noqa: PTH207 (absolute patterns)
            )
        self.path = path

    def check(self) -> None:
        if not self.files:
            raise UserError(
                f"There is no file at data.path={self.path} (looked from {Path.cwd()}).",
                cure="Name a file, a folder or a glob of UTF-8 text, or try data=stdlib.",
            )
        super().check()


def blocks(text: str) -> Iterator[str]:
    """Cut a text at blank lines into blocks of at least BLOCK_CHARACTERS; nothing is lost and the last may be
    shorter."""
    block: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        block.append(line)
        size += len(line)
        if size >= BLOCK_CHARACTERS and not line.strip():
            yield "".join(block)
            block, size = [], 0
    if "".join(block).strip():
        yield "".join(block)


def _is_text(relative: Path, file: Path) -> bool:
    """Hidden files are skipped, and files with a zero byte in their first 4 kB, which UTF-8 text does not have."""
    if any(part.startswith(".") for part in relative.parts) or not file.is_file():
        return False
    with file.open("rb") as stream:
        return b"\0" not in stream.read(4096)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        if file.suffix == ".py":  # a source file that declares another encoding; the standard library has a few
            return file.read_text(encoding="latin-1")
        raise UserError(
            f"{file} is not UTF-8 text: {error.reason} at byte {error.start}.",
            cure=f"Convert it (python devtools/repair_log.py {file} OUT does), or leave it out of data.path.",
        ) from error
