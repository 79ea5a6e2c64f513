"""How fast text is prepared, and in how much memory, at any size, and how fast it is tokenized beside `tokenizers`' own
encode_batch in one process: files without blank lines, made here."""

import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import project
from timing import Bar, Outcome, Sample, command, interleaved

SIZES = {"10 MB": 10_000_000, "100 MB": 100_000_000, "1 GB": 1_000_000_000}
LETTERS = "eeeettaaooiinnsshhrrddlluucmfwypvbgkjqxz"
MOST_MEMORY = 600  # megabytes, of preparing any of them
ENVIRONMENT = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}  # of all: as a user has it


def measure(rounds: int = 1, *, short: bool = False) -> Outcome:
    sizes = dict(list(SIZES.items())[: 1 if short else None])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        written = {name: write_text(folder / f"{size}.txt", size) for name, size in sizes.items()}
        prepare(folder, next(iter(sizes.values())), keep=folder / "prepared")
        (tokenizer,) = (folder / "prepared").glob("*/tokenizer.json")
        contestants: dict[str, Callable[[], Sample]] = {}
        for name, size in sizes.items():
            contestants[name] = lambda size=size: prepare(folder, size)
            contestants[f"{name}, tokens alone"] = lambda size=size: encode("ours", folder, size, tokenizer)
            contestants[f"{name}, encode_batch"] = lambda size=size: encode("theirs", folder, size, tokenizer)
        samples = interleaved(contestants, rounds, warm_up=0)
    # Per megabyte: flat means that ten times the text takes ten times the time.
    rates = {contestant: written[contestant.partition(",")[0]] / 1e6 for contestant in contestants}
    bars = []
    for name in sizes:
        ours, theirs = f"{name}, tokens alone", f"{name}, encode_batch"
        bars.append(Bar(f"tokenizing {name} to files, over encode_batch", ours, theirs, 1, "wall"))
        bars.append(Bar(f"preparing {name}, memory over {MOST_MEMORY} MB", name, MOST_MEMORY, 1, "megabytes"))
    notes = [
        "A vocabulary of 8,192. A size alone is the whole process from text to data, its start of some seconds, two "
        "passes over the text and learning the tokenizer included; the other two are timed inside."
    ]
    return Outcome(samples, bars, unit="s", rates=rates, rate_unit="MB/s", memory=True, notes=notes)


def prepare(folder: Path, size: int, keep: Path | None = None) -> Sample:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        words = ["data=text", f"data.path={folder}/{size}.txt", f"data.prepared={keep or temporary}", "model=tiny"]
        return command([sys.executable, "-m", "lm", "prepare", *words, "model.config.vocab_size=8192"],
                       cwd=project.PROJECT, env=ENVIRONMENT)  # fmt: skip


def encode(who: str, folder: Path, size: int, tokenizer: Path) -> Sample:
    words = [sys.executable, str(project.HERE / "encode.py"), who, f"{folder}/{size}.txt", str(tokenizer)]
    done = subprocess.run(words, env=ENVIRONMENT, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("tokens") > size / 10
    return Sample(**found)


def write_text(path: Path, size: int) -> int:
    """Write lines of words as frequent as those of a language (Zipf's law), again and again with new numbers."""
    draw = random.Random(0)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 10))) for _ in range(50_000)]
    chosen = draw.choices(words, [1 / rank for rank in range(1, len(words) + 1)], k=2_000_000)
    lines = "".join(f"\n {' '.join(chosen[start : start + 12])}" for start in range(0, len(chosen), 12))
    written = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for number in itertools.count():
            written += file.write(lines.replace("\n", f"\n{number}"))
            if written >= size:
                return written
    raise AssertionError("count() ended")
