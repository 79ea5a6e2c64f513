"""Muon for the matrices inside the network, AdamW for the rest, as one optimizer with one state.

Muon makes each update orthogonal (https://kellerjordan.github.io/posts/muon/), which is meant for a matrix that maps
one hidden space into another: not for embeddings, the head, norms and biases.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from harness.joined import JoinedOptimizer
from lm.optim.groups import Roles


class Muon(JoinedOptimizer):
    """`groups` are of (name, parameter). `lr` is AdamW's; Muon's update is scaled to the size of AdamW's, so that one
    rate and one schedule suit both (https://arxiv.org/abs/2502.16982)."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        roles: Roles,
        lr: float,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        common: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        shape: dict[str, Any] = {"momentum": momentum, "adjust_lr_fn": "match_rms_adamw"}
        parts: list[Optimizer] = []
        if matrices := _only(groups, lambda name: roles[name] == "matrix"):
            parts.append(torch.optim.Muon(matrices, **common, **shape))
        if others := _only(groups, lambda name: roles[name] != "matrix"):
            parts.append(AdamW(others, betas=betas, **common))
        super().__init__(parts)


def _only(groups: list[dict[str, Any]], wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Return the groups with the `wanted` names alone, without those that then have none."""
    chosen = [{**group, "params": [pair for pair in group["params"] if wanted(pair[0])]} for group in groups]
    return [group for group in chosen if group["params"]]
