"""From what was found to a plan: how often, how long, how much. What is here is arithmetic, and knows no device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from lightning.pytorch import Callback
from omegaconf import DictConfig

from harness.callbacks.checkpoint import DurableCheckpoint
from harness.callbacks.periodic import Periodic
from harness.data.exact import ExactData
from harness.hardware import world_size
from harness.module import GuardedModule
from harness.run.plans import Plan
from harness.trainer import total_steps

SPLITS = {"train": "for training", "val": "held out"}


@dataclass(frozen=True)
class Times:
    """Seconds of one of each, as measured. `start` is the process before the run begins, `begin` from there to the
    first step; `first` are those steps that are slower than the rest, `first_seconds` all of them together."""

    start: float = 0.0
    begin: float = 0.0
    first: int = 0
    first_seconds: float = 0.0
    step: float = 0.0
    validation_batch: float = 0.0
    checkpoint: float = 0.0
    periodic: dict[str, float] = field(default_factory=dict)  # by the name of the callback


@dataclass(eq=False)
class Found(BaseException):  # not an Exception, which an experiment may catch
    """Carries what a Trainer of ours found out of the experiment's `train`."""

    module: GuardedModule
    data: ExactData
    callbacks: Sequence[Callback]
    device: str
    precision: str
    memory: dict[str, int]
    checkpoint_bytes: int
    parameters: int
    trainable: int
    operations: float = 0.0  # floating-point, of an optimizer step of one device
    times: Times | None = None


def plan(trainer: DictConfig, found: Found, *, name: str, done: int, why_counted: str) -> Plan:
    """Return the plan of a run whose config has this `trainer`."""
    data, ranks = found.data, world_size(trainer)
    accumulate = int(trainer.get("accumulate_grad_batches") or 1)
    steps = total_steps(trainer, data)
    left = max(0, steps - done)
    per_epoch = data.steps_per_epoch(world=ranks, accumulate=accumulate, limit=trainer.get("limit_train_batches"))
    windows, held_out = _size(data.train_set), _size(data.val_set)
    batches = validation_batches(trainer, held_out, data.batch_size, ranks)
    validations = number_of_validations(trainer, left, per_epoch * accumulate) if batches else 0
    seconds = spent(found, left, left / per_epoch, validations * batches) if found.times else {}
    kept, bytes_kept = disk(found, left, seconds.get("steps", 0.0), validations)
    rows = [data.train_set[index] for index in range(min(windows, data.batch_size))]
    return Plan(
        name=name,
        why_counted=why_counted,
        device=found.device,
        precision=found.precision,
        strategy=strategy_name(trainer),
        devices=ranks,
        parameters=found.parameters,
        trainable=found.trainable,
        memory=on_a_device(found.memory, strategy_name(trainer), ranks) | copy_kept(found, strategy_name(trainer)),
        data={split: counts for split in SPLITS if (counts := numbers(data.described.get(split)))},
        windows=windows,
        held_out=held_out,
        epochs=steps / per_epoch,
        steps=steps,
        done=done,
        step_windows=data.batch_size * accumulate * ranks,
        step_units=found.module.format.size(data.collate(rows)) * accumulate * ranks,
        unit=found.module.format.unit,
        start_seconds=found.times.start if found.times else 0.0,
        seconds=seconds,
        step_seconds=found.times.step if found.times else 0.0,
        operations=found.operations * steps * ranks,
        checkpoints=kept,
        checkpoint_bytes=found.checkpoint_bytes,
        disk_bytes=bytes_kept,
    )


def number_of_validations(trainer: DictConfig, steps: int, epoch: int) -> int:
    """Return how often a run of so many steps validates, the last step included. `epoch` is in micro-batches, as
    Lightning's `val_check_interval` is; one that is a time is not counted."""
    micro_batches = steps * int(trainer.get("accumulate_grad_batches") or 1)
    interval, epochs = trainer.get("val_check_interval", 1.0), trainer.get("check_val_every_n_epoch", 1)
    if isinstance(interval, float) or interval is None:
        every = max(1, round(epoch * (1.0 if interval is None else interval))) * int(epochs or 1)
    elif isinstance(interval, int):
        every = interval
    else:
        every = micro_batches + 1
    return micro_batches // every + bool(micro_batches % every) if micro_batches else 0


def validation_batches(trainer: DictConfig, held_out: int, batch_size: int, ranks: int) -> int:
    """Return how many batches a validation has on each rank."""
    batches, limit = math.ceil(math.ceil(held_out / ranks) / batch_size), trainer.get("limit_val_batches")
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def spent(found: Found, steps: int, epochs: float, batches: int) -> dict[str, float]:
    """Return the seconds of a run of so many steps and validation batches, by what they are spent on."""
    times = cast(Times, found.times)
    slow = min(steps, times.first)
    training = slow * times.first_seconds / max(1, times.first) + (steps - slow) * times.step
    parts = {"beginning": times.begin, "steps": training, "validation": batches * times.validation_batch}
    for callback in found.callbacks:
        if isinstance(callback, DurableCheckpoint):
            parts["checkpoints"] = written(callback, steps, training) * times.checkpoint
        elif isinstance(callback, Periodic):
            often = [steps / callback.every_n_steps if callback.every_n_steps else 0, training / callback.every_seconds]
            acts = int(max(often)) + (int(epochs) + 1 if callback.at_epoch_end else 0)
            name = type(callback).__name__
            parts[name.lower()] = acts * times.periodic.get(name, 0.0)
    return parts


def written(callback: DurableCheckpoint, steps: int, seconds: float) -> int:
    """Return how many checkpoints a run of so many steps and seconds writes, the last included."""
    by_steps = steps / callback.every_n_steps if callback.every_n_steps else 0.0
    return max(1, math.ceil(max(by_steps, seconds / callback.every_seconds)))


def disk(found: Found, steps: int, seconds: float, validations: int) -> tuple[int, int]:
    """Return how many checkpoints are kept in the end, and their bytes."""
    for callback in found.callbacks:
        if isinstance(callback, DurableCheckpoint):
            kept = callback.retention
            # The best may be among the newest: then it is fewer.
            count = min(kept.last + min(kept.best, validations), written(callback, steps, seconds) + validations)
            fitting = math.inf if kept.max_bytes is None else kept.max_bytes // max(1, found.checkpoint_bytes)
            count = int(max(1, min(count, fitting)))
            return count, count * found.checkpoint_bytes
    return 0, 0


def copy_kept(found: Found, strategy: str) -> dict[str, int]:
    """Return the copy from which checkpoints are written, where it is in the memory that is trained in."""
    behind = any(isinstance(callback, DurableCheckpoint) and callback.write_behind for callback in found.callbacks)
    return (
        {"checkpoint copy": found.checkpoint_bytes}
        if behind and found.device == "cpu" and strategy != "sharded"
        else {}
    )


def strategy_name(trainer: DictConfig) -> str:
    """Return `single`, `sharded` or `replicated`: where the states of a parameter are."""
    if world_size(trainer) == 1:
        return "single"
    chosen = trainer.get("strategy") or "auto"
    name = str(chosen if isinstance(chosen, str) else chosen.get("_target_", "")).lower()
    return "sharded" if any(word in name for word in ("shard", "fsdp", "modelparallel")) else "replicated"


def on_a_device(memory: dict[str, int], strategy: str, ranks: int) -> dict[str, int]:
    """Return what one of so many devices holds of what one alone would."""
    shared = ("weights", "gradients", "moments")
    if strategy == "sharded":
        return {part: math.ceil(size / ranks) if part in shared else size for part, size in memory.items()}
    # DDP adds up gradients in buckets of its own, as large as they are.
    return memory | ({"buckets": memory["gradients"]} if strategy == "replicated" else {})


def numbers(counts: Any) -> dict[str, int]:
    return {str(key): value for key, value in counts.items() if type(value) is int} if isinstance(counts, dict) else {}


def _size(windows: Any) -> int:
    return 0 if windows is None else len(windows)
