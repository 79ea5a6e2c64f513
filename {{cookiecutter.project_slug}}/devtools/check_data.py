"""Are the data right? python devtools/check_data.py data=text data.path=poems/ [overrides] [--json]

Takes the same overrides as train.py and follows the data through their stages: what is read, how it is split, which
tokens and labels come out, and what a batch holds. Exits with 1 if something would stop a run or spoil it.
"""

import argparse
import hashlib
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it works in a project that is not installed

from hydra.utils import instantiate
from omegaconf import DictConfig

from devtools.findings import CheckResult, failure, ok, report, warning
from harness.config.check import check
from harness.config.compose import compose, hydra_errors_as_user_errors
from harness.errors import UserError
from harness.run import environment
from lm.data.prepare import Prepared, Recipe, prepare
from lm.data.sources import Document, Source
from lm.data.split import held_out, limited

if TYPE_CHECKING:  # torch is imported after the environment is set
    from lm.data.windows import Rows, Windows

PERCENTILES = (5, 50, 95, 100)
# Characters that a text rarely means: what decoders put for bytes that they could not read, and control characters.
DAMAGE = re.compile("[\ufffd\x00-\x08\x0b\x0e-\x1f]")
LONG_LINE = 60  # characters: a line this long is hardly in two texts by chance
LEAK = 0.1  # the share of validation text that may be in the training text, too


def findings(overrides: Sequence[str]) -> Iterator[CheckResult]:
    """Yield what is found, stage by stage. What would stop a run ends it."""
    try:
        with hydra_errors_as_user_errors():
            cfg = compose(overrides)
            check(cfg)
            environment.apply(cfg.env)
            source: Source = instantiate(cfg.data.source)
            source.check()
            documents = list(limited(source.documents(), cfg.data.limit))
            yield from read(documents)
            yield from split(documents, cfg)
            yield from prepared(source, cfg)
    except UserError as error:
        yield failure("data", error.what, error.cure or "See the message.")


def read(documents: list[Document]) -> Iterator[CheckResult]:
    """Stage 1: what the source yields."""
    if not documents:
        yield failure("read", "The source has no documents.", "Name a file, a folder or a glob with data.path=PATH.")
        return
    lengths = np.array([len(document.text) for document in documents])
    yield ok("read", f"{len(documents):,} documents, {lengths.sum():,} characters; a document: {_percentiles(lengths)}")
    if empty := [document.name for document in documents if not document.text.strip()]:
        yield warning("read", f"{len(empty):,} documents are empty: {_some(empty)}", "Leave them out of data.path.")
    seen: dict[bytes, str] = {}
    twins = [d.name for d in documents if seen.setdefault(_digest(d.text), d.name) != d.name]
    if twins:
        cure = "Remove the copies: the model sees them more often than the rest."
        yield warning("read", f"{len(twins):,} documents are copies of another: {_some(twins)}", cure)
    if damaged := [document.name for document in documents if DAMAGE.search(document.text)]:
        cure = "They were read in a wrong encoding once, or are no text. Look at them, and convert or leave them out."
        yield warning("read", f"{len(damaged):,} documents have characters that no text means: {_some(damaged)}", cure)


def split(documents: list[Document], cfg: DictConfig) -> Iterator[CheckResult]:
    """Stage 2: training and validation text."""
    val = [held_out(document, cfg.seed, cfg.data.val_fraction) for document in documents]
    train_text = [document.text for document, out in zip(documents, val, strict=True) if not out]
    val_text = [document.text for document, out in zip(documents, val, strict=True) if out]
    yield ok("split", f"{len(train_text):,} documents for training, {len(val_text):,} for validation")
    known = {line for text in train_text for line in _long_lines(text)}
    lines = [line for text in val_text for line in _long_lines(text)]
    share = sum(line in known for line in lines) / max(1, len(lines))
    message = f"{share:.1%} of {len(lines):,} long lines of the validation text are in the training text, too"
    if share > LEAK:
        yield warning("split", f"{message}.", "Remove copies and near copies: the validation loss will look too good.")
    else:
        yield ok("split", message)


def prepared(source: Source, cfg: DictConfig) -> Iterator[CheckResult]:
    """Stages 3 and 4: tokens and labels, and the rows that a batch is made of."""
    from lm.data.datamodule import windows
    from lm.models.build import context_length, model_config

    config = model_config(cfg.model)
    context = context_length(cfg.model, config)
    recipe = Recipe(config.vocab_size, cfg.data.val_fraction, cfg.seed, cfg.data.limit)
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(source, recipe, Path(folder))
        for side in ("train", "val"):
            yield from tokens(data, side, config.vocab_size)
            yield from lengths(data, side, context, cfg)
            yield from rows(windows(data, side, context, packing=cfg.data.packing), side, cfg)


def tokens(data: Prepared, side: str, vocabulary: int) -> Iterator[CheckResult]:
    ids = np.fromfile(data.tokens(side), dtype=data.dtype)
    highest = int(ids.max(initial=0))
    if highest >= vocabulary:
        cure = f"Set model.config.vocab_size={highest + 1} or more."
        yield failure("tokens", f"{side}: token {highest} is outside of the model's vocabulary of {vocabulary}.", cure)
    else:
        yield ok("tokens", f"{side}: {len(ids):,} tokens, which use {len(np.unique(ids)):,} of {vocabulary:,}")


def lengths(data: Prepared, side: str, context: int, cfg: DictConfig) -> Iterator[CheckResult]:
    sizes = np.diff(np.fromfile(data.ends(side), dtype=np.int64), prepend=0)
    cut = int((sizes > context).sum())
    message = f"{side}: a document has {_percentiles(sizes)} tokens; the context is {context}"
    if cut and not cfg.data.packing:
        lost = int((sizes - context).clip(min=0).sum()) / int(sizes.sum())
        cure = "Raise model.config.max_position_embeddings, or set data.packing=true."
        yield warning("lengths", f"{message}: {cut:,} documents are cut, which loses {lost:.0%} of the tokens.", cure)
    else:
        yield ok("lengths", message)


def rows(dataset: "Windows | Rows", side: str, cfg: DictConfig) -> Iterator[CheckResult]:
    from lm.batch import NO_LABEL

    if side == "train" and len(dataset) < cfg.data.batch_size:
        cure = "Use more text, or lower data.batch_size."
        yield failure("batches", f"{side}: {len(dataset)} rows do not fill a batch of {cfg.data.batch_size}.", cure)
        return
    labels = [int((dataset[index]["labels"][1:] != NO_LABEL).sum()) for index in range(len(dataset))]
    without = sum(count == 0 for count in labels)
    message = f"{side}: {len(labels):,} rows, with {_percentiles(np.array(labels))} labels"
    if without == len(labels):
        yield failure("batches", f"{message}: nothing can be learned.", "See the rows with +debug=data.")
    elif without:
        yield warning(
            "batches", f"{message}; {without:,} rows have none and teach nothing.", "See them with +debug=data."
        )
    else:
        yield ok("batches", message)


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
