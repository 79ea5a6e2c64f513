"""Tokenize a text in this process, as preparation does it or with `tokenizers` alone, and print what it took as JSON:
python encode.py ours|theirs TEXT TOKENIZER.JSON. What both import before is not counted."""

import json
import sys
import tempfile
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import project  # noqa: F401  (where the project is)
from timing import Stopwatch
from tokenizers import Tokenizer

from harness.hardware import peak_memory
from lm.data.prepare import encode_only
from lm.data.sources import TextSource
from lm.data.tokenizer import TokenizerChoice

BATCH = 1000  # documents that `encode_batch` is given at a time, as `datasets` would


def ours(text: str, tokenizer: str) -> int:
    """From the file to files of tokens, on the disk to stay."""
    with tempfile.TemporaryDirectory(dir=Path(text).parent) as folder:
        made = encode_only(TokenizerChoice(path=tokenizer), TextSource(text), Path(folder))
        return int(made.meta["val"]["tokens"] - made.meta["val"]["documents"])  # without the ends of the texts


def theirs(text: str, tokenizer: str) -> int:
    """From the same documents to lists of tokens, which are counted and dropped."""
    encode = Tokenizer.from_file(tokenizer).encode_batch
    texts, tokens = (document.text for document in TextSource(text).documents()), 0
    while batch := list(islice(texts, BATCH)):
        tokens += sum(len(encoding.ids) for encoding in encode(batch, add_special_tokens=False))
    return tokens


if __name__ == "__main__":
    who, *arguments = sys.argv[1:]
    watch = Stopwatch()
    tokens = {"ours": ours, "theirs": theirs}[who](*arguments)
    sample = replace(watch.read(), megabytes=peak_memory("cpu") / 1e6)
    print(json.dumps({"tokens": tokens, **asdict(sample)}))
