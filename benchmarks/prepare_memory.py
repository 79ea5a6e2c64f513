"""How much memory it takes to prepare text of any size, and how fast it goes: 0.1 and 1 GB, made here.

    python benchmarks/prepare_memory.py [--gb 0.1 1.0] [--vocab 8192]

Memory must not grow with the text: 600 MB at 1 GB. Each size is one file without blank lines.
"""

import argparse
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = next(Path(__file__).resolve().parents[1].glob("*cookiecutter.project_slug*"))
MOST_MEGABYTES = 600
LETTERS = "eeeettaaooiinnsshhrrddlluucmfwypvbgkjqxz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--vocab", type=int, default=8192)
    args = parser.parse_args()
    peaks = [measure(gigabytes, args.vocab) for gigabytes in args.gb]
    sys.exit(f"More than {MOST_MEGABYTES} MB." if max(peaks) > MOST_MEGABYTES else 0)


def measure(gigabytes: float, vocab: int) -> float:
    """Prepare so much text and return the peak of resident memory in MB."""
    with tempfile.TemporaryDirectory(prefix="prepare-memory-") as folder:
        text = Path(folder) / "text.txt"
        size = write_text(text, int(gigabytes * 1e9))
        overrides = ["data=text", f"data.path={text}", f"data.prepared={folder}/prepared"]
        model = ["model=tiny", f"model.config.vocab_size={vocab}"]
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "lm", "prepare", *overrides, *model], cwd=PROJECT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    if status:
        sys.exit("It failed.")
    peak = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    print(f"{size / 1e9:.2f} GB of text: {peak:.0f} MB of memory, {seconds:.0f} s, {size / seconds / 1e6:.1f} MB/s")
    return peak


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


if __name__ == "__main__":
    main()
