"""Which documents are held out: a pure function of a document's text and the seed, so that no text is on both sides."""

import hashlib
from collections.abc import Iterable, Iterator

from lm.data.sources import Document


def position(document: Document, seed: int) -> float:
    """Return a number in [0, 1) that is uniform over texts. Equal texts get equal numbers, whatever their names."""
    digest = hashlib.blake2b(
        document.text.encode("utf-8", "surrogatepass"), digest_size=8, key=f"split {seed}".encode()
    ).digest()
    return int.from_bytes(digest, "big") / 2**64


def held_out(document: Document, seed: int, val_fraction: float) -> bool:
    """Say whether a document belongs to the validation set."""
    return position(document, seed) < val_fraction


def limited(documents: Iterable[Document], limit: float | None) -> Iterator[Document]:
    """Return the first `limit` documents when it is a number above 1, or about that fraction of them otherwise.

    The fraction is chosen by text, too, so that a larger one contains a smaller one.
    """
    for index, document in enumerate(documents):
        if limit is None or (limit > 1 and index < limit) or (limit <= 1 and position(document, seed=-1) < limit):
            yield document
