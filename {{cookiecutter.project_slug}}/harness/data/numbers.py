"""Documents as numbers on disk, written as a stream: what is in memory does not grow with the text.

documents -> batches of about a megabyte -> numbers (all cores) -> appended to the files of each split

    train.bin            the numbers
    train.ends.bin       where each document ends, counted in numbers, as int64
    train.loss_mask.bin  a byte for each number: does the loss count it? Only where it does not count all of them
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.data.documents import Document, Source
from harness.data.growing import GrowingFiles
from harness.data.material import Material
from harness.data.split import SPLITS, Sample
from harness.data.stream import ahead, batches
from harness.telemetry.meter import Meter

log = logging.getLogger(__name__)

BATCH_BYTES = 1 << 20  # of text encoded at a time: enough for many cores; the numbers of it take about 30 MB
SAVE_SECONDS = 5.0
DOCUMENT_COST = 64  # bytes that a document takes besides its text, so that a batch of empty ones ends, too


@dataclass(frozen=True)
class Numbers:
    """A folder of them. `meta` counts documents, numbers and bytes of each split and says the `dtype`; `damage` says
    what was wrong with the folder that this one has just replaced."""

    folder: Path
    meta: dict[str, Any]
    damage: str = ""

    @property
    def dtype(self) -> str:
        return str(self.meta["dtype"])

    def numbers(self, split: str) -> Path:
        """Return the file of `train` or `val`."""
        return self.folder / f"{split}.bin"

    def ends(self, split: str) -> Path:
        """Return the file that says where each document ends."""
        return self.folder / f"{split}.ends.bin"

    def loss_mask(self, split: str) -> Path | None:
        """Return the file that says which numbers the loss counts, None where it counts all."""
        file = self.folder / f"{split}.loss_mask.bin"
        return file if file.is_file() else None


@dataclass
class Progress:
    """How far an encoding is. `total` is the text's size in bytes, `distinct` how many numbers there are to choose
    from; `documents` and `done` (bytes) are what is written. Of a split, `bytes` is the text that the loss counts."""

    total: int
    distinct: int
    documents: int = 0
    done: int = 0
    splits: dict[str, dict[str, int]] = field(
        default_factory=lambda: {split: {"documents": 0, "numbers": 0, "bytes": 0} for split in SPLITS}
    )

    @property
    def dtype(self) -> str:
        return "uint16" if self.distinct <= 2**16 else "uint32"

    def counts(self, unit: str) -> dict[str, Any]:
        """Return what a manifest says of it: the `dtype`, and what each split has, its numbers being so called."""
        return {
            "dtype": self.dtype,
            **{
                split: {"documents": counts["documents"], unit: counts["numbers"], "bytes": counts["bytes"]}
                for split, counts in self.splits.items()
            },
        }


class Row(NamedTuple):
    """A document as it is written: `mask` is None where the loss counts all of `ids`; sizes are in bytes of text."""

    split: str
    ids: list[int]
    mask: list[bool] | None
    size: int
    counted: int


Encode = Callable[[list[tuple[str, Document]]], list[Row]]


def prepare(
    material: Material, folder: Path, begin: Callable[[Sample], int], encoder: Callable[[], Encode], *, sample: int
) -> Progress:
    """Write the files, going on with what an earlier attempt left in `folder`.

    `begin` makes in `folder` what encoding needs, from a sample of so many bytes, and returns how many numbers there
    are; `encoder` reads it.
    """
    with GrowingFiles(folder) as files:
        if files.state is None:
            found = material.survey(sample, folder / "skipped.jsonl")
            progress = Progress(found.total, begin(found.sample))
            files.save(asdict(progress))
        else:
            progress = Progress(**files.state)
            log.info("Going on after %s documents that are prepared already.", f"{progress.documents:,}")
        append(material.documents(), encoder(), files, progress)
    return progress


def write(source: Source, split: str, folder: Path, encode: Encode, distinct: int) -> Progress:
    """Write all documents of `source` to `folder`, as those of `split`."""
    progress = Progress(getattr(source, "size", 0), distinct)
    with GrowingFiles(folder) as files:
        append(((split, document) for document in source.documents()), encode, files, progress)
    return progress


def append(documents: Iterable[tuple[str, Document]], encode: Encode, files: GrowingFiles, progress: Progress) -> None:
    """Append what `progress` does not have yet of the documents to the files of their split."""
    rest = batches(islice(documents, progress.documents, None), _size_in_memory, BATCH_BYTES)
    with Meter("Tokenizing", progress.total, progress.done) as meter:
        for split in SPLITS:  # a split without a document has its files, too
            files.append(f"{split}.bin", b"")
            files.append(f"{split}.ends.bin", b"")
        for rows in ahead(encode, rest):
            for row in rows:
                _write(files, row, progress)
            size = sum(row.size for row in rows)
            progress.documents, progress.done = progress.documents + len(rows), progress.done + size
            meter.advance(size)
            files.save(asdict(progress), every=SAVE_SECONDS)
        files.save(asdict(progress))


def read(file: Path, dtype: str, stretches: list[tuple[int, int]]) -> npt.NDArray[Any]:
    """Return the numbers (or the bools of a mask) of some stretches, one after the other; numbers as int64."""
    # Opened at each access: an open file cannot be pickled to a spawned worker. Read and not mapped, which takes five
    # times as long to set up as a row to read.
    size = np.dtype(dtype).itemsize
    parts = [np.fromfile(file, dtype, count=end - start, offset=start * size) for start, end in stretches]
    found = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return found if found.dtype == bool else found.astype(np.int64)


def _write(files: GrowingFiles, row: Row, progress: Progress) -> None:
    counts, mask = progress.splits[row.split], f"{row.split}.loss_mask.bin"
    if row.mask is not None and mask not in files.sizes:
        # The loss counted every number so far, which is only now worth a file.
        for start in range(0, counts["numbers"], BATCH_BYTES):
            files.append(mask, b"\1" * min(BATCH_BYTES, counts["numbers"] - start))
    if row.mask is not None or mask in files.sizes:
        files.append(mask, b"\1" * len(row.ids) if row.mask is None else bytes(row.mask))
    files.append(f"{row.split}.bin", np.array(row.ids, dtype=progress.dtype).tobytes())
    counts["documents"] += 1
    counts["numbers"] += len(row.ids)
    counts["bytes"] += row.counted
    files.append(f"{row.split}.ends.bin", np.int64(counts["numbers"]).tobytes())


def _size_in_memory(item: tuple[str, Document]) -> int:
    return DOCUMENT_COST + len(item[1].text)
