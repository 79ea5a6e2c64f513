"""From documents to files of tokens, as a stream that `kill -9` cannot make begin again.

    documents -> batches of about a megabyte -> tokens (all cores) -> appended to the files of each split
                                                                      every few seconds: fsync, then the journal

The journal says how far the files are whole. A second attempt cuts them there, passes over as many documents and goes
on: the files are the same as without the kill.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import numpy as np
from tokenizers import Tokenizer

from harness.run.artifact import write_durably
from harness.telemetry.meter import Meter
from lm.data.sources import Document
from lm.data.split import SPLITS

JOURNAL = ".journal.json"
BATCH_BYTES = 1 << 20  # of text encoded at a time: enough for many cores; the tokens of it take about 30 MB
SAVE_SECONDS = 5.0
DOCUMENT_COST = 64  # bytes that a document takes besides its text, so that a batch of empty ones ends, too

Batch = list[tuple[str, Document]]


@dataclass
class Counts:
    """What the files of one split hold. `bytes` is the text that the loss counts."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    masked: bool = False  # some token is not counted, so there is a loss mask

    def as_facts(self) -> dict[str, int]:
        return {"documents": self.documents, "tokens": self.tokens, "bytes": self.bytes}


@dataclass
class Journal:
    """How far an encoding is. `total` is the text's size in bytes; `documents` and `done` are what is on the disk."""

    total: int
    vocab_size: int
    documents: int = 0
    done: int = 0
    splits: dict[str, Counts] = field(default_factory=lambda: {split: Counts() for split in SPLITS})

    @property
    def dtype(self) -> str:
        return "uint16" if self.vocab_size <= 2**16 else "uint32"

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Return the journal of an earlier attempt, None where there is none or the files do not bear it out."""
        try:
            values = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
            splits = {split: Counts(**counts) for split, counts in values.pop("splits").items()}
            journal = cls(**values, splits=splits)
            files = [entry for split in SPLITS for entry in sizes(folder, split, splits[split], journal.dtype).items()]
            whole = all(size == 0 or path.stat().st_size >= size for path, size in files)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return journal if whole else None

    def save(self, folder: Path) -> None:
        write_durably(folder / JOURNAL, json.dumps(asdict(self)))


def sizes(folder: Path, split: str, counts: Counts, dtype: str) -> dict[Path, int]:
    """Return the files of a split with their sizes in bytes."""
    files = {
        folder / f"{split}.bin": counts.tokens * np.dtype(dtype).itemsize,
        folder / f"{split}.ends.bin": counts.documents * np.dtype(np.int64).itemsize,
    }
    return {**files, folder / f"{split}.loss_mask.bin": counts.tokens} if counts.masked else files


class Row(NamedTuple):
    """A document as it is written: `mask` is None where the loss counts all of `ids`; sizes are in bytes of text."""

    split: str
    ids: list[int]
    mask: list[bool] | None
    size: int
    counted: int


class SplitWriter:
    """Appends the documents of one split to its files, which are first cut to what `counts` says."""

    def __init__(self, folder: Path, split: str, dtype: str, counts: Counts, files: ExitStack) -> None:
        self.dtype, self.counts, self._files = dtype, counts, files
        self._mask_path = folder / f"{split}.loss_mask.bin"
        streams = [self._open(path, size) for path, size in sizes(folder, split, counts, dtype).items()]
        self._tokens, self._ends = streams[:2]
        self._mask: BinaryIO | None = streams[2] if counts.masked else None

    def add(self, row: Row) -> None:
        if row.mask is not None and self._mask is None:
            self._begin_mask()
        if self._mask is not None:
            self._mask.write(b"\1" * len(row.ids) if row.mask is None else bytes(row.mask))
        self._tokens.write(np.array(row.ids, dtype=self.dtype).tobytes())
        self.counts.documents += 1
        self.counts.tokens += len(row.ids)
        self.counts.bytes += row.counted
        self._ends.write(np.int64(self.counts.tokens).tobytes())

    def sync(self) -> None:
        for stream in (self._tokens, self._ends, self._mask):
            if stream is not None:
                stream.flush()
                os.fsync(stream.fileno())

    def _begin_mask(self) -> None:
        """The loss counted every token so far, which is only now worth a file."""
        self._mask = self._open(self._mask_path, 0)
        self.counts.masked = True
        for start in range(0, self.counts.tokens, BATCH_BYTES):
            self._mask.write(b"\1" * min(BATCH_BYTES, self.counts.tokens - start))

    def _open(self, path: Path, size: int) -> BinaryIO:
        path.touch()
        stream = self._files.enter_context(path.open("r+b"))
        stream.truncate(size)
        stream.seek(size)
        return stream


def encode(
    documents: Iterable[tuple[str, Document]], tokenizer: Tokenizer, end: int, folder: Path, journal: Journal
) -> None:
    """Append what `journal` does not have yet of the documents, each ended by the token `end`, to the files of their
    split."""
    with ExitStack() as files:
        writers = {split: SplitWriter(folder, split, journal.dtype, journal.splits[split], files) for split in SPLITS}
        meter = files.enter_context(Meter("Tokenizing", journal.total, journal.done))
        saved = time.monotonic()
        for rows in _ahead(tokenizer, end, batches(islice(documents, journal.documents, None))):
            for row in rows:
                writers[row.split].add(row)
            size = sum(row.size for row in rows)
            journal.documents, journal.done = journal.documents + len(rows), journal.done + size
            meter.advance(size)
            if time.monotonic() - saved >= SAVE_SECONDS:
                _save(writers, journal, folder)
                saved = time.monotonic()
        _save(writers, journal, folder)


def batches(documents: Iterable[tuple[str, Document]]) -> Iterator[Batch]:
    """Cut a stream of documents where `BATCH_BYTES` of text are full."""
    batch: Batch = []
    size = 0
    for item in documents:
        batch.append(item)
        size += DOCUMENT_COST + len(item[1].text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encoded(tokenizer: Tokenizer, end: int, batch: Batch) -> list[Row]:
    """Return the tokens of each document and which of them the loss counts.

    Each part is encoded by itself, so that no token reaches across a border: an assistant's turn has the tokens that a
    model would have to generate after the prompt before it.
    """
    parts = [list(document.parts()) for _, document in batch]
    texts = [text for document in parts for text, _ in document]
    encodings = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    rows = []
    for (split, document), pieces in zip(batch, parts, strict=True):
        ids: list[int] = []
        mask: list[bool] = []
        for _, counts in pieces:
            tokens = next(encodings).ids
            ids += tokens
            mask += [counts] * len(tokens)
        every = document.loss_spans is None
        sizes = [(len(text.encode()), counts) for text, counts in pieces]
        counted = sum(size for size, counts in sizes if counts)
        size = sum(size for size, _ in sizes)
        rows.append(Row(split, [*ids, end], None if every else [*mask, False], size, counted))
    return rows


def _ahead(tokenizer: Tokenizer, end: int, stream: Iterator[Batch]) -> Iterator[list[Row]]:
    """Encode a batch while the one before it is written and the next one is read."""
    with ThreadPoolExecutor(1, thread_name_prefix="encode") as pool:
        waiting: Future[list[Row]] | None = None
        for batch in stream:
            following = pool.submit(encoded, tokenizer, end, batch)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def _save(writers: Mapping[str, SplitWriter], journal: Journal, folder: Path) -> None:
    for writer in writers.values():
        writer.sync()
    journal.save(folder)
