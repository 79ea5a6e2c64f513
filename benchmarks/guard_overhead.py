"""What does the NaN guard cost at 14M? python benchmarks/guard_overhead.py [--precision 32-true] [--rounds 30] [--clip]

One training run in which steps with the guard and steps of bare Lightning (no clipping, no norm, no callback)
alternate, in the order A B B A, on batches of 8 x 256. Prints the medians and the ratio, in wall time and in CPU time
of this process. On a shared machine single steps differ by a tenth, and it takes some 250 rounds to know the ratio to
within 0.01. With --clip the bare side clips, as Lightning's gradient_clip_val does.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = next(Path(__file__).resolve().parents[1].glob("*cookiecutter.project_slug*"))
sys.path.insert(0, str(PROJECT))

from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from torch import Tensor  # noqa: E402

from harness.callbacks.nan_guard import NanGuard  # noqa: E402
from harness.config.compose import compose  # noqa: E402
from lm import fit  # noqa: E402
from lm.module import Batch, LmModule  # noqa: E402

WARM_UP = 4  # steps that are not counted
GUARDED, BARE = True, False
times: dict[bool, list[tuple[float, float]]] = {GUARDED: [], BARE: []}  # wall and CPU seconds of each step


class Switched(LmModule):
    """With the guard or without, as `guarded` says."""

    guarded = GUARDED
    bare_clips = False

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        if self.guarded:
            return super().training_step(batch, batch_index)
        total, labels, _ = self.training_loss(batch)
        loss = total / labels.clamp(min=1)
        self.log("train/loss", loss)
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        (super() if self.guarded else super(LmModule, self)).backward(loss, *args, **kwargs)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        (super() if self.guarded else super(LmModule, self)).optimizer_step(*args, **kwargs)

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        if self.guarded:
            super().configure_gradient_clipping(*args, **kwargs)
        elif self.bare_clips:
            self.clip_gradients(args[0], gradient_clip_val=1.0, gradient_clip_algorithm="norm")


class SwitchedGuard(NanGuard):
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if pl_module.guarded:
            super().on_train_batch_start(trainer, pl_module, *args)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if pl_module.guarded:
            super().on_train_batch_end(trainer, pl_module, *args)


class Clock(Callback):
    """Times a step from its first hook to the first hook of the next one, and switches between the two."""

    def __init__(self) -> None:
        self.before: tuple[float, float] | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        now = time.perf_counter(), time.process_time()
        if self.before and batch_idx > WARM_UP:
            times[pl_module.guarded].append((now[0] - self.before[0], now[1] - self.before[1]))
        pl_module.guarded = batch_idx % 4 in (0, 3)
        self.before = time.perf_counter(), time.process_time()


def main(folder: Path, precision: str, rounds: int, clip: bool) -> None:
    text = folder / "text"
    text.mkdir()
    words = random.Random(0)
    for number in range(50):
        (text / f"{number}.txt").write_text(" ".join(words.choices("abcdefgh", k=20000)), encoding="utf-8")
    cfg = compose(
        [
            "model=14m",
            "data=text",
            f"data.path={text}",
            "data.batch_size=8",
            "data.val_fraction=0.2",
            "model.compile=false",
            f"data.prepared={folder}/prepared",
            f"run.root={folder}/runs",
            "trainer=cpu",
            f"trainer.precision={precision}",
            f"trainer.max_steps={WARM_UP + 4 * rounds + 2}",
            "trainer.limit_val_batches=0",
            "trainer.log_every_n_steps=1000",
            "logger=none",
            "callbacks.checkpoint=null",
            "callbacks.debug_log=null",
            "callbacks.samples=null",
            "callbacks.progress=null",
            "callbacks.nan_guard._target_=__main__.SwitchedGuard",
            "+callbacks.clock._target_=__main__.Clock",
        ]
    )
    OmegaConf.resolve(cfg)
    fit.LmModule, Switched.bare_clips = Switched, clip  # type: ignore[misc]
    fit.train(cfg)
    without = "Lightning's own clipping" if clip else "bare"
    print(f"\n14M, 8 x 256, {precision}, {len(times[GUARDED])} steps with the guard and {len(times[BARE])} {without}")
    for index, name in enumerate(("wall", "CPU")):
        ours, bare = ([step[index] for step in times[kind]] for kind in (GUARDED, BARE))
        # Two steps with and the two without between them: a machine whose speed drifts is the same for both.
        ratios = [sum(ours[i : i + 2]) / sum(bare[i : i + 2]) for i in range(0, len(bare) - 1, 2)]
        low, high = interval(ratios)
        print(
            f"{name:4}  bare {statistics.median(bare) * 1e3:7.1f} ms  guard {statistics.median(ours) * 1e3:7.1f} ms  "
            f"ratio {statistics.median(ratios):.4f}  (95 %: {low:.4f} to {high:.4f})"
        )


def interval(ratios: list[float], resamplings: int = 2000) -> tuple[float, float]:
    """Return the 95 % interval of the median ratio of a round, by bootstrap."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(resamplings))
    return medians[int(0.025 * resamplings)], medians[int(0.975 * resamplings)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--clip", action="store_true", help="let bare Lightning clip too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch), options.precision, options.rounds, options.clip)
