"""Muon for the matrices inside the network, AdamW for the rest, as one optimizer with one state.

Muon makes each update orthogonal (https://kellerjordan.github.io/posts/muon/), which is meant for a matrix that maps
one hidden space into another: not for embeddings, the head, norms and biases.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from lm.optim.groups import Roles


class Muon(Optimizer):
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
        chosen = [_only(group, [pair for pair in group["params"] if roles[pair[0]] == "matrix"]) for group in groups]
        others = [_only(group, [pair for pair in group["params"] if roles[pair[0]] != "matrix"]) for group in groups]
        common: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        shape: dict[str, Any] = {"momentum": momentum, "adjust_lr_fn": "match_rms_adamw"}
        parts: list[Optimizer] = []
        if any(chosen):
            parts.append(torch.optim.Muon([group for group in chosen if group], **common, **shape))
        if any(others):
            parts.append(AdamW([group for group in others if group], betas=betas, **common))
        self._parts = parts
        self._sizes = [len(part.param_groups) for part in parts]
        super().__init__([group for part in parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        first = 0
        for part, size in zip(self._parts, self._sizes, strict=True):
            # Here and not once: loading a checkpoint replaces both lists.
            part.param_groups, part.state = self.param_groups[first : first + size], self.state
            part.step()
            first += size
        return loss


def _only(group: dict[str, Any], pairs: list[Any]) -> dict[str, Any]:
    return {**group, "params": pairs} if pairs else {}
