"""What the guard does to a real run. Faults are injected as a user's own callback would do it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from lm.module import LmModule


class Poison(Callback):
    """Spoils the gradients of the given steps (from 1), after backward and before the guard looks."""

    def __init__(self, steps: list[int], value: float = math.nan, everywhere: bool = False) -> None:
        self.steps, self.value, self.everywhere = steps, value, everywhere

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LmModule, optimizer: Any) -> None:
        if trainer.global_step + 1 in self.steps:
            for parameter in list(pl_module.parameters())[: None if self.everywhere else 1]:
                parameter.grad.fill_(self.value) if self.everywhere else parameter.grad.view(-1)[0].fill_(self.value)


class Record(Callback):
    """Copies weights, moments and counters after every optimizer step."""

    last: "Record"

    def __init__(self) -> None:
        Record.last = self
        self.after: dict[int, list[torch.Tensor]] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LmModule, *_: Any) -> None:
        state = [value for group in trainer.optimizers[0].state.values() for value in group.values()]
        self.after[trainer.global_step] = [t.detach().clone() for t in [*pl_module.parameters(), *state]]


def with_callback(kind: type, name: str = "fault", **arguments: Any) -> str:
    """The override by which a user adds this callback."""
    values = "".join(f", {key}: {json.dumps(value)}" for key, value in arguments.items())
    return f"+callbacks.{name}={{_target_: {__name__}.{kind.__name__}{values}}}"


def unchanged(before: int, after: int) -> bool:
    """Whether weights, moments and counters are bitwise the same after two steps."""
    old, new = Record.last.after[before], Record.last.after[after]
    return all(torch.equal(a, b) for a, b in zip(old, new, strict=True))


def skips(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "logs" / "train.log").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "was skipped" in line]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_nan_gradient_is_a_skipped_step(
    train: Callable[..., Path], precision: str, accumulate: int, everywhere: bool
) -> None:
    train(
        with_callback(Poison, steps=[3], everywhere=everywhere),
        with_callback(Record, name="record"),
        f"trainer.precision={precision}",
        f"trainer.accumulate_grad_batches={accumulate}",
        "model.attention=eager",
        "logger=none",
    )
    assert [step for step in range(2, 7) if unchanged(step - 1, step)] == [3]
