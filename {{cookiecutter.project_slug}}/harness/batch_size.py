"""How an optimizer step is spread over devices and micro-batches, and how many rows of it suit this device.

With `data.batch_size=auto` steps of 1, 2, 4, … full rows are done with a model that is thrown away, until memory would
run out or twice the rows bring no more rows a second. On a GPU memory is what is tried, elsewhere what the last
doubling took is extrapolated: a CPU that is out of memory ends the process.
"""

import logging
import time
from collections.abc import Callable, Sized
from typing import Any, cast

import psutil
import torch
from lightning.fabric import Fabric
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig

from harness.config.global_batch import AUTO, accumulation, at_most, rows_each
from harness.data.exact import ExactData
from harness.errors import UserError
from harness.hardware import Picks, peak_memory, world_size
from harness.module import GuardedModule
from harness.run.folder import Run
from harness.step.oom_retry import free_memory, out_of_memory

log = logging.getLogger(__name__)

MARGIN = 0.9  # of the memory; validation, fragments and gradients on their way to other ranks need some
GAIN = 1.05  # in rows a second, less than which twice the rows are not worth their memory
SECONDS = 40.0  # after which no larger batch is tried


def trial(module: GuardedModule, data: ExactData, picks: Picks) -> Callable[[int], None]:
    """Return a training step of so many rows, the longest that `data` has, which waits for the device."""
    fabric = Fabric(accelerator=picks.accelerator, devices=1, precision=picks.precision)  # type: ignore[arg-type]
    configured: Any = module.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    _, optimizer = fabric.setup(module, optimizer)
    loss_of: Any = type(module).training_step.__wrapped__  # type: ignore[attr-defined]  # without retry in pieces

    def step(rows: int) -> None:
        data.batch_size = rows
        batch = fabric.to_device(data.collate([data.train_set[0]] * rows))
        with fabric.autocast():
            loss = loss_of(module, batch, 0)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def rows_that_fit(step: Callable[[int], None], device: str, most: int) -> int:
    """Return the number of rows, at most `most`, after which `step(rows)` gains nothing or takes too much memory.

    Raises UserError when a single row does not fit.
    """
    before, free, began = _resident(), psutil.virtual_memory().available, time.monotonic()
    best, fastest, rows = 0, 0.0, 1
    while rows <= most:
        seconds = _timed(step, rows)
        if seconds is None or rows < GAIN * fastest * seconds or (device == "cuda" and _gpu_share() > MARGIN):
            break
        best, fastest = rows, rows / seconds
        too_much = device != "cuda" and 2 * (peak_memory("cpu") - before) > MARGIN * free
        if too_much or time.monotonic() - began + 4 * seconds > SECONDS:
            break
        rows *= 2
    if not best:
        raise UserError(
            "Out of memory with a single row in the model.",
            cure="Try a smaller model, shorter rows, or model.gradient_checkpointing=true.",
        )
    return best


def _timed(step: Callable[[int], None], rows: int) -> float | None:
    """Return the seconds of the faster of two steps, None where memory runs out."""
    free_memory()
    seconds = []
    try:
        for _ in range(2):
            began = time.perf_counter()
            step(rows)
            seconds.append(time.perf_counter() - began)
    except Exception as error:
        if not out_of_memory(error):
            raise
        return None
    return min(seconds)


def _gpu_share() -> float:
    """Return which share of the GPU's memory torch has had at most."""
    return torch.cuda.max_memory_reserved() / torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def settle_batch_size(
    cfg: DictConfig,
    run: Run,
    data: ExactData,
    picks_of: Callable[[], Picks],
    build: Callable[[Picks], GuardedModule],
    *,
    row: int = 1,
) -> None:
    """Where `data.batch_size` is auto, let it be what the first attempt found here with a module of its own.

    row: as for `spread_step`, which comes after.
    """
    if cfg.data.batch_size != AUTO:
        return
    cfg.data.batch_size = 1
    rows = len(cast(Sized, data.train_set))
    whole, each = cfg.data.get("global_batch"), rows
    if whole:
        each = rows_each(cfg, ranks=world_size(cfg.trainer), row=row)

    def find() -> int:
        picks = picks_of()
        with isolate_rng():  # a model takes random numbers, and the one that is trained shall have the same
            return rows_that_fit(trial(build(picks), data, picks), picks.device, min(rows, each))

    found = run.settled("batch_size", find)
    free_memory()
    cfg.data.batch_size = data.batch_size = at_most(each, found) if whole else found
    log.info("data.batch_size=auto: %d rows, which suit this machine", cfg.data.batch_size)
    if not whole:
        log.info("It is part of the experiment, and elsewhere another: data.global_batch fixes what a step is")


def spread_step(cfg: DictConfig, *, row: int = 1, unit: str = "rows") -> None:
    """Where `data.global_batch` is set, let `trainer.accumulate_grad_batches` follow from it and from what is here, and
    say so. A whole `trainer.val_check_interval` counts optimizer steps then: they are what is the same everywhere.

    row: how many `unit` a row has.
    """
    if not (whole := cfg.data.get("global_batch")):
        return
    ranks = world_size(cfg.trainer)
    cfg.trainer.accumulate_grad_batches = count = accumulation(cfg, ranks=ranks, row=row)
    if isinstance(every := cfg.trainer.get("val_check_interval"), int):
        cfg.trainer.val_check_interval = every * count
    parts = ((ranks, "rank", "s"), (cfg.data.batch_size, "row", "s"), (count, "micro-batch", "es"))
    spread = " x ".join(f"{number} {name}{ending * (number != 1)}" for number, name, ending in parts)
    log.info("%s %s a step: %s%s", f"{whole:,}", unit, spread, f" of {row}" * (row != 1))
