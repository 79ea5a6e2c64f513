"""Which documents are used, and which of them are held out: a pure function of a document's text and the seed, so that
no text is in both splits."""

import hashlib
from collections.abc import Iterable, Iterator

from harness.errors import UserError
from lm.data.sources import Document

SPLITS = ("train", "val")


def position(document: Document, seed: int) -> float:
    """Return a number in [0, 1) that is uniform over texts. Equal texts get equal numbers, whatever their names."""
    digest = hashlib.blake2b(
        document.text.encode("utf-8", "surrogatepass"), digest_size=8, key=f"split {seed}".encode()
    ).digest()
    return int.from_bytes(digest, "big") / 2**64


def held_out(document: Document, seed: int, val_fraction: float) -> bool:
    """Say whether a document belongs to the validation set."""
    return position(document, seed) < val_fraction


def chosen(
    documents: Iterable[Document], seed: int, val_fraction: float, limit: int | float | None = None
) -> Iterator[tuple[str, Document]]:
    """Yield the documents in their order, each with its split.

    A `limit` that is a float is about that share of them, chosen by text, so that a larger one contains a smaller one.
    An int is their number: the first that fall to each split, of which validation gets its fraction but at least one.
    """
    left = quotas(limit, val_fraction) if isinstance(limit, int) else None
    for document in documents:
        if isinstance(limit, float) and position(document, seed=-1) >= limit:
            continue
        split = "val" if held_out(document, seed, val_fraction) else "train"
        if left is not None:
            if left[split] == 0:
                continue
            left[split] -= 1
        yield split, document
        if left is not None and not any(left.values()):
            return


def quotas(limit: int, val_fraction: float) -> dict[str, int]:
    """Return how many of `limit` documents each split gets. One document alone is trained on."""
    val = min(limit - 1, max(1, round(limit * val_fraction))) if val_fraction else 0
    return {"train": limit - val, "val": val}


def as_limit(value: int | float | None) -> int | float | None:
    """Return `data.limit` as a number of documents (int) or a share of them (float): 10 and 1e3 are numbers, 0.1 and
    1.0 shares. Raises UserError for 2.5, which is neither."""
    if not isinstance(value, float) or value <= 1:
        return value
    if not value.is_integer():
        raise UserError(
            f"data.limit={value} is neither a share of the documents nor a number of them.",
            cure="Type data.limit=0.1 for a tenth, or data.limit=100 for a hundred documents.",
        )
    return int(value)
