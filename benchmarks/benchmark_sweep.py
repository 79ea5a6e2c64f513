"""How many more jobs an hour a sweep does than cold starts: 16 tiny jobs of two steps, one at a time.

Cold starts of `python train.py`, and as many jobs of one `python train.py -m`, which begins with the import of torch
too.
"""

import os
import sys
import tempfile
from pathlib import Path

import project
from timing import Bar, Outcome, Sample, Samples, command

JOBS = 16
SMALL = (
    "model=tiny", "model.config.vocab_size=300", "model.config.max_position_embeddings=16",
    "model.config.num_hidden_layers=2", "model.config.hidden_size=32", "model.config.intermediate_size=64",
    "data.batch_size=4", "trainer=cpu", "trainer.precision=32-true", "trainer.max_steps=2", "scheduler.warmup_steps=1",
    "logger=none",
)  # fmt: skip
RATES = [f"{number}e-4" for number in range(1, JOBS + 1)]  # the data are prepared once, for all of them
WARM, COLD = f"`python train.py -m`, {JOBS} jobs", f"{JOBS} times `python train.py`"


def measure(rounds: int = 3, *, short: bool = False) -> Outcome:
    samples: Samples = {COLD: [], WARM: []}
    with tempfile.TemporaryDirectory() as folder:
        prepared = [word for word in project.overrides(Path(folder)) if word.startswith("data")]
        train(*prepared, "optimizer.lr=1e-3", f"run.root={folder}/first")
        for number in range(rounds):
            cold = [train(*prepared, f"optimizer.lr={rate}", f"run.root={folder}/cold{number}") for rate in RATES]
            samples[COLD].append(Sample(sum(one.wall for one in cold), None))  # of the pool's processes nobody has it
            together = f"optimizer.lr={','.join(RATES)}"
            warm = train(*prepared, "-m", together, f"run.root={folder}/warm{number}")
            samples[WARM].append(Sample(warm.wall, None))
    return Outcome(
        samples, [Bar(f"{JOBS} jobs of a sweep over as many cold starts", WARM, COLD, 0.5, "wall")], unit="s"
    )


def train(*words: str) -> Sample:
    return command(
        [sys.executable, "train.py", *SMALL, *words], cwd=project.PROJECT, env=os.environ | {"PYTHONUTF8": "1"}
    )
