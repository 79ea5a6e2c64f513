"""Are two checkpoints the same, bit for bit?"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.checkpoint.read import Checkpoint, load_rng, load_trainer, load_weights


def first_difference(one: Checkpoint, other: Checkpoint) -> str:
    """Return what differs first between two checkpoints: weights, trainer, then generators; empty if nothing."""
    parts: list[tuple[str, Any, Any]] = [
        ("weights", load_weights(one), load_weights(other)),
        ("trainer", load_trainer(one), load_trainer(other)),
    ]
    for rank in itertools.count():
        states = load_rng(one, rank), load_rng(other, rank)
        if states == (None, None):
            break
        parts.append((f"rng/rank{rank}", *states))
    return next((found for name, left, right in parts for found in differences(left, right, name)), "")


def differences(one: Any, other: Any, path: str) -> Iterator[str]:
    """Yield a line for every leaf that is not the same; tensors are compared by their bits."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            yield f"{path}: {one.dtype} {tuple(one.shape)} and {other.dtype} {tuple(other.shape)}"
        elif not torch.equal(one.nan_to_num(), other.nan_to_num()) or not torch.equal(one.isnan(), other.isnan()):
            yield f"{path}: differs by up to {(one.double() - other.double()).abs().max().item():.3g}"
    elif isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted(one.keys() | other.keys(), key=str):
            yield from differences(one.get(key), other.get(key), f"{path}/{key}")
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        for index, pair in enumerate(itertools.zip_longest(one, other)):
            yield from differences(*pair, f"{path}/{index}")
    elif one != other:
        yield f"{path}: {one} and {other}"


def largest_gap(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest one between any two numbers of two rows of tensors; nan where one is not a number."""
    return float(torch.stack([(one - other).abs().max() for one, other in zip(ours, theirs, strict=True)]).max())
