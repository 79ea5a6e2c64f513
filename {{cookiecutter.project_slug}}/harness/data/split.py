"""Which items are used, and which of them are held out: a pure function of an item's bytes and the seed, so that no
content is in both splits, whatever it is called and in whatever order it comes."""

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from harness.errors import UserError
from harness.telemetry.meter import Meter

SPLITS = ("train", "val")
ITEM_COST = 200  # bytes of memory that an item of a sample takes besides its content
LIMIT_SEED, SAMPLE_SEED = -1, -2  # other places than those of the split, which has the run's seed

T = TypeVar("T")


def position(content: bytes, seed: int) -> float:
    """Return a number in [0, 1) that is uniform over contents. Equal contents get equal numbers."""
    digest = hashlib.blake2b(content, digest_size=8, key=f"split {seed}".encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def held_out(content: bytes, seed: int, val_fraction: float) -> bool:
    """Say whether an item belongs to the validation set."""
    return position(content, seed) < val_fraction


def chosen(
    items: Iterable[T],
    content: Callable[[T], bytes],
    seed: int,
    val_fraction: float,
    limit: int | float | None = None,
) -> Iterator[tuple[str, T]]:
    """Yield the items in their order, each with its split.

    A `limit` that is a float is about that share of them, chosen by content, so that a larger one contains a smaller
    one. An int is their number: the first that fall to each split, of which validation gets its fraction but at least
    one.
    """
    left = quotas(limit, val_fraction) if isinstance(limit, int) else None
    for item in items:
        if isinstance(limit, float) and position(content(item), LIMIT_SEED) >= limit:
            continue
        split = "val" if held_out(content(item), seed, val_fraction) else "train"
        if left is not None:
            if left[split] == 0:
                continue
            left[split] -= 1
        yield split, item
        if left is not None and not any(left.values()):
            return


def quotas(limit: int, val_fraction: float) -> dict[str, int]:
    """Return how many of `limit` items each split gets. One item alone is trained on."""
    val = min(limit - 1, max(1, round(limit * val_fraction))) if val_fraction else 0
    return {"train": limit - val, "val": val}


def as_limit(value: int | float | None) -> int | float | None:
    """Return `data.limit` as a number of items (int) or a share of them (float): 10 and 1e3 are numbers, 0.1 and
    1.0 shares. Raises UserError for 2.5, which is neither."""
    if not isinstance(value, float) or value <= 1:
        return value
    if not value.is_integer():
        raise UserError(
            f"data.limit={value} is neither a share of the documents nor a number of them.",
            cure="Type data.limit=0.1 for a tenth, or data.limit=100 for a hundred documents.",
        )
    return int(value)


def refuse_empty(documents: dict[str, int], val_fraction: float, limit: int | float | None, *, by_path: bool) -> None:
    """Raise UserError for a split that got none of the documents and should have one. `by_path`: validation has
    documents of its own."""
    if not any(documents.values()):
        raise UserError("The source has no documents.", cure="Name a file, a folder or a glob with data.path=PATH.")
    if by_path and not documents["val"]:
        raise UserError("There are no documents at data.val_path.", cure="Name a file, a folder or a glob of text.")
    one = isinstance(limit, int) and limit == 1  # of which nothing is held out
    wants_val = val_fraction > 0 and not one and not by_path
    split = "train" if not documents["train"] else "val" if wants_val and not documents["val"] else None
    if split is None:
        return
    larger = "raise data.val_fraction (0.1, say), " if split == "val" and val_fraction < 0.1 else ""
    raise UserError(
        f"None of the {sum(documents.values()):,} documents falls to {split} with data.val_fraction={val_fraction}.",
        cure=f"Use more text, {larger}name validation text with data.val_path=PATH, or train on everything with "
        "data.val_fraction=0. Another seed splits otherwise.",
    )


class Sample:
    """Items that fit in `budget` bytes of memory: all, in order, or those with the smallest hashes.

    Which ones is a function of the contents alone: whatever the order, those below one threshold are kept.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._size, self._seen, self._threshold = 0, 0, 1.0
        self._kept: list[tuple[float, int, bytes]] = []  # a heap, the largest hash first

    def add(self, content: bytes) -> None:
        self._seen += 1
        place = position(content, SAMPLE_SEED)
        if place >= self._threshold:
            return
        heapq.heappush(self._kept, (-place, self._seen, content))
        self._size += len(content) + ITEM_COST
        while self._size > self.budget:
            largest, _, dropped = heapq.heappop(self._kept)
            self._size -= len(dropped) + ITEM_COST
            self._threshold = min(self._threshold, -largest)

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[bytes]:
        for _, _, content in sorted(self._kept, key=lambda entry: entry[1]):
            yield content


@dataclass
class Survey:
    """What one pass over a stream has found: `items` by split, their `total` size in bytes, and a sample of train."""

    sample: Sample
    total: int = 0
    items: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))


def survey(
    items: Iterable[tuple[str, T]], content: Callable[[T], bytes], *, budget: int, size: int | None = None
) -> Survey:
    """Read all items once. `budget` is the sample's, in bytes; `size` is about how many bytes there are, if known."""
    found = Survey(Sample(budget))
    with Meter("Reading", size) as meter:
        for split, item in items:
            data = content(item)
            found.items[split] += 1
            if split == "train":
                found.sample.add(data)
            found.total += len(data)
            meter.advance(len(data))
    return found
