"""Documents with media in front of any source: one placeholder token a medium, and what the encoder is given of it.

    train.documents.jsonl   a line for each document: its name, and of each medium what its file had and what was
                            changed
    train.image.bin         what the encoder is given, one after the other
    train.image.sizes.bin   of each: its bytes in image.bin, how much of it is heard, and which token of its document
                            stands for it, as int64
    train.image.counts.bin  of each document: how many it has, as uint16
    train.skipped.jsonl     what was left out with on_bad=skip

and the same for audio and val. Tokens, ends and loss masks are those of any text: harness/data/numbers.py.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import numpy as np
from hydra.utils import instantiate
from tokenizers import Tokenizer

from harness.data.arrays import ArraySource
from harness.data.documents import MARK, Document, Medium, Source
from harness.data.numbers import Row
from harness.errors import UserError
from media.kinds import KINDS, NAMES, PLACEHOLDERS, placeholder
from media.readers import with_media

FORMAT = 2
THREADS = 4  # a picture of 24 megapixels takes 200 MB while it is decoded
Made = tuple[Any, int, dict[str, Any]]  # as a processor returns it
SPELLED = re.compile("({})".format("|".join(map(re.escape, PLACEHOLDERS.values()))))


class WithMedia:
    """The documents of `source`, with their media as `encoders` are given them.

    on_mismatch: a picture of another size or colours and a sound of another rate are converted and counted (convert),
    or stop the preparation (error). tokenizer: the path of one that is taken as it is.
    """

    def __init__(
        self,
        source: Source | Mapping[str, Any],
        encoders: Mapping[str, Any] | None,
        on_mismatch: str = "convert",
        tokenizer: str | None = None,
    ) -> None:
        if on_mismatch not in ("convert", "error"):
            raise UserError(f"data.on_mismatch={on_mismatch} is neither convert nor error.")
        # A config, so that Hydra builds no encoder's config, and imports no transformers, on the way.
        self.source: Any = with_media(instantiate(source) if isinstance(source, Mapping) else source)
        self.encoders = {kind: encoders[kind] for kind in KINDS if encoders and encoders.get(kind)}
        self.on_mismatch = on_mismatch
        self.placeholders = [] if tokenizer else [PLACEHOLDERS[kind] for kind in self.encoders]

    @cached_property
    def processors(self) -> dict[str, Any]:
        from media.processors import processors  # transformers and torch take seconds, and `check` is asked before

        return processors(self.encoders)

    @property
    def special_tokens(self) -> list[str]:
        return [*getattr(self.source, "special_tokens", ()), *self.placeholders]

    @property
    def chat_template(self) -> str:  # this and the next are there where the source has them
        return str(self.source.chat_template)

    @property
    def size(self) -> int:
        return int(self.source.size)

    @property
    def on_skip(self) -> Callable[[str, str], None]:
        """Told of each document that is left out, and why, by whatever source."""
        return getattr(self.source, "on_skip", lambda where, why: None)

    @on_skip.setter
    def on_skip(self, listener: Callable[[str, str], None]) -> None:
        self.source.on_skip = listener

    def check(self) -> None:
        """Raise UserError for media without an encoder and for an encoder without media, where the source knows."""
        self.source.check()
        if isinstance(self.source, ArraySource):
            raise UserError("data=tokens has no places for media: it is numbers already.", cure="Leave encoders=… out.")
        kinds: Collection[str] = getattr(self.source, "kinds", self.encoders)
        for kind in KINDS:
            if kind in kinds and kind not in self.encoders:
                raise _no_encoder(kind)
            if kind in self.encoders and kind not in kinds:
                raise idle_encoder(kind)

    def fingerprint(self) -> str:
        """Return what decides the files: the documents, and what each processor makes of media."""
        made = {kind: processor.fingerprint for kind, processor in self.processors.items()}
        content = [FORMAT, self.source.fingerprint(), made, self.on_mismatch == "error"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def documents(self) -> Iterator[Document]:
        for document in self.source.documents():
            for medium in document.media:
                if medium.kind not in self.encoders:
                    raise _no_encoder(medium.kind, document.name)
            yield document

    def encode(self, tokenizer: Tokenizer, end: int, batch: list[tuple[str, Document]]) -> list[Row]:
        """Return the tokens of each document with one placeholder a medium, and the bytes of its media. The loss counts
        no placeholder, and the end where it counts what comes before."""
        literal = Tokenizer.from_str(tokenizer.to_str())
        literal.encode_special_tokens = True
        self.processors  # noqa: B018  (made once, before the threads ask)
        with ThreadPoolExecutor(THREADS) as pool:  # decoding and resizing let other threads run
            return list(pool.map(partial(self._row, tokenizer, literal, end), batch))

    def _row(self, tokenizer: Tokenizer, literal: Tokenizer, end: int, item: tuple[str, Document]) -> Row:
        split, document = item
        size = len(document.content)
        try:
            made = self._media(document)
        except ValueError as error:
            if getattr(self.source, "on_bad", None) != "skip":
                cure = "Mend or remove it, or leave such documents out with data.on_bad=skip."
                raise UserError(f"{document.name}: {error}.", cure=cure) from error
            return Row(split, [], None, size, 0, {"skipped.jsonl": _line({"where": document.name, "why": str(error)})})
        ids: list[int] = []
        mask: list[bool] = []
        places: list[int] = []
        counted = 0
        for text, counts in document.parts():
            for number, piece in enumerate(text.split(MARK) if document.media else [text]):
                if number:
                    kind = document.media[len(places)].kind
                    places.append(len(ids))
                    ids.append(placeholder(tokenizer, kind, end))
                    mask.append(False)
                tokens = _tokens(tokenizer, literal, piece)
                ids += tokens
                mask += [counts] * len(tokens)
                counted += counts * len(piece.encode())
        spans = document.loss_spans
        ends = spans is None or bool(spans) and spans[-1][1] == len(document.text)
        whole = spans is None and not document.media
        more = self._files(document.name, made, places)
        return Row(split, [*ids, end], None if whole else [*mask, ends], size, counted, more)

    def _media(self, document: Document) -> list[Made]:
        """Raises ValueError, with what is wrong with a medium."""
        if document.media and document.text.count(MARK) != len(document.media):
            raise ValueError(f"has {len(document.media)} media and {document.text.count(MARK)} places for them")
        return [self._made(medium) for medium in document.media]

    def _files(self, name: str, made: list[Made], places: list[int]) -> dict[str, bytes]:
        """Return what is appended for a document whose media stand at `places` among its tokens."""
        files = {"documents.jsonl": _line({"name": name, "media": [facts for _, _, facts in made]})}
        for kind in self.encoders:
            own = [(*each, place) for each, place in zip(made, places, strict=True) if each[2]["kind"] == kind]
            sizes = [(stored.nbytes, heard, place) for stored, heard, _, place in own]
            files[f"{kind}.bin"] = b"".join(stored.tobytes() for stored, *_ in own)
            files[f"{kind}.sizes.bin"] = np.array(sizes, np.int64).tobytes()
            files[f"{kind}.counts.bin"] = np.uint16(len(own)).tobytes()
        return files

    def _made(self, medium: Medium) -> Made:
        try:
            stored, heard, facts = self.processors[medium.kind](medium.data)
        except ValueError as error:
            raise ValueError(f"{medium.name} {error}") from error
        if facts["changes"] and self.on_mismatch == "error":
            raise UserError(
                f"{medium.name} is not as its encoder takes it ({', '.join(facts['changes'])}).",
                cure="Convert your files, or let them be converted and counted: data.on_mismatch=convert.",
            )
        return stored, heard, {"kind": medium.kind, "name": medium.name, **facts}


def _tokens(tokenizer: Tokenizer, literal: Tokenizer, text: str) -> list[int]:
    """Return the tokens of a text; what only spells a placeholder stays text."""
    ids: list[int] = []
    for number, piece in enumerate(SPELLED.split(text)):
        ids += (literal if number % 2 else tokenizer).encode(piece, add_special_tokens=False).ids
    return ids


def idle_encoder(kind: str) -> UserError:
    return UserError(
        f"There is an encoder of {NAMES[kind][1]} (encoders.{kind}), and the data have none.",
        cure=f"Take it out with '~encoders.{kind}', or name data that have some.",
    )


def _no_encoder(kind: str, where: str = "") -> UserError:
    said = f"{where} has a {NAMES[kind][0]}" if where else f"The data have {NAMES[kind][1]}"
    return UserError(f"{said}, and no encoder takes it.", cure=f"Add one: encoders={kind}, or encoders=tiny to try.")


def _line(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
