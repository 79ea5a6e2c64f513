"""How many more jobs an hour does a warm pool do than cold starts? python benchmarks/sweep.py [JOBS] [ROUNDS]

Tiny jobs of two steps, one at a time: cold starts of `python train.py`, and as many jobs of one `python train.py -m`,
which begins with the import of torch too. The two take turns, so that both meet the same machine.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = next(Path(__file__).resolve().parents[1].glob("*cookiecutter.project_slug*"))
SMALL = (
    "model=tiny", "model.config.vocab_size=300", "model.config.max_position_embeddings=16",
    "model.config.num_hidden_layers=2", "model.config.hidden_size=32", "model.config.intermediate_size=64",
    "data=text", "data.batch_size=4", "data.val_fraction=0.2", "trainer=cpu", "trainer.precision=32-true",
    "trainer.max_steps=2", "scheduler.warmup_steps=1", "optimizer.lr=1e-3", "logger=none",
)  # fmt: skip


def train(folder: Path, *words: str) -> None:
    command = [sys.executable, str(PROJECT / "train.py"), *SMALL, *words]
    subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONUTF8": "1"}, check=True, capture_output=True)


def seconds(folder: Path, *lines: tuple[str, ...]) -> float:
    started = time.perf_counter()
    for line in lines:
        train(folder, "data.path=corpus", f"data.prepared={folder}/prepared", *line)
    return time.perf_counter() - started


def main(folder: Path, jobs: int, rounds: int) -> None:
    words = random.Random(0)
    (folder / "corpus").mkdir()
    for number in range(40):
        text = " ".join(words.choices(["def", "return", "if", "else", "for", "in", "self", "name", "list"], k=120))
        (folder / "corpus" / f"{number:02}.txt").write_text(text, encoding="utf-8")
    seconds(folder, ("run.root=first",))  # prepares the data
    ratios = []
    for place in range(rounds):
        cold = seconds(folder, *((f"seed={seed}", f"run.root=cold{place}") for seed in range(jobs)))
        warm = seconds(folder, ("-m", f"seed=range(0,{jobs})", f"run.root=warm{place}"))
        ratios.append(cold / warm)
        print(f"{jobs} jobs: cold {cold / jobs:.2f} s a job, warm {warm / jobs:.2f} s a job, ratio {cold / warm:.2f}")
    print(
        f"jobs per hour, warm over cold: {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary), *given, *(16, 3)[len(given) :])
