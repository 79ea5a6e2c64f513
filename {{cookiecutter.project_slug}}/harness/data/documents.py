"""What is read: documents, in a fixed order, from a source that knows a fingerprint of their content."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

MARK = "\ufffc"  # Unicode's object replacement character: in a document with media, each stands for the next of them


class Medium(NamedTuple):
    """A picture or a sound as a file's bytes; `name` is for people."""

    kind: str
    data: bytes
    name: str


@dataclass(frozen=True)
class Document:
    """A text that is split, shuffled and ended as one: a file, a block of one large file, or a conversation.

    `loss_spans` are the stretches (start, end) of the text that the loss counts, in order; None for all of it. `media`
    stand where the text has a MARK each.
    """

    name: str
    text: str
    loss_spans: tuple[tuple[int, int], ...] | None = None
    media: tuple[Medium, ...] = ()

    @functools.cached_property
    def content(self) -> bytes:
        """The text as bytes, without the places of media."""
        text = self.text.replace(MARK, "") if self.media else self.text
        return text.encode("utf-8", "surrogatepass")

    @property
    def key(self) -> bytes:
        """What decides where it falls, whatever it is called: its first medium, so that whatever is said of a picture
        is on the same side, or else the text."""
        return self.media[0].data if self.media else self.content

    def parts(self) -> Iterator[tuple[str, bool]]:
        """Yield the text in parts, each with whether the loss counts it."""
        if self.loss_spans is None:
            yield self.text, True
            return
        position = 0
        for start, end in (*self.loss_spans, (len(self.text), len(self.text))):
            pieces = (self.text[position:start], False), (self.text[start:end], True)
            yield from (piece for piece in pieces if piece[0])
            position = end


class Source(Protocol):
    """What `data.source` builds. It may also have `special_tokens`, texts that are one token each; `chat_template`, for
    the tokenizer; `size`, about how many bytes it has; `encode(tokenizer, end, batch)`, which makes rows of them."""

    def check(self) -> None:
        """Raise UserError, fast and without reading the content, when there is nothing to read."""

    def fingerprint(self) -> str:
        """Return hex digits that change with the content."""

    def documents(self) -> Iterator[Document]:
        """Yield the documents, in the same order on every machine that has the same content."""
