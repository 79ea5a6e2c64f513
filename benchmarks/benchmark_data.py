"""How fast text is prepared, and in how much memory, at any size: files without blank lines, made here."""

import itertools
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import project
from timing import Outcome, Sample, command, interleaved

SIZES = {"10 MB": 10_000_000, "100 MB": 100_000_000, "1 GB": 1_000_000_000}
LETTERS = "eeeettaaooiinnsshhrrddlluucmfwypvbgkjqxz"


def measure(rounds: int = 1, *, short: bool = False) -> Outcome:
    sizes = dict(list(SIZES.items())[: 1 if short else None])
    with tempfile.TemporaryDirectory() as folder:
        written = {name: write_text(Path(folder) / f"{size}.txt", size) for name, size in sizes.items()}
        contestants: dict[str, Callable[[], Sample]] = {
            name: lambda size=size: prepare(Path(folder), size) for name, size in sizes.items()
        }
        samples = interleaved(contestants, rounds, warm_up=0)
    # Per megabyte: flat means that ten times the text takes ten times the time.
    rates = {name: size / 1e6 for name, size in written.items()}
    return Outcome(samples, [], unit="s", rates=rates, rate_unit="MB/s", memory=True,
                   notes=["A vocabulary of 8,192. The whole process, its start of some seconds included."])  # fmt: skip


def prepare(folder: Path, size: int) -> Sample:
    with tempfile.TemporaryDirectory(dir=folder) as prepared:
        words = ["data=text", f"data.path={folder}/{size}.txt", f"data.prepared={prepared}", "model=tiny"]
        return command([sys.executable, "-m", "lm", "prepare", *words, "model.config.vocab_size=8192"],
                       cwd=project.PROJECT)  # fmt: skip


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
