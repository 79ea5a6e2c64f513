"""From a source to files that training maps into memory: a tokenizer and the tokens of each side of the split.

    prepared/<fingerprint>/tokenizer.json  meta.json  and for train and val:
        train.bin           tokens
        train.ends.bin      where each document ends, in tokens, as int64
        train.learned.bin   a byte for each token: does the loss count it? Only where it does not count all of them

The fingerprint covers the content, the split and the tokenizer, so a folder never goes stale and a second start finds
it.
It is written beside its place and renamed last: a folder that exists is whole.
"""

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from tokenizers import Tokenizer

from harness.errors import UserError
from lm.data.sources import Document, Source
from lm.data.split import held_out, limited
from lm.data.tokenizer import END_OF_TEXT, train_tokenizer

log = logging.getLogger(__name__)

FORMAT = 3
BATCH = 256  # documents encoded at a time, on all cores


@dataclass(frozen=True)
class Recipe:
    """All that decides what the prepared files hold, besides the content itself."""

    vocab_size: int
    val_fraction: float
    seed: int
    limit: float | None = None
    format: int = FORMAT


@dataclass(frozen=True)
class Prepared:
    """A prepared folder. `meta` counts documents, tokens and bytes of each side."""

    folder: Path
    meta: dict[str, Any]

    @property
    def dtype(self) -> str:
        return str(self.meta["dtype"])

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    def tokens(self, side: str) -> Path:
        """Return the file of `train` or `val` tokens."""
        return self.folder / f"{side}.bin"

    def ends(self, side: str) -> Path:
        """Return the file that says where each document ends."""
        return self.folder / f"{side}.ends.bin"

    def learned(self, side: str) -> Path | None:
        """Return the file that says which tokens the loss counts, None where it counts all."""
        file = self.folder / f"{side}.learned.bin"
        return file if file.is_file() else None


def prepare(source: Source, recipe: Recipe, root: Path) -> Prepared:
    """Return the prepared folder for a source, made now unless it is there. Raises UserError when a side has no
    document."""
    key = hashlib.sha256(json.dumps([source.fingerprint(), asdict(recipe)]).encode()).hexdigest()[:16]
    folder = root / key
    if not folder.is_dir():
        beside = root / f".{key}-{os.getpid()}"
        beside.mkdir(parents=True, exist_ok=True)
        try:
            _write(source, recipe, beside)
            _appear(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return Prepared(folder, json.loads((folder / "meta.json").read_text(encoding="utf-8")))


def encode(tokenizer: Tokenizer, documents: list[Document], folder: Path) -> Prepared:
    """Write all of `documents` to `folder` as validation text, encoded with a tokenizer that exists already."""
    dtype = _dtype(tokenizer)
    tokens = _encode(tokenizer, documents, folder, dtype, "val")
    meta = {"documents": len(documents), "tokens": tokens, "bytes": _learned_bytes(documents)}
    return Prepared(folder, {"dtype": dtype, "val": meta})


def _write(source: Source, recipe: Recipe, folder: Path) -> None:
    documents = list(limited(source.documents(), recipe.limit))
    sides = _split(documents, recipe)
    texts = [document.text for document in sides["train"]]
    log.info("Training a tokenizer of %d tokens on %d documents", recipe.vocab_size, len(texts))
    special = getattr(source, "special_tokens", ())
    show_progress = sys.stderr.isatty()
    tokenizer = train_tokenizer(texts, recipe.vocab_size, len(texts), special=special, show_progress=show_progress)
    tokenizer.save(str(folder / "tokenizer.json"))
    dtype = _dtype(tokenizer)
    meta: dict[str, Any] = {"recipe": asdict(recipe), "dtype": dtype}
    for side, chosen in sides.items():
        tokens = _encode(tokenizer, chosen, folder, dtype, side)
        meta[side] = {"documents": len(chosen), "tokens": tokens, "bytes": _learned_bytes(chosen)}
    log.info(
        "Prepared %s tokens for training and %s for validation",
        f"{meta['train']['tokens']:,}",
        f"{meta['val']['tokens']:,}",
    )
    (folder / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")


def _dtype(tokenizer: Tokenizer) -> str:
    return "uint16" if tokenizer.get_vocab_size() <= 2**16 else "uint32"


def _learned_bytes(documents: list[Document]) -> int:
    return sum(len(part.encode()) for document in documents for part, counts in document.parts() if counts)


def _split(documents: list[Document], recipe: Recipe) -> dict[str, list[Document]]:
    sides: dict[str, list[Document]] = {"train": [], "val": []}
    for document in documents:
        sides["val" if held_out(document, recipe.seed, recipe.val_fraction) else "train"].append(document)
    for side, chosen in sides.items():
        if not chosen:
            raise UserError(
                f"None of the {len(documents)} documents falls to {side} with data.val_fraction={recipe.val_fraction}.",
                cure="Use more text, or raise data.val_fraction (0.1, say); another seed splits otherwise.",
            )
    return sides


def _encode(tokenizer: Tokenizer, documents: list[Document], folder: Path, dtype: str, side: str) -> int:
    """Write the files of one side and return the number of its tokens."""
    kinds = {"bin": dtype, "ends.bin": "int64"}
    if any(document.learned is not None for document in documents):
        kinds["learned.bin"] = "bool"
    count = 0
    with ExitStack() as stack:
        streams = {kind: stack.enter_context((folder / f"{side}.{kind}").open("wb")) for kind in kinds}
        batches = list(_batches(documents, BATCH))
        for batch in track(batches, description=f"Tokenizing {side}", disable=len(batches) < 2, transient=True):
            for ids, learned in _encoded(tokenizer, batch):
                count += len(ids)
                values = {"bin": ids, "ends.bin": [count], "learned.bin": learned}
                for kind, stream in streams.items():
                    stream.write(np.array(values[kind], dtype=kinds[kind]).tobytes())
        for stream in streams.values():
            stream.flush()
            os.fsync(stream.fileno())
    return count


def _encoded(tokenizer: Tokenizer, documents: list[Document]) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield the tokens of each document and which of them the loss counts.

    Each part is encoded by itself, so that no token reaches across a border: an assistant's turn has the tokens that a
    model would have to generate after the prompt before it.
    """
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert end is not None  # the trainer was given it
    encodings = iter(tokenizer.encode_batch([part for document in documents for part, _ in document.parts()]))
    for document in documents:
        ids: list[int] = []
        learned: list[bool] = []
        for _, counts in document.parts():
            tokens = next(encodings).ids
            ids += tokens
            learned += [counts] * len(tokens)
        yield [*ids, end], [*learned, document.learned is None]


def _appear(beside: Path, folder: Path) -> None:
    """Rename into place; where another process was first, its folder has the same content and wins."""
    try:
        beside.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _batches(items: list[Document], size: int) -> Iterator[list[Document]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
