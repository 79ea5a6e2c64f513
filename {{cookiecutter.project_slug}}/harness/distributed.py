"""What the ranks of a run tell each other. With one rank nothing here costs anything."""

from typing import Any

import torch
from lightning.pytorch import Trainer


def all_reduce_max(value: int, trainer: Trainer) -> int:
    """Return the largest `value` of all ranks, on every rank. Waits for the device."""
    if trainer.world_size == 1:
        return value
    return int(trainer.strategy.reduce(torch.tensor(value, device=trainer.strategy.root_device), reduce_op="max"))


def all_gather(value: Any, trainer: Trainer) -> list[Any]:
    """Return every rank's `value`, in the order of ranks, on every rank."""
    if trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values
