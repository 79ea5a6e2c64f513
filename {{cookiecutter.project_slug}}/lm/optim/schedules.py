"""The learning rate as a closed form of the step, so that resuming, raising max_steps or rolling back needs no
history.

A schedule of one's own is a function like these: the optimizer, `total_steps`, and the values of its YAML.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, *, total_steps: int, warmup_steps: int, min_lr_ratio: float) -> LambdaLR:
    """Scale the learning rate by `cosine_ratio` at every optimizer step."""
    return LambdaLR(optimizer, lambda step: cosine_ratio(step, total_steps, warmup_steps, min_lr_ratio))


def cosine_ratio(step: int, total_steps: int, warmup_steps: int, min_lr_ratio: float) -> float:
    """Return the share of the peak at `step` (from 0): a line up to 1, then a cosine down to `min_lr_ratio` at the
    end."""
    # transformers' own begins at 0, so that its first step does nothing.
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return min_lr_ratio + (1 - min_lr_ratio) * (1 + math.cos(math.pi * progress)) / 2


def linear(optimizer: Optimizer, *, total_steps: int, warmup_steps: int) -> LambdaLR:
    """A line up, then a line down to 0 at the end, by transformers."""
    from transformers.optimization import get_linear_schedule_with_warmup  # which imports all of peft: half a second

    return get_linear_schedule_with_warmup(optimizer, warmup_steps, total_steps)  # type: ignore[no-any-return]


def wsd(
    optimizer: Optimizer, *, total_steps: int, warmup_steps: int, decay_share: float, min_lr_ratio: float
) -> LambdaLR:
    """Warm-up, stable, decay, by transformers: the peak is held until the last `decay_share` of all steps, which a
    cosine ends. A longer run then differs from a shorter one in its decay alone."""
    from transformers.optimization import get_wsd_schedule

    decay_steps = round(decay_share * total_steps)
    return get_wsd_schedule(optimizer, warmup_steps, decay_steps, total_steps, min_lr_ratio=min_lr_ratio)  # type: ignore[no-any-return]
