"""Did the first step move all that is trained, and nothing that is frozen? Always there: it costs one pass."""

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.optim import Optimizer

from harness.checkpoint.match import MOST_ROWS
from harness.errors import UserError
from harness.module import GuardedModule
from harness.step.delayed import DelayedReadback
from harness.telemetry import events, statistics
from harness.wrappers import plain

log = logging.getLogger(__name__)

TRIES = 3  # half of an adapter has no gradient before the other half has moved


class FirstStep(Callback):
    """Compares every parameter before and after the first step of an attempt that changes anything, and says what
    moved. A frozen one that did is a UserError, a trained one that did not is a warning, each with its name.

    Of a trained parameter the element with the largest gradient is compared: an embedding learns in the rows of a batch
    alone. Of a frozen one, a sample.
    """

    reads_metrics = False

    def __init__(self) -> None:
        self._tries = TRIES  # that are left; 0: all is said
        self._moved: set[str] = set()
        self._lagged = DelayedReadback(0)
        self._before: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: GuardedModule) -> None:  # type: ignore[override]
        # Of what is sharded (a DTensor) a rank has a part, and asking for an element is asking all ranks.
        whole = ((n, p) for n, p in pl_module.network.named_parameters() if p.numel() and not hasattr(p, "to_local"))
        named = [(plain(name), parameter) for name, parameter in whole]
        self._trained = [(name, p) for name, p in named if p.requires_grad]
        self._frozen = [(name, p) for name, p in named if not p.requires_grad]
        self._lagged = DelayedReadback(2 if trainer.strategy.root_device.type == "cuda" else 0)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: GuardedModule, optimizer: Optimizer) -> None:  # type: ignore[override]
        if self._tries and optimizer.param_groups[0]["lr"]:
            # Without a gradient nothing is trained, and any place is as good.
            self._places = [0 if p.grad is None else p.grad.detach().abs().argmax() for _, p in self._trained]
            self._before = self._values()
            self._sample = statistics.Weights([p for _, p in self._frozen])

    def on_train_batch_end(self, trainer: Trainer, pl_module: GuardedModule, *_: Any) -> None:  # type: ignore[override]
        if self._before:
            assert pl_module.decision is not None
            changed = [now.ne(old).float() for now, old in zip(self._values(), self._before, strict=True)]
            if self._frozen:
                changed += self._sample.changes()[: len(self._frozen)].unbind()
            self._lagged.push(trainer.global_step, torch.stack([pl_module.decision.skip.float(), *changed]))
            self._before = []
        for record in self._lagged.ready(trainer.global_step):
            skipped, *numbers = record.values
            if self._tries and not skipped:
                self._tell(record.step, numbers)

    def _values(self) -> list[Tensor]:
        return [p.detach().flatten()[at].clone() for (_, p), at in zip(self._trained, self._places, strict=True)]

    def _tell(self, step: int, changed: list[float]) -> None:
        trained, frozen = [name for name, _ in self._trained], [name for name, _ in self._frozen]
        self._tries -= 1
        self._moved |= {name for name, change in zip(trained, changed, strict=False) if change}
        still = [name for name in trained if name not in self._moved]
        strayed = [name for name, change in zip(frozen, changed[len(trained) :], strict=True) if change]
        if still and not strayed and self._tries:
            return
        self._tries = 0
        data = {"trained": len(trained), "frozen": len(frozen), "not_moved": still[:MOST_ROWS], "strayed": strayed}
        events.emit("first_step", step, data, warning=bool(still or strayed))
        if strayed:
            raise UserError(
                f"Step {step} moved {len(strayed)} of {len(frozen)} frozen tensors: {_some(strayed)}.",
                cure="Something besides this run's optimizer writes to them: look at the callbacks.",
            )
        if still:
            numbers = len(still), len(trained), step
            log.warning("%d of %d trained tensors have not moved by step %d: %s", *numbers, _some(still))
        elif frozen:
            numbers = step, len(trained), len(frozen)
            log.info("By step %d all %d trained tensors have moved, and none of %d frozen.", *numbers)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
