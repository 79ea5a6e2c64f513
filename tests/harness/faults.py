"""Faults as a user's own callback would bring them, and a recorder of what training did about them."""

import json
import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lm.module import LmModule


def with_callback(callback: type[Callback], /, name: str = "fault", **arguments: Any) -> str:
    """Return the override that adds a callback of this file."""
    values = "".join(f", {key}: {json.dumps(value)}" for key, value in arguments.items())
    return f"+callbacks.{name}={{_target_: faults.{callback.__name__}{values}}}"


class Fault(Callback):
    """Spoils the given optimizer steps (from 1) in one way; `rank` limits it to one rank."""

    def __init__(self, kind: str, steps: list[int], rank: int | None = None, seed: int = 0) -> None:
        self.kind, self.steps, self.rank, self.seed = kind, steps, rank, seed
        self.undo: Callable[[], None] = lambda: None

    def on_train_start(self, trainer: Trainer, pl_module: LmModule) -> None:
        def spoil(optimizer: Any, *_: Any) -> None:
            if self._due(trainer):
                AFTER[self.kind](pl_module, optimizer)

        if self.kind in AFTER:
            trainer.optimizers[0].register_step_post_hook(spoil)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LmModule, batch: Any, batch_idx: int) -> None:
        self.undo()
        self.undo = lambda: None
        if self._due(trainer) and self.kind in FORWARD:
            self.undo = FORWARD[self.kind](pl_module, batch)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LmModule, optimizer: Any) -> None:
        if self._due(trainer) and self.kind in BACKWARD:
            BACKWARD[self.kind](list(pl_module.parameters()), pl_module.mean.factor)

    def _due(self, trainer: Trainer) -> bool:
        return trainer.global_step + 1 in self.steps and self.rank in (None, trainer.global_rank)


def _loss(module: LmModule, _batch: Any) -> Callable[[], None]:
    losses = module.training_losses

    def spoiled(batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        logits, total, labels = losses(batch)
        return logits, total * math.nan, labels

    module.training_losses = spoiled
    return lambda: setattr(module, "training_losses", losses)


def _loss_alone(module: LmModule, _batch: Any) -> Callable[[], None]:
    losses = module.training_losses

    def spoiled(batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        logits, total, labels = losses(batch)
        return logits, total + math.nan, labels  # whose gradient knows nothing of it

    module.training_losses = spoiled
    return lambda: setattr(module, "training_losses", losses)


def _output(name: str, spoil: Callable[[Tensor], Tensor]) -> Callable[[LmModule, Any], Callable[[], None]]:
    def install(module: LmModule, _batch: Any) -> Callable[[], None]:
        return module.model.get_submodule(name).register_forward_hook(lambda _m, _a, out: spoil(out)).remove

    return install


def _weight(module: LmModule, _batch: Any) -> Callable[[], None]:
    with torch.no_grad():
        module.model.get_submodule("model.layers.1.mlp.up_proj").weight[0, 0] = math.nan
    return lambda: None


def _no_labels(_module: LmModule, batch: Any) -> Callable[[], None]:
    batch["labels"].fill_(-100)
    return lambda: None


FORWARD: dict[str, Callable[[LmModule, Any], Callable[[], None]]] = {
    "loss": _loss,
    "loss alone": _loss_alone,
    "embedding": _output("model.embed_tokens", lambda out: out.index_fill(1, torch.tensor([3]), math.nan)),
    "overflow": _output("lm_head", lambda out: out * 1e5),  # beyond fp16, far within bf16 and fp32
    "weight": _weight,
    "no labels": _no_labels,
}
# What a step leaves behind, seen by no gradient of its own.
AFTER: dict[str, Callable[[LmModule, Any], Any]] = {
    "weight after": lambda module, _: module.model.get_submodule("model.norm").weight.data[:1].fill_(math.inf),
    "moment": lambda module, optimizer: optimizer.state[module.model.get_submodule("model.norm").weight]["exp_avg_sq"][
        :1
    ].fill_(math.inf),
}
# `factor` makes true gradients of the stored ones, which fp16 has scaled.
BACKWARD: dict[str, Callable[[list[Tensor], Tensor], Any]] = {
    "one gradient": lambda weights, factor: weights[0].grad.view(-1)[0].fill_(math.nan),
    "all gradients": lambda weights, factor: [weight.grad.fill_(math.inf) for weight in weights],
    "norm of 1e6": lambda weights, factor: weights[0].grad.view(-1)[0].fill_(1e6 / factor),
}


class Record(Callback):
    """Copies weights, moments, counters and precision after every optimizer step."""

    last: "Record"

    def __init__(self) -> None:
        Record.last = self
        self.after: dict[int, list[Tensor]] = {}
        self.precision: dict[int, str] = {}
        self.lr: dict[int, float] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LmModule, *_: Any) -> None:
        optimizer = trainer.optimizers[0]
        state = [value for group in optimizer.state.values() for value in group.values()]
        self.after[trainer.global_step] = [t.detach().clone() for t in [*pl_module.parameters(), *state]]
        self.precision[trainer.global_step] = trainer.precision_plugin.precision
        self.lr[trainer.global_step] = optimizer.param_groups[0]["lr"]

    def unchanged(self) -> list[int]:
        """Return the steps that changed nothing, not a bit."""
        return [
            step
            for step in self.after
            if step - 1 in self.after
            and all(torch.equal(a, b) for a, b in zip(self.after[step - 1], self.after[step], strict=True))
        ]


class Injection(Callback):
    """Makes one module fail in one step, for a reason that a replay has to tell.

    data: the batch of that step has a mark, and the module turns whatever has it into nan ("output"), or spoils the
    gradient that passes through ("gradient"). precision: what the module computes overflows in fp16 and not in wider
    formats. weights: the module's weight gets a nan.
    """

    MARK = (7, 7, 9, 9)  # token ids that no text of the tests begins with

    def __init__(self, module: str, step: int, kind: str) -> None:
        self.module, self.step, self.kind = module, step, kind
        self.marked = False

    def on_fit_start(self, trainer: Trainer, pl_module: LmModule) -> None:
        module = pl_module.model.get_submodule(self.module)
        pl_module.model.register_forward_pre_hook(self._look, with_kwargs=True)
        if self.kind == "gradient":
            # Inside of forward: what a hook does happens at the door, and is the caller's.
            forward = module.forward
            module.forward = lambda x: forward(NanBackward.apply(x) if self.marked else x)
        elif self.kind != "weights":
            module.register_forward_hook(lambda _m, _a, out: self._spoil_output(out))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LmModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step + 1 != self.step:
            return
        batch["input_ids"][1, :4] = torch.tensor(self.MARK)
        if self.kind == "weights":
            with torch.no_grad():
                pl_module.model.get_submodule(self.module).weight.view(-1)[0] = math.nan

    def _look(self, _module: Any, _args: Any, kwargs: Any) -> None:
        self.marked = any(tuple(row[:4]) == self.MARK for row in kwargs["input_ids"].tolist())

    def _spoil_output(self, out: Tensor) -> Tensor:
        if not self.marked:
            return out
        if self.kind == "output":
            return out.index_fill(-1, torch.tensor([0]), math.nan)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        return ((out + 1).to(dtype) * 1e6 / 1e6).to(out.dtype) - 1


class NanBackward(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * math.nan


class Dump(Callback):
    """Leaves what each rank has at the end in its own file, with the steps that changed nothing."""

    def __init__(self) -> None:
        self.record = Record()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LmModule, *_: Any) -> None:
        self.record.on_train_batch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LmModule) -> None:
        state = {"tensors": self.record.after[trainer.global_step], "unchanged": self.record.unchanged()}
        torch.save(state, f"{trainer.default_root_dir}/rank{trainer.global_rank}.pt")


class ThinOut(Callback):
    """Takes the label from every third token id, so that rows and ranks have different numbers of labels."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LmModule, batch: Any, batch_idx: int) -> None:
        batch["labels"][batch["input_ids"] % 3 == 0] = -100


class Losses(Callback):
    """Reads the loss of every optimizer step."""

    last: "Losses"

    def __init__(self) -> None:
        Losses.last = self
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LmModule, *_: Any) -> None:
        self.losses.append(pl_module.mean.loss.item())


class Windows(Callback):
    """Notes which rows were trained, in their order."""

    last: "Windows"

    def __init__(self) -> None:
        Windows.last = self
        self.rows: list[tuple[int, ...]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LmModule, batch: Any, batch_idx: int) -> None:
        self.rows += [tuple(row) for row in batch["input_ids"].tolist()]


class NoMemory(Callback):
    """A device that is full when validation begins."""

    def on_validation_start(self, trainer: Trainer, pl_module: LmModule) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


class SmallValidation(Callback):
    """A device on which more than `rows` rows do not fit in validation; `rank` limits it to one rank."""

    def __init__(self, rows: int, rank: int | None = None) -> None:
        self.rows, self.rank = rows, rank

    def on_fit_start(self, trainer: Trainer, pl_module: LmModule) -> None:
        if self.rank not in (None, trainer.global_rank):
            return
        losses = pl_module.losses

        def limited(batch: Any) -> tuple[Tensor, Tensor, Tensor]:
            if len(batch["labels"]) > self.rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            return losses(batch)

        pl_module.losses = limited


class SmallMemory(Callback):
    """A device that holds at most `rows` rows: from step `first` on, more of them end the forward pass, or the backward
    pass when `backward`, out of memory."""

    def __init__(self, rows: int, backward: bool = False, first: int = 1) -> None:
        self.rows, self.backward, self.first = rows, backward, first

    def on_train_start(self, trainer: Trainer, pl_module: LmModule) -> None:
        losses = pl_module.training_losses

        def full() -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

        def limited(batch: Any) -> tuple[Tensor, Tensor, Tensor]:
            logits, total, labels = losses(batch)
            if trainer.global_step + 1 >= self.first and len(batch["labels"]) > self.rows:
                if not self.backward:
                    full()
                # In the middle of the way back: the last layers have their gradients by then.
                weight = pl_module.model.get_submodule("model.layers.0.mlp.up_proj").weight
                hook = weight.register_hook(lambda _: (hook.remove(), full()))
            return logits, total, labels

        pl_module.training_losses = limited


class OneRankOutOfMemory(Callback):
    """A device of one rank that is full once: in the forward pass of a micro-batch, or in the middle of its backward
    pass; `again` lets the first try in pieces fail, too."""

    def __init__(self, rank: int, step: int, micro_batch: int = 0, backward: bool = False, again: bool = False) -> None:
        self.rank, self.step, self.micro_batch, self.backward = rank, step, micro_batch, backward
        self.left = 1 + again

    def on_train_start(self, trainer: Trainer, pl_module: LmModule) -> None:
        losses = pl_module.training_losses

        def full(*_: Any) -> None:
            self.left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

        def limited(batch: Any) -> tuple[Tensor, Tensor, Tensor]:
            place = trainer.fit_loop.batch_idx % trainer.accumulate_grad_batches
            due = trainer.global_step + 1 == self.step and place >= self.micro_batch
            if trainer.global_rank != self.rank or not self.left or not due:
                return losses(batch)
            if not self.backward:
                full()
            logits, total, labels = losses(batch)
            weight = pl_module.model.get_submodule("model.layers.0.mlp.up_proj").weight
            hook = weight.register_hook(lambda _: (hook.remove(), full()))
            return logits, total, labels

        pl_module.training_losses = limited
