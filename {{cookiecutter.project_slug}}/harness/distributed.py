"""What the ranks of a run tell each other. With one rank nothing here costs anything."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

T = TypeVar("T")


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


def together(part: Callable[[], T]) -> list[T]:
    """Have every rank do its part, and return what all of them did. An OSError of one rank is raised on all."""
    done: Any = None
    try:
        done = part()
    except OSError as error:
        done = error
    results: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(results, done)
    for result in results:
        if isinstance(result, OSError):
            raise result
    return results


def is_split(tensor: Tensor) -> bool:
    """Say whether each rank has a part of this tensor, as `trainer=fsdp` makes them."""
    return isinstance(tensor, DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """Return what this rank has of a tensor: all, unless it is split. Shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def norm_of_all(tensors: Iterable[Tensor]) -> Tensor:
    """Return the 2-norm over tensors, over the parts of all ranks where they are split: then all ranks have to call."""
    norm = torch.nn.utils.get_total_norm(list(tensors))
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
