"""What each optimizer step saw and what came of it, written down as it happens: for runs that are killed."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, Trainer

from lm.module import LmModule

STEP_RECORD = "+callbacks.step_record={_target_: step_record.StepRecord}"


class StepRecord(Callback):
    """Appends a line for each micro-batch to a file of its rank: the step, a digest of each window; and the loss, once
    the step is done."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LmModule, batch: Any, batch_idx: int) -> None:
        rows = batch["input_ids"].cpu().numpy()
        windows = [hashlib.sha256(row.tobytes()).hexdigest()[:12] for row in rows]
        self._step = trainer.global_step + 1
        self._write(trainer, {"windows": windows, "begins": batch_idx % trainer.accumulate_grad_batches == 0})

    def on_train_batch_end(self, trainer: Trainer, pl_module: LmModule, *_: Any) -> None:
        if trainer.global_step == self._step:
            self._write(trainer, {"loss": pl_module.mean.loss.item()})

    def _write(self, trainer: Trainer, facts: dict[str, Any]) -> None:
        line = {"step": self._step, "ranks": trainer.world_size, **facts}
        with Path(trainer.default_root_dir, f"steps-{trainer.global_rank}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Step(NamedTuple):
    windows: list[str]
    loss: float


def recorded(run: Path) -> list[Step]:
    """Return the steps of a run in their order, each as it was done last: after a kill some are done again."""
    lines = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in run.glob("steps-*.jsonl")}
    facts = {name: [json.loads(line) for line in text] for name, text in lines.items()}
    losses = {fact["step"]: fact["loss"] for fact in facts["steps-0"] if "loss" in fact}
    ranks = {fact["step"]: fact["ranks"] for fact in facts["steps-0"]}
    windows: dict[tuple[int, int], list[str]] = {}
    for name, of_rank in facts.items():
        for fact in of_rank:
            key = fact["step"], int(name.removeprefix("steps-"))
            if "windows" in fact:
                windows[key] = ([] if fact["begins"] else windows[key]) + fact["windows"]
    return [
        Step(sorted(window for rank in range(ranks[step]) for window in windows[step, rank]), losses[step])
        for step in sorted(losses)
    ]
