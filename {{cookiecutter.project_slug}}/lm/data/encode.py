"""From documents to files of tokens, as a stream: what is in memory does not grow with the text.

documents -> batches of about a megabyte -> tokens (all cores) -> appended to the files of each split
"""

import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from harness.data.growing import GrowingFiles
from harness.data.split import SPLITS
from harness.data.stream import ahead, batches
from harness.telemetry.meter import Meter
from lm.data.sources import Document

BATCH_BYTES = 1 << 20  # of text encoded at a time: enough for many cores; the tokens of it take about 30 MB
SAVE_SECONDS = 5.0
DOCUMENT_COST = 64  # bytes that a document takes besides its text, so that a batch of empty ones ends, too


@dataclass
class Progress:
    """How far an encoding is. `total` is the text's size in bytes; `documents` and `done` (bytes) are what is written.
    Of a split, `bytes` is the text that the loss counts."""

    total: int
    vocab_size: int
    documents: int = 0
    done: int = 0
    splits: dict[str, dict[str, int]] = field(
        default_factory=lambda: {split: {"documents": 0, "tokens": 0, "bytes": 0} for split in SPLITS}
    )

    @property
    def dtype(self) -> str:
        return "uint16" if self.vocab_size <= 2**16 else "uint32"


class Row(NamedTuple):
    """A document as it is written: `mask` is None where the loss counts all of `ids`; sizes are in bytes of text."""

    split: str
    ids: list[int]
    mask: list[bool] | None
    size: int
    counted: int


def encode(
    documents: Iterable[tuple[str, Document]], tokenizer: Tokenizer, end: int, files: GrowingFiles, progress: Progress
) -> None:
    """Append what `progress` does not have yet of the documents, each ended by the token `end`, to the files of their
    split."""
    rest = batches(islice(documents, progress.documents, None), _size_in_memory, BATCH_BYTES)
    with Meter("Tokenizing", progress.total, progress.done) as meter:
        for split in SPLITS:  # a split without a document has its files, too
            files.append(f"{split}.bin", b"")
            files.append(f"{split}.ends.bin", b"")
        for rows in ahead(functools.partial(encoded, tokenizer, end), rest):
            for row in rows:
                _write(files, row, progress)
            size = sum(row.size for row in rows)
            progress.documents, progress.done = progress.documents + len(rows), progress.done + size
            meter.advance(size)
            files.save(asdict(progress), every=SAVE_SECONDS)
        files.save(asdict(progress))


def encoded(tokenizer: Tokenizer, end: int, batch: list[tuple[str, Document]]) -> list[Row]:
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
        size = counted = 0
        for text, counts in pieces:
            tokens = next(encodings).ids
            ids += tokens
            mask += [counts] * len(tokens)
            size += len(text.encode())
            counted += counts * len(text.encode())
        rows.append(Row(split, [*ids, end], None if document.loss_spans is None else [*mask, False], size, counted))
    return rows


def _write(files: GrowingFiles, row: Row, progress: Progress) -> None:
    counts, mask = progress.splits[row.split], f"{row.split}.loss_mask.bin"
    if row.mask is not None and mask not in files.sizes:
        # The loss counted every token so far, which is only now worth a file.
        for start in range(0, counts["tokens"], BATCH_BYTES):
            files.append(mask, b"\1" * min(BATCH_BYTES, counts["tokens"] - start))
    if row.mask is not None or mask in files.sizes:
        files.append(mask, b"\1" * len(row.ids) if row.mask is None else bytes(row.mask))
    files.append(f"{row.split}.bin", np.array(row.ids, dtype=progress.dtype).tobytes())
    counts["documents"] += 1
    counts["tokens"] += len(row.ids)
    counts["bytes"] += row.counted
    files.append(f"{row.split}.ends.bin", np.int64(counts["tokens"]).tobytes())


def _size_in_memory(item: tuple[str, Document]) -> int:
    return DOCUMENT_COST + len(item[1].text)
