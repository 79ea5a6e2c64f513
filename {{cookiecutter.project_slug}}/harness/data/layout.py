"""Which stretches of a file of numbers each row has: arithmetic on positions and ends of documents, nothing is read.

    Windows   documents follow one another, cut wherever a row ends
    Apart     the same rows, cut at the ends of documents, too: a stretch is of one document
    Alone     a document each, cut at the length of a row
    BestFit   whole documents, placed so that little is padded; only one that is longer than a row is cut
    Sliding   rows that overlap, so that a number is predicted from many before it: for scoring

A row is a list of (start, end), together at most `length` numbers. It is a function of the ends and the length alone,
so that the order of training knows rows by their index, and a resumed run finds the same ones.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from harness.data.best_fit import Stretch, pieces_of, placed
from harness.data.numbers import Numbers
from harness.errors import UserError

log = logging.getLogger(__name__)

BUFFER = 1 << 16  # pieces that are placed together: more would waste less, and take longer

Packing = bool | Literal["document", "best_fit"]
APART = ("document", "best_fit")  # documents of a row do not see one another


class Waste(NamedTuple):
    """Of so many documents in so many rows: how many are cut, how many numbers that loses, how many are padding."""

    documents: int
    rows: int
    cut: int
    lost: int
    padding: int


class Layout(Protocol):
    """`apart`: each stretch is of one document, which must not see the others of its row."""

    length: int
    apart: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> list[Stretch]: ...

    def waste(self) -> Waste | None:
        """Count what is cut and padded; None where nothing is."""


class Windows:
    """Row i is [i * (length - 1), i * (length - 1) + length): one number overlaps, so that each but the first is
    predicted once. What does not fill a row at the end is dropped unless `keep_last`."""

    apart = False

    def __init__(self, total: int, length: int, *, keep_last: bool = False) -> None:
        self.total, self.length = total, length
        steps = max(0, total - 1)
        self.size = -(-steps // (length - 1)) if keep_last else steps // (length - 1)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> list[Stretch]:
        start = index * (self.length - 1)
        return [(start, min(start + self.length, self.total))]

    def waste(self) -> Waste | None:
        return None


class Apart(Windows):
    """The rows of Windows, cut at the ends of documents."""

    apart = True

    def __init__(self, ends: Path, total: int, length: int, *, keep_last: bool = False) -> None:
        super().__init__(total, length, keep_last=keep_last)
        self.ends = ends

    def __getitem__(self, index: int) -> list[Stretch]:
        [(start, end)] = super().__getitem__(index)
        ends = read_ends(self.ends)
        first, last = np.searchsorted(ends, [start, end - 1], side="right")
        borders = [start, *ends[first:last].tolist(), end]
        return list(zip(borders[:-1], borders[1:], strict=True))


class Alone:
    """Row i is document i, whose end is lost where it is longer than a row."""

    apart = False

    def __init__(self, ends: Path, length: int) -> None:
        self.ends, self.length = ends, length
        self.size = len(read_ends(ends))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> list[Stretch]:
        ends = read_ends(self.ends)
        start, end = int(ends[index - 1]) if index else 0, int(ends[index])
        return [(start, min(end, start + self.length))]

    def waste(self) -> Waste:
        sizes = np.diff(read_ends(self.ends), prepend=0)
        over, under = (sizes - self.length).clip(min=0), (self.length - sizes).clip(min=0)
        return Waste(self.size, self.size, int((over > 0).sum()), int(over.sum()), int(under.sum()))


class BestFit:
    """Documents by decreasing length, each into the row that it fills best, from a buffer of `BUFFER` at a time (Ding
    et al., "Fewer Truncations Improve Language Modeling", 2024). A document longer than a row is cut into rows, which
    overlap by one number, and a rest that is placed like a document."""

    apart = True

    def __init__(self, ends: Path, length: int) -> None:
        self.length = length
        sizes = np.diff(read_ends(ends), prepend=0)
        self.documents, self.cut = len(sizes), int((sizes > length).sum())
        pieces = pieces_of(read_ends(ends), length)
        rows = [row for start in range(0, len(pieces), BUFFER) for row in placed(pieces[start:][:BUFFER], length)]
        # As arrays: millions of tuples would take ten times the memory, in each loader process.
        self.stretches = np.array([stretch for row in rows for stretch in row], dtype=np.int64).reshape(-1, 2)
        self.borders = np.cumsum([0, *map(len, rows)])

    def __len__(self) -> int:
        return len(self.borders) - 1

    def __getitem__(self, index: int) -> list[Stretch]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        chosen = self.stretches[self.borders[index] : self.borders[index + 1]].tolist()
        return [(start, end) for start, end in chosen]

    def waste(self) -> Waste:
        used = int((self.stretches[:, 1] - self.stretches[:, 0]).sum())
        return Waste(self.documents, len(self), self.cut, 0, len(self) * self.length - used)


class Sliding:
    """In each stretch of `text` a row begins `stride` numbers after the one before, up to the one that reaches its end.
    Of row i the first `seen(i)` numbers were in the row before: the others come after at least length - stride."""

    apart = False

    def __init__(self, text: Sequence[Stretch], length: int, stride: int) -> None:
        self.length, self.stride = length, stride
        self.text = np.array(text, dtype=np.int64).reshape(-1, 2)
        sizes = self.text[:, 1] - self.text[:, 0]
        self.until = np.cumsum(1 + (-(-(sizes - length) // stride)).clip(min=0))  # rows of all stretches up to this one

    def __len__(self) -> int:
        return int(self.until[-1]) if len(self.until) else 0

    def __getitem__(self, index: int) -> list[Stretch]:
        which, before = self._place(index)
        begin, end = (self.text[which] + (before * self.stride, 0)).tolist()
        return [(begin, min(begin + self.length, end))]

    @classmethod
    def over(cls, numbers: Numbers, split: str, length: int, stride: int, *, across: bool) -> "Sliding":
        """Return the rows of a split. `across`: they go from one document into the next, else each has its own."""
        ends = read_ends(numbers.ends(split)).tolist()
        text = [(0, ends[-1] if ends else 0)] if across else [*zip([0, *ends[:-1]], ends, strict=False)]
        return cls(text, length, stride)

    def seen(self, index: int) -> int:
        return self.length - self.stride if self._place(index)[1] else 0

    def waste(self) -> Waste | None:
        return None

    def _place(self, index: int) -> tuple[int, int]:
        """Return which stretch row `index` is of, and how many of its rows come before."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = int(np.searchsorted(self.until, index, side="right"))
        return which, index - (int(self.until[which - 1]) if which else 0)


def choose(packing: Packing, numbers: Numbers, split: str, length: int, *, keep_last: bool) -> Layout:
    """Return the layout that `data.packing` names, and say what it cuts and pads."""
    ends, total = numbers.ends(split), numbers.numbers(split).stat().st_size // np.dtype(numbers.dtype).itemsize
    if packing is True:
        return Windows(total, length, keep_last=keep_last)
    if packing == "document":
        return Apart(ends, total, length, keep_last=keep_last)
    chosen = BestFit(ends, length) if packing else Alone(ends, length)
    if (waste := chosen.waste()).rows:
        lost = f", which loses {waste.lost:,} of their tokens" if waste.lost else ""
        log.info(
            "%s: %s documents in %s rows; %s are cut at %s tokens%s; %s of all positions are padding.",
            *(split, f"{waste.documents:,}", f"{waste.rows:,}", f"{waste.cut:,}", f"{length:,}", lost),
            f"{waste.padding / (waste.rows * length):.1%}",
        )
    return chosen


def refuse_unended(numbers: Numbers, split: str, end: int | None) -> None:
    """Raise UserError unless each document ends with the number for that: a model learns from it where to stop."""
    ends, file = read_ends(numbers.ends(split)), numbers.numbers(split)
    last = np.memmap(file, dtype=numbers.dtype, mode="r")[ends - 1] if len(ends) else ends
    if (wrong := np.flatnonzero(last != end)).size:
        raise UserError(
            f"{wrong.size:,} of {len(ends):,} documents in {file.as_posix()} do not end with token {end}, which ends a "
            f"text; the first is document {wrong[0]:,}.",
            cure="Remove that folder, so that it is prepared again.",
        )


def read_ends(file: Path) -> npt.NDArray[np.int64]:
    """Return where each document ends. Mapped anew each time: a mapping cannot be pickled to a spawned worker."""
    return np.memmap(file, dtype=np.int64, mode="r") if file.stat().st_size else np.zeros(0, np.int64)
