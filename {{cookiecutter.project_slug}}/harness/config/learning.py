"""The keys of optimizers and schedules that every preset has, for experiments to name in their Keys."""

from typing import ClassVar

from harness.config.kinds import Amount, Count, Section, Share, extra, key


class Optimizer(Section):
    kept: ClassVar[frozenset[str]] = frozenset()
    lr: Amount = key("the peak learning rate")
    weight_decay: Amount = extra("the decay of matrices; biases and norms have none")


class Scheduler(Section):
    kept: ClassVar[frozenset[str]] = frozenset()
    warmup_steps: Count = extra("the optimizer steps of linear warm-up")
    min_lr_ratio: Share = extra("the last learning rate as a share of the peak")
