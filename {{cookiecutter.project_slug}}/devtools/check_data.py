"""Are the data right? python devtools/check_data.py data=text data.path=poems/ [overrides] [--json]

Takes the same overrides as train.py and follows the data through their stages: what is read, how it is split, which
tokens and labels come out, and what a batch holds. Exits with 1 if something would stop a run or spoil it.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it works in a project that is not installed

from omegaconf import DictConfig

from devtools.findings import CheckResult, failure, ok, report, warning
from harness.config.check import check
from harness.config.compose import compose, hydra_errors_as_user_errors
from harness.data.arrays import ArraySource
from harness.data.sets import materials_of, weights_of
from harness.data.split import SPLITS
from harness.errors import UserError
from harness.run import environment
from lm.data.prepare import Prepared
from lm.data.sets import prepare_all
from lm.data.sources import Document

if TYPE_CHECKING:  # torch is imported after the environment is set
    from lm.data.windows import Rows

PERCENTILES = (5, 50, 95, 100)
# Characters that a text rarely means: what decoders put for bytes that they could not read, and control characters.
DAMAGE = re.compile("[\ufffd\x00-\x08\x0b\x0e-\x1f]")
LONG_LINE = 60  # characters: a line this long is hardly in two texts by chance
LEAK = 0.1  # the share of validation text that may be in the training text, too


@dataclass
class Texts:
    """What one pass over the documents tells of their text, kept as numbers and digests, which are small."""

    lengths: list[int] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    long_lines: dict[str, list[bytes]] = field(default_factory=lambda: {split: [] for split in SPLITS})


def look(documents: Iterable[tuple[str, Document]]) -> Texts:
    """Read all documents once."""
    texts, seen = Texts(), set()
    for split, document in documents:
        texts.documents[split] += 1
        texts.lengths.append(len(document.text))
        texts.long_lines[split] += _long_lines(document.text)
        digest = _digest(document.text)
        for names, applies in (
            (texts.empty, not document.text.strip()),
            (texts.copies, digest in seen),
            (texts.damaged, DAMAGE.search(document.text) is not None),
        ):
            if applies:
                names.append(document.name)
        seen.add(digest)
    return texts


def findings(overrides: Sequence[str]) -> Iterator[CheckResult]:
    """Yield what is found, stage by stage. What would stop a run ends it."""
    try:
        with hydra_errors_as_user_errors():
            cfg = compose(overrides)
            check(cfg)
            environment.apply(cfg.env)
            for name, material in materials_of(cfg.data, cfg.seed).items():
                material.check()
                if isinstance(material.source, ArraySource):  # no text: it is looked at as tokens, below
                    continue
                texts = look(material.documents())
                yield from of_set(name, read(texts))
                yield from of_set(name, split(texts))
            yield from prepared(cfg)
    except UserError as error:
        yield failure("data", error.what, error.cure or "See the message.")


def of_set(name: str, findings: Iterable[CheckResult]) -> Iterator[CheckResult]:
    """Yield findings with the name of the set that they are about, where there are several."""
    yield from (replace(finding, message=f"{name}: {finding.message}") if name else finding for finding in findings)


def read(texts: Texts) -> Iterator[CheckResult]:
    """Stage 1: what the source yields."""
    if not texts.lengths:
        yield failure("read", "The source has no documents.", "Name a file, a folder or a glob with data.path=PATH.")
        return
    lengths = np.array(texts.lengths)
    yield ok("read", f"{len(lengths):,} documents, {lengths.sum():,} characters; a document: {_percentiles(lengths)}")
    if texts.empty:
        message = f"{len(texts.empty):,} documents are empty: {_some(texts.empty)}"
        yield warning("read", message, "Leave them out of data.path.")
    if texts.copies:
        cure = "Remove the copies: the model sees them more often than the rest."
        yield warning("read", f"{len(texts.copies):,} documents are copies of another: {_some(texts.copies)}", cure)
    if texts.damaged:
        cure = "They were read in a wrong encoding once, or are not text. Look at them; convert them or leave them out."
        message = f"{len(texts.damaged):,} documents have characters that no text means: {_some(texts.damaged)}"
        yield warning("read", message, cure)


def split(texts: Texts) -> Iterator[CheckResult]:
    """Stage 2: training and validation text."""
    train, val = texts.documents["train"], texts.documents["val"]
    yield ok("split", f"{train:,} documents for training, {val:,} for validation")
    known, lines = set(texts.long_lines["train"]), texts.long_lines["val"]
    share = sum(line in known for line in lines) / max(1, len(lines))
    message = f"{share:.1%} of {len(lines):,} long lines of the validation text are in the training text, too"
    if share > LEAK:
        yield warning("split", f"{message}.", "Remove copies and near copies: the validation loss will look too good.")
    else:
        yield ok("split", message)


def prepared(cfg: DictConfig) -> Iterator[CheckResult]:
    """Stages 3 and 4: the prepared files as a run would find them, tokens and labels, and the rows of a batch, set by
    set."""
    from lm.data.datamodule import windows
    from lm.models.build import context_length, model_config, vocabulary_size

    config = model_config(cfg.model)
    context, vocabulary = context_length(cfg.model, config), vocabulary_size(cfg.model, config)
    sizes = {}
    for name, data in prepare_all(cfg, vocabulary, sums=True).items():
        yield from of_set(name, files(data))
        for split in SPLITS:
            if data.meta[split]["tokens"]:
                dataset = windows(data, split, context, packing=cfg.data.packing)
                sizes[split, name] = len(dataset)
                yield from of_set(name, tokens(data, split, vocabulary))
                yield from of_set(name, lengths(data, split, context, cfg))
                yield from of_set(name, rows(dataset, split, cfg, alone=not name))
    if cfg.data.get("sets"):
        yield from weights(cfg, {name: size for (split, name), size in sizes.items() if split == "train"})


def files(data: Prepared) -> Iterator[CheckResult]:
    if data.damage:
        message = f"{data.folder.as_posix()} was damaged: {data.damage}. It has been prepared again."
        yield warning("files", message, "Look after the disk: train again what was trained on it since.")
    else:
        yield ok("files", f"{data.folder.as_posix()}: sizes and checksums are those that were written")


def tokens(data: Prepared, split: str, vocabulary: int) -> Iterator[CheckResult]:
    ids = np.fromfile(data.numbers(split), dtype=data.dtype)
    highest = int(ids.max(initial=0))
    if highest >= vocabulary:
        cure = f"Set model.config.vocab_size={highest + 1} or more."
        yield failure("tokens", f"{split}: token {highest} is outside of the model's vocabulary of {vocabulary}.", cure)
    else:
        yield ok("tokens", f"{split}: {len(ids):,} tokens, which use {len(np.unique(ids)):,} of {vocabulary:,}")


def lengths(data: Prepared, split: str, context: int, cfg: DictConfig) -> Iterator[CheckResult]:
    sizes = np.diff(np.fromfile(data.ends(split), dtype=np.int64), prepend=0)
    cut = int((sizes > context).sum())
    message = f"{split}: a document has {_percentiles(sizes)} tokens; the context is {context}"
    if cut and not cfg.data.packing:
        lost = int((sizes - context).clip(min=0).sum()) / int(sizes.sum())
        cure = "Raise model.config.max_position_embeddings, or set data.packing=true."
        yield warning("lengths", f"{message}: {cut:,} documents are cut, which loses {lost:.0%} of the tokens.", cure)
    else:
        yield ok("lengths", message)


def rows(dataset: "Rows", split: str, cfg: DictConfig, *, alone: bool) -> Iterator[CheckResult]:
    from lm.batch import NO_LABEL

    needed = cfg.data.batch_size if alone and cfg.data.batch_size != "auto" else 1  # sets of a mixture share batches
    if split == "train" and len(dataset) < needed:
        cure = "Use more text, or lower data.batch_size."
        yield failure("batches", f"{split}: {len(dataset)} rows do not fill a batch of {needed}.", cure)
        return
    labels = [int((dataset[index]["labels"][1:] != NO_LABEL).sum()) for index in range(len(dataset))]
    without = sum(count == 0 for count in labels)
    message = f"{split}: {len(labels):,} rows, with {_percentiles(np.array(labels))} labels"
    if without == len(labels):
        yield failure("batches", f"{message}: nothing can be learned.", "See the rows with +debug=data.")
    elif without:
        yield warning(
            "batches", f"{message}; {without:,} rows have none and teach nothing.", "See them with +debug=data."
        )
    else:
        yield ok("batches", message)


def weights(cfg: DictConfig, sizes: dict[str, int]) -> Iterator[CheckResult]:
    """The mixture: how often each set is seen while all together are trained on once."""
    total = sum(sizes.values())
    for (name, size), weight in zip(sizes.items(), weights_of(cfg.data.sets), strict=True):
        share = f"{name}: {float(weight):.1%} of the mixture, seen {float(weight * total / max(1, size)):.1f} times"
        yield ok("mixture", f"{share} in {total:,} windows")


def _percentiles(values: npt.NDArray[np.int64]) -> str:
    points = np.percentile(values, PERCENTILES).astype(int) if len(values) else [0] * len(PERCENTILES)
    names = [*(f"{percent}%" for percent in PERCENTILES[:-1]), "the most"]
    return ", ".join(f"{point:,} ({name})" for point, name in zip(points, names, strict=True))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _long_lines(text: str) -> Iterator[bytes]:
    """Yield digests, which take less memory than lines. Case and spaces do not make a copy another text."""
    for line in text.splitlines():
        plain = " ".join(line.split()).casefold()
        if len(plain) >= LONG_LINE:
            yield _digest(plain)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for train.py: data=… data.path=… model=…")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    arguments = parser.parse_args()
    report(findings(arguments.overrides), as_json=arguments.json)


if __name__ == "__main__":
    main()
