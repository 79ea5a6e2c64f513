"""Documents that are numbers already: files of them, as nanoGPT writes (.bin) or numpy (.npy)."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.data import files as on_disk
from harness.data.documents import Document
from harness.data.numbers import Row
from harness.data.sources import FileSource, refuse_policy
from harness.errors import UserError

LONGEST = 1 << 20  # numbers of a document; without an end before that it is cut


class ArraySource(FileSource):
    """Documents that end with a number of their own, from .bin files of `dtype` and .npy files. Their text is the bytes
    of the numbers, which `rows` reads again."""

    suffixes = (".bin", ".npy")
    end, below = 0, 1 << 32

    def __init__(self, path: str | None, dtype: str = "uint16", on_bad: str | None = None) -> None:
        refuse_policy(on_bad)
        if path is None:
            raise UserError("data=tokens needs to know which files.", cure="Name a .bin or .npy file: data.path=PATH.")
        if dtype not in ("uint16", "uint32"):
            raise UserError(f"data.dtype={dtype} is neither uint16 nor uint32.")
        self.path, self.dtype, self.on_bad = path, dtype, on_bad
        root, found = on_disk.find(path)
        super().__init__(root, [file for file in found if file.suffix in self.suffixes])

    def use(self, *, end: int, below: int) -> None:
        """Say which number ends a document, and what all have to be below."""
        self.end, self.below = end, below

    def check(self) -> None:
        if not self.files:
            raise UserError(
                f"There is no .bin or .npy file at data.path={self.path} (looked from {Path.cwd()}).",
                cure="Name a file, a folder or a glob of tokens; text is data=text.",
            )
        super().check()
        for file in self.files:
            self._numbers(file)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{super().fingerprint()} {self.dtype}".encode()).hexdigest()

    def rows(self, batch: list[tuple[str, Document]]) -> list[Row]:
        """Return the numbers of documents; the sizes of their text are left to whoever can read them."""
        return [
            Row(split, np.frombuffer(document.text.encode("latin-1"), "<u4").tolist(), None, len(document.text), 0)
            for split, document in batch
        ]

    def _documents(self, file: Path) -> Iterator[Document]:
        numbers, start = self._numbers(file), 0
        while start < len(numbers):
            chunk = numbers[start : start + LONGEST]
            ends = np.flatnonzero(chunk == self.end) + 1
            last = int(ends[-1]) if len(ends) else len(chunk)
            if start + len(chunk) == len(numbers):
                last = len(chunk)
            borders = [0, *(int(end) for end in ends if end < last), last]
            for begin, finish in zip(borders[:-1], borders[1:], strict=True):
                yield from self._document(file, start + begin, chunk[begin:finish])
            start += last

    def _document(self, file: Path, start: int, numbers: npt.NDArray[np.unsignedinteger]) -> Iterator[Document]:
        if (wrong := np.flatnonzero(numbers >= self.below)).size:
            where = f"{file}, position {start + int(wrong[0]):,}"
            why = f"is token {int(numbers[wrong[0]]):,}, beyond the tokenizer's {self.below:,}"
            cure = "Name the tokenizer that they were made with, or their type: data.dtype=uint32."
            self.bad(where, why, UserError(f"{where}: it {why}.", cure=cure))
        else:
            yield Document(f"{self.relative(file)}@{start}", numbers.astype("<u4").tobytes().decode("latin-1"))

    def _numbers(self, file: Path) -> npt.NDArray[np.unsignedinteger]:
        """Map a file. Raises UserError for what is not a row of whole numbers."""
        try:
            found = np.load(file, mmap_mode="r") if file.suffix == ".npy" else np.memmap(file, self.dtype, "r")
        except ValueError as error:
            raise UserError(f"{file} cannot be read as {self.dtype}: {error}.", cure="Is data.dtype right?") from error
        if found.ndim != 1 or found.dtype.kind != "u":
            raise UserError(f"{file} is not a row of unsigned whole numbers: it is {found.dtype} {found.shape}.")
        return found
