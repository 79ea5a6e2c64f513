"""Wall time to a validation loss of 1.88 on Shakespeare by characters, with the shape that nanoGPT's README gives for a
CPU (4 layers, 4 heads, 128 wide, context 64, batch 12), beside nanoGPT's own run of 2,000 iterations.

    NANOGPT=FOLDER        a checkout of github.com/karpathy/nanoGPT
    SHAKESPEARE=FILE      its data/shakespeare_char/input.txt

Both are whole commands, imports and preparation included, on the same split: the last tenth is for validation.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import project
from machine import fast_bf16
from timing import Absent, Bar, Outcome, Sample, command, interleaved

TARGET = 1.88
STEPS = 310  # enough for the target, with what follows from so few: a high peak, and a long way down from it
OURS, NANOGPT = "`train.py`", "nanoGPT"
SMALL = (
    "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=1", "--block_size=64", "--batch_size=12",
    "--n_layer=4", "--n_head=4", "--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0",
)  # fmt: skip


def measure(rounds: int = 3, *, short: bool = False) -> Outcome:
    if not {"NANOGPT", "SHAKESPEARE"} <= os.environ.keys():
        raise Absent("NANOGPT and SHAKESPEARE name no checkout of nanoGPT and no text")
    losses: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text = Path(os.environ["SHAKESPEARE"]).read_text(encoding="utf-8")
        for name, part in (("train", text[: len(text) * 9 // 10]), ("val", text[len(text) * 9 // 10 :])):
            (folder / f"{name}.txt").write_text(part, encoding="utf-8", newline="\n")
        checkout = shutil.copytree(os.environ["NANOGPT"], folder / "nanoGPT")
        data = checkout / "data" / "shakespeare_char"
        (data / "input.txt").write_text(text, encoding="utf-8", newline="\n")
        command([sys.executable, "prepare.py"], cwd=data)
        contestants: dict[str, Callable[[], Sample]] = {
            NANOGPT: lambda: nanogpt(checkout, losses),
            OURS: lambda: ours(folder, losses),
        }
        samples = interleaved(contestants, rounds, warm_up=0)
    found = f"Last validation losses: nanoGPT {losses[NANOGPT]:.4f}, `train.py` with Muon {losses[OURS]:.4f}."
    return Outcome(
        samples,
        [
            Bar(
                f"`train.py` to a loss of {TARGET} over nanoGPT's own run",
                OURS,
                NANOGPT,
                0.3 if fast_bf16() else 0.5,
                "wall",
            )
        ],
        unit="s",
        notes=[found + ("" if losses[OURS] <= TARGET else f" **The loss of {TARGET} was not reached.**")],
    )


def nanogpt(checkout: Path, losses: dict[str, float]) -> Sample:
    log = checkout / "log.txt"
    sample = command([sys.executable, "train.py", "config/train_shakespeare_char.py", *SMALL], cwd=checkout, log=log)
    losses[NANOGPT] = float(re.findall(r"val loss ([\d.]+)", log.read_text(encoding="utf-8"))[-1])
    return sample


def ours(folder: Path, losses: dict[str, float]) -> Sample:
    runs = folder / f"runs-{next(project.RUNS)}"
    sample = command(
        [sys.executable, "train.py", "model=tiny", "model.config.vocab_size=257",
         "model.config.max_position_embeddings=65",  # 64 that are predicted, as nanoGPT's
         "data=text", f"data.path={folder}/train.txt", f"data.val_path={folder}/val.txt",
         "data.tokenizer.kind=characters", f"data.prepared={runs}/prepared", "data.batch_size=12",
         "optimizer=muon", "optimizer.lr=8e-3", "scheduler=wsd", "scheduler.decay_share=0.7",
         "scheduler.warmup_steps=10", f"trainer.max_steps={STEPS}",
         "trainer.val_check_interval=100000", "callbacks.samples=null", f"run.root={runs}", "run.name=shakespeare"],
        cwd=project.PROJECT,
    )  # fmt: skip
    losses[OURS] = project.validation_loss(runs / "shakespeare")
    return sample
