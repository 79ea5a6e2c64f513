"""What is wrong with values that are fine one by one, and what this machine cannot do."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Lightning's arguments that a run sets itself, with what does here what they do there.
ELSEWHERE = {
    "gradient_clip_val": "callbacks.nan_guard.max_grad_norm=…",
    "gradient_clip_algorithm": "callbacks.nan_guard.max_grad_norm=…, which clips by norm",
    "logger": "logger=…",
    "callbacks": "+callbacks.mine=…",
    "enable_checkpointing": "checkpoint.every_n_steps=…, or callbacks.checkpoint=null for none",
    "default_root_dir": "run.root=…",
    "barebones": "callbacks.NAME=null and logger=none for what shall be off",
}


def complaints(cfg: "DictConfig") -> Iterator[str]:
    """Yield what is wrong, in sentences. Every type and range is right already. Reads the disk, writes nothing."""
    yield from _lengths(cfg)
    yield from _intervals(cfg)
    yield from _devices(cfg)
    yield from _places(cfg)


def _lengths(cfg: "DictConfig") -> Iterator[str]:
    if cfg.trainer.max_steps == -1 and cfg.trainer.get("max_epochs") in (None, -1):
        yield "The run would never end: set trainer.max_steps or trainer.max_epochs."
    if cfg.trainer.max_steps == 0 or cfg.trainer.get("max_epochs") == 0:
        name = "max_steps" if cfg.trainer.max_steps == 0 else "max_epochs"
        yield f"trainer.{name}=0 trains nothing. To score a run that is there: python evaluate.py runs/NAME."
    if cfg.trainer.get("limit_train_batches") == 0:
        yield "trainer.limit_train_batches=0 trains nothing: 1 is one batch an epoch, 1.0 is all of them."
    for name, instead in ELSEWHERE.items():
        if cfg.trainer.get(name) is not None:
            yield f"trainer.{name} is decided elsewhere: use {instead}."
    if cfg.trainer.use_distributed_sampler:
        yield "trainer.use_distributed_sampler=true would change the order of the data, and resuming rests on it."


def _intervals(cfg: "DictConfig") -> Iterator[str]:
    interval, epochs = cfg.trainer.get("val_check_interval"), cfg.trainer.get("check_val_every_n_epoch")
    if epochs is not None and isinstance(interval, int):
        yield (
            f"trainer.check_val_every_n_epoch={epochs} counts epochs and trainer.val_check_interval={interval} "
            "batches: add trainer.val_check_interval=1.0 to validate at the end of an epoch."
        )
    if epochs is None and isinstance(interval, float):
        yield (
            f"trainer.val_check_interval={interval} is a share of an epoch: add trainer.check_val_every_n_epoch=1. "
            "Without a point it counts micro-batches."
        )


def _devices(cfg: "DictConfig") -> Iterator[str]:
    strategy = cfg.trainer.get("strategy")
    if str(strategy).startswith(("fsdp", "deepspeed")):
        yield f"trainer.strategy={strategy} has checkpoints of its own kind, which are not kept here: use trainer=fsdp."
    cores = max(8, os.cpu_count() or 1)  # each device of a CPU is a process
    devices = cfg.trainer.devices
    if cfg.trainer.accelerator in ("cpu", "auto") and str(devices).isdecimal() and int(devices) > cores:
        yield f"trainer.devices={devices} is too large: each is a process, and here are {os.cpu_count()} cores."


def _places(cfg: "DictConfig") -> Iterator[str]:
    sources = {name: cfg.get(name) for name in ("resume_from", "start_from")}
    try:
        for name, source in sources.items():
            if source is not None and (name, source) != ("resume_from", "latest") and not Path(source).exists():
                yield f"There is nothing at {name}={source} (looked from {Path.cwd()})."
        folder = Path(cfg.run.dir)
        here = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        yield f"The run folder {cfg.run.dir} cannot be looked at: {error.strerror or error}. Try run.root=FOLDER."
        return
    if not here.is_dir():
        yield f"The run folder {folder} cannot be made: {here} is a file. Try run.root=FOLDER."
    elif not os.access(here, os.W_OK):
        yield f"The run folder {folder} cannot be written: no permission in {here}. Try run.root=FOLDER."


def too_small(key: str, node: "DictConfig", least: Mapping[str, int], why: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each value of `node` at `key` that is no whole number of at least so much; None is fine."""
    for name, lowest in least.items():
        value = node.get(name)
        if value is not None and not (isinstance(value, int) and value >= lowest):
            reason = f": {why[name]}" if name in why else ""
            yield f"{key}.{name}={value} is too small: the least is {lowest}{reason}."


def indivisible(key: str, node: "DictConfig", one: str, other: str) -> Iterator[str]:
    """Yield a sentence if the value `one` of `node` at `key` is no multiple of `other`; where both are given."""
    if node.get(one) and node.get(other) and node[one] % node[other]:
        yield f"{key}.{one}={node[one]} is not divisible by {key}.{other}={node[other]}."
