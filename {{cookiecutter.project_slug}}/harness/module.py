"""The guarded optimizer step, for any LightningModule: exact mean, clip or skip on the device, retry out of memory.

    class Mine(GuardedModule):
        def training_step(self, batch, batch_index):
            errors = self(batch["x"]) - batch["y"]
            return self.mean_loss(errors.square().sum(), len(errors))

What a step does, in order: the experiment's `training_step`, `backward`, and once a window of micro-batches is complete
the norm of its true gradient, the decision (pass, clip or skip), the optimizer. Nothing of it waits for the device.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.batch import Batch, BatchFormat
from harness.checkpoint.elsewhere import Elsewhere
from harness.data.exact import ExactData
from harness.errors import said_of
from harness.nan.guard import Guard, StepDecision, StepGate, total_norm
from harness.nan.isolated import isolated
from harness.nan.precision import FallbackPrecision, LossScale
from harness.sharding import ShardedStrategy, repeated_layers
from harness.step.agreement import MemoryAgreement
from harness.step.loss_window import LossWindow, Mean
from harness.step.oom_retry import MicrobatchSplitter
from harness.telemetry.reading import step_is_read


class GuardedModule(LightningModule):
    """Inherit, write `training_step` with `mean_loss`, `validation_step` with `count_validation`, and the rest as ever.

    labels_per_batch: what a full micro-batch divides its loss by; any constant is right, see loss_window.py.
    format: what a batch of this experiment is.

    Readable from callbacks: `mean` and `decision` of the last optimizer step, on the device; `mean.factor` from
    `on_before_optimizer_step` on, which is what stored gradients have to be multiplied with to be the true ones.
    """

    def __init__(self, *, labels_per_batch: float = 1.0, format: BatchFormat | None = None) -> None:
        super().__init__()
        self.format = format or BatchFormat()
        self.guard = Guard()  # without limits; callbacks/nan_guard.py brings its own
        self.mean: Mean | None = None
        self.decision: StepDecision | None = None
        # What of `network` a checkpoint leaves out, because it never changes and lies elsewhere.
        self.weights_elsewhere: Elsewhere | None = None
        self.validated_at = -1  # the optimizer step of the last whole validation
        # For a callback that asks: else they would take memory after the step.
        self.keep_outputs, self.outputs = False, cast("Tensor | None", None)
        self.window = LossWindow(labels_per_batch)
        self._sums_before: Tensor | None = None  # of the window, without the newest micro-batch
        # callbacks/nan_guard.py sets it: a bad micro-batch then costs itself alone, and a copy of the gradients.
        self.isolate_micro_batches, self.dropped_micro_batches = False, torch.zeros(())
        self.splitter = MicrobatchSplitter(self._forget, self._step_context)
        self._gate: StepGate | None = None
        self._walked: tuple[Any, int, list[nn.Parameter]] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let the steps that a subclass writes be done again in pieces when memory runs out, and what an optimizer or a
        schedule refuses be a sentence."""
        super().__init_subclass__(**kwargs)
        if "configure_optimizers" in cls.__dict__:
            named = said_of("optimizer or scheduler")
            cls.configure_optimizers = named(cls.__dict__["configure_optimizers"])  # type: ignore[method-assign]
        if "training_step" in cls.__dict__:
            cls.training_step = _retried(cls.__dict__["training_step"])  # type: ignore[method-assign]
        if "validation_step" in cls.__dict__:
            cls.validation_step = _validated(cls.__dict__["validation_step"])  # type: ignore[method-assign]

    # What an experiment calls.

    def mean_loss(self, total: Tensor, labels: Tensor | float) -> Tensor:
        """Return the loss to backpropagate, with its graph, for a summed loss over so many labels.

        Its gradient becomes that of the exact mean over the whole window: all micro-batches, all devices.
        """
        return self.window.add(total, torch.as_tensor(labels, dtype=torch.float32, device=total.device))

    def observe(self, outputs: Tensor) -> None:
        """Hand the model's outputs of a training batch to whoever records this step."""
        self.outputs = outputs.detach() if self.keep_outputs else None

    def count_validation(self, total: Tensor, labels: Tensor | float) -> None:
        """Count the summed loss of a validation batch. `val/loss` is the mean over all labels of all ranks: each counts
        once, whatever batch it fell to. `val/loss/NAME` is that of a set where validation has several."""
        labels = torch.as_tensor(labels, dtype=torch.float32, device=total.device)
        self._validation[self._part] += torch.stack((total.float(), labels)).to(self._validation)

    def sharded_layers(self) -> list[nn.Module]:
        """Return the modules whose weights `trainer=fsdp` gathers one after the other; each has to be called, not only
        read. By default what the outermost lists of modules hold, as a transformer's list of layers."""
        return repeated_layers(self.network)

    # What Lightning calls.

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedStrategy):
            strategy.shard(self.network, self.sharded_layers(), str(self.trainer.precision))

    def backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        scale = torch.ones_like(loss) * self._loss_scale.to(loss.device) if self._loss_scale else None
        micro_batches, number = self.trainer.accumulate_grad_batches, self.trainer.global_step + 1
        with self._isolated(loss) if self.isolate_micro_batches and micro_batches > 1 else nullcontext():
            self.splitter.backward(loss, scale, micro_batches, number)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        assert optimizer_closure is not None
        backward = optimizer_closure

        def backward_and_close() -> Any:
            loss = backward()
            self.splitter.agree(self.parameters(), self.trainer.global_step + 1)
            self.splitter.close()
            mean = self.window.close(self.trainer.accumulate_grad_batches)
            self.mean = mean._replace(factor=mean.factor / scale.scale) if (scale := self._loss_scale) else mean
            return loss

        if self._gate is None or self._gate.optimizer is not self.trainer.optimizers[0]:
            self._gate = StepGate(self.trainer.optimizers[0])
        with self._gate:
            super().optimizer_step(epoch, batch_idx, optimizer, backward_and_close)

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        assert self._gate is not None and self.mean is not None
        self.decision = self.guard.decide(total_norm(self._all_parameters(optimizer)), self.mean.factor, self.mean.loss)
        self._gate.set(self.decision)
        if scale := self._loss_scale:
            scale.update(~self.decision.norm.isfinite())
        if step_is_read(self.trainer):
            self.log("train/loss", self.mean.loss)
            self.log("grad_norm", self.decision.norm)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if step_is_read(self.trainer):
            self.log("lr", optimizer.param_groups[0]["lr"])

    def on_validation_epoch_start(self) -> None:
        # float64, in which a sum over billions of labels keeps its digits; Apple's GPUs have none.
        parts = getattr(self.trainer.datamodule, "val_parts", None) or {"": 0}  # type: ignore[attr-defined]
        self._parts, self._part, device = list(parts), 0, "cpu" if self.device.type == "mps" else self.device
        self._validation = torch.zeros(len(parts), 2, dtype=torch.float64, device=device)

    def on_validation_epoch_end(self) -> None:
        gathered = cast(Tensor, self.all_gather(self._validation))  # (parts, 2), with several ranks (ranks, parts, 2)
        sums = gathered.reshape(-1, *self._validation.shape).sum(dim=0)
        total, labels = sums.sum(dim=0)
        self.log("val/loss", (total / labels.clamp(min=1)).float())
        for name, (total, labels) in zip(self._parts, sums, strict=True) if len(sums) > 1 else ():
            self.log(f"val/loss/{name}", (total / labels.clamp(min=1)).float())
        self.validated_at = self.trainer.global_step

    def on_train_start(self) -> None:
        self.splitter.begin(MemoryAgreement.among(self.trainer))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.splitter.state(self._batch_size))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.splitter.restore(checkpoint, self._batch_size)
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning
        if isinstance(data, ExactData):
            data.realign(checkpoint)

    @property
    def network(self) -> nn.Module:
        """What learns: `self.model`, or the whole module where it has none. Weights are stored under its names."""
        model = getattr(self, "model", None)
        return model if isinstance(model, nn.Module) else self

    @property
    def _batch_size(self) -> int:
        return getattr(self.trainer.datamodule, "batch_size", 1)  # type: ignore[attr-defined]  # set by Lightning

    @property
    def _loss_scale(self) -> LossScale | None:
        plugin = self.trainer.precision_plugin
        return plugin.loss_scale if isinstance(plugin, FallbackPrecision) else None

    def _all_parameters(self, optimizer: Optimizer) -> list[nn.Parameter]:
        """Return every parameter, in the module's order. To walk a deep module at each step costs more than the norm;
        a parameter that is new to it and learns is new to the optimizer."""
        known = sum(len(group["params"]) for group in optimizer.param_groups)
        if self._walked is None or self._walked[:2] != (optimizer, known):
            self._walked = optimizer, known, list(self.parameters())
        return self._walked[2]

    @contextmanager
    def _isolated(self, loss: Tensor) -> Iterator[None]:
        """Take back what a micro-batch added to loss and gradients where either is not finite; on the device."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            yield  # the last micro-batch's gradients are already the sum of all ranks: nothing can be told apart
            return
        sums = self._sums_before
        with isolated(self.parameters(), loss) as said:
            yield
        (good,) = said
        self.window.take_back(sums, good)
        self.dropped_micro_batches = self.dropped_micro_batches.to(good.device) + (~good).float()

    def _forget(self) -> None:
        self.window = LossWindow(self.window.labels_per_batch)
        self.zero_grad()

    def _step_context(self) -> AbstractContextManager[None]:
        return self.trainer.precision_plugin.train_step_context()


def _retried(training_step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(training_step)
    def step(self: GuardedModule, batch: Batch, *args: Any, **kwargs: Any) -> Tensor:
        def loss(rows: Batch) -> Tensor:
            self._current_fx_name = "training_step"  # pieces run in `backward`, where Lightning lets nobody log
            return training_step(self, rows, *args, **kwargs)

        self.splitter.format = self.format
        self._sums_before = self.window.sums
        return self.splitter.forward(loss, batch, self.trainer.global_step + 1)

    return step


def _validated(validation_step: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(validation_step)
    def step(self: GuardedModule, batch: Batch, *args: Any, **kwargs: Any) -> None:
        counted, strategy = self._validation.clone(), self.trainer.strategy
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning
        self._part = data.val_part(args[0]) if len(self._parts) > 1 else 0
        self.splitter.format = self.format
        self.splitter.validate(
            lambda rows: validation_step(self, rows, *args, **kwargs),
            batch,
            lambda: setattr(self, "_validation", counted.clone()),
            self.trainer.global_step,
            # Sharded weights are gathered in each forward pass. DistributedDataParallel surrounds all pieces, once.
            alone=self.trainer.world_size == 1 or isinstance(strategy, DDPStrategy),
        )

    return step
