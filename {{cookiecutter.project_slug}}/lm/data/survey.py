"""The first pass over the text: how much falls to each split, and what the tokenizer learns from."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from harness.telemetry.meter import Meter
from lm.data.sources import Document
from lm.data.split import SPLITS, position

# Of training text in memory, for the tokenizer to learn from. More makes it hardly better, and its own tables larger.
SAMPLE_BYTES = 64 << 20
DOCUMENT_COST = 200  # bytes of memory that a document of the sample takes besides its text


class Sample:
    """Documents that fit in `budget` bytes of memory: all, in order, or those with the smallest hashes of their text.

    Which ones is a function of the texts alone: whatever the order, those below one threshold are kept.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._size, self._seen, self._threshold = 0, 0, 1.0
        self._kept: list[tuple[float, int, bytes]] = []  # a heap, the largest hash first

    def add(self, document: Document) -> None:
        self._seen += 1
        place = position(document, seed=-2)
        if place >= self._threshold:
            return
        text = document.text.encode("utf-8", "surrogatepass")
        heapq.heappush(self._kept, (-place, self._seen, text))
        self._size += len(text) + DOCUMENT_COST
        while self._size > self.budget:
            largest, _, dropped = heapq.heappop(self._kept)
            self._size -= len(dropped) + DOCUMENT_COST
            self._threshold = min(self._threshold, -largest)

    def __len__(self) -> int:
        return len(self._kept)

    def texts(self) -> Iterator[str]:
        for _, _, text in sorted(self._kept, key=lambda entry: entry[1]):
            yield text.decode("utf-8", "surrogatepass")


@dataclass
class Survey:
    """`total` is the text's size in bytes; `documents` their number by split."""

    sample: Sample
    total: int = 0
    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))


def survey(documents: Iterable[tuple[str, Document]], size: int | None) -> Survey:
    """Read all documents once. `size` is about how many bytes they have, if that is known."""
    found = Survey(Sample(SAMPLE_BYTES))
    with Meter("Reading", size) as meter:
        for split, document in documents:
            found.documents[split] += 1
            if split == "train":
                found.sample.add(document)
            length = len(document.text.encode("utf-8", "surrogatepass"))
            found.total += length
            meter.advance(length)
    return found
