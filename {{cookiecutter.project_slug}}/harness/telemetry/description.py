"""What defines a training, in plain values: for the first event of an attempt."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer


def describe(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Return what defines a training: sizes, the Trainer's settings, the optimizers' settings."""
    trainable = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
    total, network = sum(p.numel() for p in pl_module.parameters()), getattr(pl_module, "network", None)
    training = {
        "max_steps": trainer.max_steps,
        "max_epochs": trainer.max_epochs,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "precision": trainer.precision,
        "strategy": type(trainer.strategy).__name__,
        "world_size": trainer.world_size,
        "device": str(trainer.strategy.root_device),
    }
    return {
        "parameters": {"trainable": trainable, "frozen": total - trainable, "total": total},
        **({"parts": parts()} if (parts := getattr(network, "parts", None)) else {}),  # of a model made of several
        "training": training,
        "data": describe_data(trainer),
        "schedule": [type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs],
        "optimizers": [groups(optimizer) for optimizer in trainer.optimizers],
    }


def describe_data(trainer: Trainer) -> dict[str, Any]:
    """Return how much data there is and in what portions, as far as the data module says so."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    batches = trainer.num_training_batches
    facts: dict[str, Any] = {"batch_size": getattr(data, "batch_size", None), "batches_per_epoch": batches}
    facts["steps_per_epoch"] = math.ceil(batches / trainer.accumulate_grad_batches)
    for name in ("train_set", "val_set"):
        if (rows := getattr(data, name, None)) is not None:
            facts[name] = len(rows)
    if trainer.max_steps > 0:
        facts["epochs"] = trainer.max_steps / max(1, facts["steps_per_epoch"])
    return facts


def groups(optimizer: Optimizer) -> dict[str, Any]:
    """Return an optimizer's name and the numbers of its parameter groups."""
    keys = ("lr", "betas", "momentum", "eps", "weight_decay")
    numbers = [{key: group[key] for key in keys if key in group} for group in optimizer.param_groups]
    return {"name": type(optimizer).__name__, "groups": numbers}
