"""Take weights and moments from a checkpoint that was good, in the middle of a run; step, schedule and data go on."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.optim import Optimizer

from harness.checkpoint import read
from harness.checkpoint.io import restore_weights, wait_for_writing
from harness.checkpoint.ledger import Rollback, good_checkpoints, read_ledger, write_down
from harness.distributed import all_reduce_max


def roll_back(trainer: Trainer, module: Any, *, first_bad: int, good_after: int) -> Rollback | None:
    """Go back to the newest good checkpoint and return what was done; None where there is nothing to go back to.

    Rank 0 chooses. A run that was killed between the ledger's line and the next checkpoint finds its own line and does
    the same again, whatever has become of newer checkpoints.
    """
    run = Path(trainer.default_root_dir)
    now = trainer.global_step
    wait_for_writing(trainer)
    chosen = _choose(run, now, first_bad, good_after) if trainer.is_global_zero else None
    step = all_reduce_max(-1 if chosen is None else chosen.step, trainer)
    if step < 0:
        return None
    checkpoint = chosen or next(c for c in read.checkpoints(run / "checkpoints") if c.step == step)
    data = trainer.datamodule  # type: ignore[attr-defined]
    windows = read.load_tree(checkpoint)[type(data).__qualname__]["windows"]
    done = Rollback(now, checkpoint.step, first_bad, windows, data.consumed)
    if trainer.is_global_zero:
        write_down(run, done)
    state = restore_weights(trainer, module, checkpoint)
    _load_moments(trainer.optimizers[0], state["optimizer_states"][0])
    return done


def _choose(run: Path, now: int, first_bad: int, good_after: int) -> read.Checkpoint | None:
    ledger = read_ledger(run)
    found = read.checkpoints(run / "checkpoints")
    again = [c for entry in ledger if entry.step == now for c in found if c.step == entry.to]
    for checkpoint in again or good_checkpoints(found, ledger, first_bad=first_bad, good_after=good_after):
        try:
            read.verify(checkpoint)
        except read.DamagedCheckpoint:
            continue
        if all(bool(torch.isfinite(tensor).all()) for tensor in read.load_weights(checkpoint).values()):
            return checkpoint
    return None


def _load_moments(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load all but the learning rate, which belongs to the step: the schedule goes on from there."""
    rates = [(group["lr"], group.get("initial_lr")) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, (lr, initial_lr) in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
        if initial_lr is not None:
            group["initial_lr"] = initial_lr
