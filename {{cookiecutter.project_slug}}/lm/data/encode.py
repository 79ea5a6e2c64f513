"""From documents to tokens. Writing them to files, as a stream, is harness/data/numbers.py."""

import functools

from tokenizers import Tokenizer

from harness.data.arrays import ArraySource
from harness.data.numbers import Encode, Row
from lm.data.sources import Document, Source


def encoder(tokenizer: Tokenizer, end: int, source: Source) -> Encode:
    """Return what makes rows of a batch of documents of `source`."""
    if isinstance(source, ArraySource):
        return functools.partial(encoded_already, tokenizer, source)
    return functools.partial(getattr(source, "encode", encoded), tokenizer, end)


def encoded(tokenizer: Tokenizer, end: int, batch: list[tuple[str, Document]]) -> list[Row]:
    """Return the tokens of each document, ended by the token `end`, and which of them the loss counts.

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


def encoded_already(tokenizer: Tokenizer, source: ArraySource, batch: list[tuple[str, Document]]) -> list[Row]:
    """Return documents that are tokens, with the size of the text that they stand for: bits per byte are of text."""
    rows = source.rows(batch)
    texts = tokenizer.decode_batch([row.ids for row in rows])
    return [row._replace(counted=len(text.encode())) for row, text in zip(rows, texts, strict=True)]
