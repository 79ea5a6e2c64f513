"""The learning rate as a closed form of the step, so that resuming, raising max_steps or rolling back needs no
history."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, *, total_steps: int, warmup_steps: int, min_lr_ratio: float) -> LambdaLR:
    """Scale the learning rate by `cosine_ratio` at every optimizer step."""
    return LambdaLR(optimizer, lambda step: cosine_ratio(step, total_steps, warmup_steps, min_lr_ratio))


def cosine_ratio(step: int, total_steps: int, warmup_steps: int, min_lr_ratio: float) -> float:
    """Return the share of the peak at `step` (from 0): a line up to 1, then a cosine down to `min_lr_ratio` at the
    end."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return min_lr_ratio + (1 - min_lr_ratio) * (1 + math.cos(math.pi * progress)) / 2
