"""The process that makes one plan: the experiment's own `train`, in a temporary folder, up to where it would train.

The Trainer is built from `trainer._target_`. Here that is one which measures or counts instead, and ends the process's
work by raising what it found: so model, data, precision, batch, accumulation and optimizer are those of the run.
"""

import json
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from harness.cli import load, report_user_errors
from harness.config.compose import compose, hydra_errors_as_user_errors
from harness.config.global_batch import AUTO
from harness.errors import UserError
from harness.hardware import devices, world_size
from harness.plan.amounts import Found, plan
from harness.plan.command import Order
from harness.plan.counted import without_content
from harness.plan.measured import TooLarge
from harness.run import plans

MEASURED, COUNTED = "harness.plan.measured.Measuring", "harness.plan.counted.Counting"
OURS = "harness."  # loggers that write to the run's folder, and nowhere else


def main() -> None:
    """Make the plan that the file named by the first argument asks for."""
    order = Order(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    with report_user_errors(), hydra_errors_as_user_errors():
        cfg = compose(order.words)
        why = order.why_counted or why_not_here(cfg)
        try:
            found = look(arranged(cfg, order, counted=bool(why)), order.target, counted=bool(why))
        except TooLarge as reason:
            cfg, why = compose(order.words), str(reason)
            found = look(arranged(cfg, order, counted=True), order.target, counted=True)
        made = plan(cfg.trainer, found, name=order.name, done=order.done, why_counted=why)
        order.answer.write_text(plans.text(made), encoding="utf-8")


def why_not_here(cfg: DictConfig) -> str:
    """Say why this run cannot be measured here; an empty text where it can."""
    asked, ranks = str(cfg.trainer.accelerator), world_size(cfg.trainer)
    device = {"gpu": "cuda"}.get(asked, asked)
    if not devices().get(device, True):
        return f"no {device} device is here"
    return f"{ranks} devices are not started for a plan" if ranks > 1 else ""


def arranged(cfg: DictConfig, order: Order, *, counted: bool) -> DictConfig:
    """Let the run's folder be a temporary one, and its Trainer one of ours. Nothing leaves this machine."""
    if counted and cfg.data.get("batch_size") == AUTO:
        raise UserError(f"data.batch_size={AUTO} is found on the device that trains.", cure="Name a number here.")
    with open_dict(cfg):
        cfg.run = {"root": order.folder, "name": "run", "dir": Path(order.folder, "run").as_posix()}
        for name in [name for name, entry in cfg.logger.items() if counted or not _writes_files(entry)]:
            del cfg.logger[name]
        cfg.resume, cfg.resume_from, cfg.start_from = "auto", None, None
        cfg.trainer["_target_"] = COUNTED if counted else MEASURED
    return cfg


def look(cfg: DictConfig, target: str, *, counted: bool) -> Found:
    """Run the experiment up to its Trainer, and return what that found."""
    try:
        if counted:
            with without_content(cfg):
                load(target)(cfg)
        else:
            load(target)(cfg)
    except Found as found:
        return found
    raise RuntimeError(f"{target} came to its end without a Trainer.")


def _writes_files(entry: Any) -> bool:
    return entry is not None and str(entry.get("_target_", "")).startswith(OURS)
