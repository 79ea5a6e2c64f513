"""Steps and time to the validation loss at which the default (AdamW) ends: `optimizer=muon` with ever fewer steps.

The default `python train.py` otherwise: 14m on the standard library, its own schedule over so many steps.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import project
from timing import Bar, Outcome, Sample, Samples, command

SHARES = (0.75, 0.65, 0.55, 0.45, 0.35)  # of the default's steps
ADAMW, MUON = "`optimizer=adamw`", "`optimizer=muon`"


def measure(rounds: int = 1, *, short: bool = False) -> Outcome:
    steps = int(project.config([]).trainer.max_steps)
    samples: Samples = {ADAMW: [], MUON: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            seed = [f"seed={number}"]
            default, wanted = run(Path(folder), "adamw", steps, seed)
            samples[ADAMW].append(default)
            tries = []
            for share in SHARES:
                needed = round(steps * share)
                sample, loss = run(Path(folder), "muon", needed, seed)
                tries.append(f"{needed} steps of Muon: {loss:.4f}")
                if loss > wanted and len(tries) > 1:
                    break
                reached = sample
            samples[MUON].append(reached)
    notes = [f"Validation loss of {steps} steps of AdamW: {wanted:.4f}; " + ", ".join(tries) + "."]
    bars = [Bar("steps of Muon to the loss where AdamW ends", MUON, ADAMW, 0.75, "steps")]
    return Outcome(samples, bars, unit="s", notes=notes)


def run(folder: Path, optimizer: str, steps: int, words: list[str]) -> tuple[Sample, float]:
    """Train, and return the time and steps with the last validation loss."""
    name = f"{optimizer}-{steps}-{words[0]}"
    sample = command(
        [sys.executable, "train.py", f"optimizer={optimizer}", f"trainer.max_steps={steps}", f"run.name='{name}'",
         f"run.root={folder}/runs", f"data.prepared={folder}/prepared", "callbacks.samples=null",
         "trainer.val_check_interval=100000", *words],
        cwd=project.PROJECT,
    )  # fmt: skip
    return replace(sample, steps=steps), project.validation_loss(folder / "runs" / name)
