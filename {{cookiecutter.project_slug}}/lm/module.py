"""The training step: loss, optimizer, schedule, and the guard that clips or skips, of a causal language model.

B rows, T positions, V vocabulary.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from harness.nan.guard import Guard, StepGate, Verdict, total_norm
from harness.nan.precision import FallbackPrecision, LossScale
from harness.step.loss_window import LossWindow, Mean
from harness.step.oom_retry import Batch, MicrobatchSplitter
from lm.data.windows import NO_LABEL


class LmModule(LightningModule):
    """Wraps a transformers model for Lightning. `make_optimizer(parameter_groups)` and `make_scheduler(optimizer)` are
    partial functions from the config; `nominal_labels` is the number of labels in a full micro-batch; `compiled`
    compiles the training step only, so that nothing else sees it.

    Readable from callbacks: `mean` and `verdict` of the last optimizer step, on the device; `mean.factor` from
    `on_before_optimizer_step` on, which is what stored gradients have to be multiplied with to be the true ones.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        make_optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        make_scheduler: Callable[[Optimizer], LRScheduler],
        *,
        nominal_labels: int,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.make_optimizer = make_optimizer
        self.make_scheduler = make_scheduler
        self.validated_at = -1  # the optimizer step of the last whole validation
        self.guard = Guard()  # without limits; callbacks/nan_guard.py brings its own
        self.mean: Mean | None = None
        self.verdict: Verdict | None = None
        # Logits (B, T, V) of the last training batch, for a callback that asks: else they would take memory after the
        # step.
        self.keep_logits = False
        self.logits: Tensor | None = None
        self.nominal_labels = nominal_labels
        self._window = LossWindow(nominal_labels)
        self._gate: StepGate | None = None
        self.training_loss = torch.compile(self._sums, dynamic=False) if compiled else self._sums
        self.pieces = MicrobatchSplitter(self._loss, self._forget, self._step_context)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        return self.pieces.forward(batch, self.trainer.global_step)

    def backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        self.pieces.backward(loss, self.trainer.global_step)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        assert optimizer_closure is not None
        backward = optimizer_closure

        def backward_and_close() -> Any:
            loss = backward()
            self.pieces.close()
            mean = self._window.close(self.trainer.accumulate_grad_batches)
            self.mean = mean._replace(factor=mean.factor / scale.scale) if (scale := self._loss_scale) else mean
            return loss

        if self._gate is None or self._gate.optimizer is not self.trainer.optimizers[0]:
            self._gate = StepGate(self.trainer.optimizers[0])
        with self._gate:
            super().optimizer_step(epoch, batch_idx, optimizer, backward_and_close)

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        assert self._gate is not None and self.mean is not None
        self.verdict = self.guard.decide(total_norm(self.model.parameters()), self.mean.factor)
        self._gate.set(self.verdict)
        if scale := self._loss_scale:
            scale.update(~self.verdict.norm.isfinite())
        self.log("train/loss", self.mean.loss)
        self.log("grad_norm", self.verdict.norm)

    def on_validation_epoch_start(self) -> None:
        self._val = torch.zeros(2, dtype=torch.float64, device="cpu" if self.device.type == "mps" else self.device)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        total, valid, _ = self._sums(batch)
        self._val += torch.stack((total, valid)).to(self._val)

    def on_validation_epoch_end(self) -> None:
        gathered = cast(Tensor, self.all_gather(self._val))  # (2), with several ranks (ranks, 2)
        total, valid = gathered.reshape(-1, 2).sum(dim=0)
        # Token-weighted: each token of the validation text counts once, whatever batch or rank it fell to.
        self.log("val/loss", (total / valid.clamp(min=1)).float())
        self.validated_at = self.trainer.global_step

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(parameter_groups(self.model))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"},
        }

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.log("lr", optimizer.param_groups[0]["lr"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["pieces"] = self.pieces.number  # what ran out of memory once would do so again

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.pieces.number = checkpoint.get("pieces", 1)

    @property
    def _loss_scale(self) -> LossScale | None:
        plugin = self.trainer.precision_plugin
        return plugin.loss_scale if isinstance(plugin, FallbackPrecision) else None

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits (B, T, V) of a batch."""
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch.get("attention_mask")}
        logits: Tensor = self.model(**inputs, use_cache=False).logits
        return logits

    def _loss(self, rows: Batch) -> Tensor:
        total, labels, logits = self.training_loss(rows)
        self.logits = logits if self.keep_logits else None
        return self._window.add(total, labels)

    def _forget(self) -> None:
        self._window = LossWindow(self.nominal_labels)
        self.zero_grad()

    def _step_context(self) -> AbstractContextManager[None]:
        return self.trainer.precision_plugin.train_step_context()

    def _sums(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        logits = self(batch)
        # Detached here: an output that could be differentiated would cost the compiled backward a tensor of zeros this
        # size.
        return *loss_sums(logits, batch["labels"]), logits.detach()


def loss_sums(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy in nats and the number of labels it sums over, both float32 scalars.

    Position t of `logits` (B, T, V) predicts label t + 1 of `labels` (B, T). Counted after that shift, a row whose only
    label is its first token counts nothing; a batch without labels gives 0 / max(0, 1) = 0, not NaN.
    """
    targets = labels[:, 1:].flatten()  # (B * (T - 1))
    predictions = logits[:, :-1].flatten(0, 1).float()  # (B * (T - 1), V)
    total = F.cross_entropy(predictions, targets, ignore_index=NO_LABEL, reduction="sum")
    return total, (targets != NO_LABEL).sum().float()


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Return two optimizer groups: matrices, which weight decay shrinks, and vectors (biases, norms), which it must
    not."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.dim() >= 2]
    vectors = [parameter for parameter in trainable if parameter.dim() < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
