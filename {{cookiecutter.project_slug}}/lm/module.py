"""The training step of a causal language model: forward, loss; validation; the optimizer and its schedule.

B rows, T positions, V vocabulary. What happens around a step (the mean over an accumulation window, clipping, skipping
a NaN, doing it again when memory runs out) is harness/module.py.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from harness.batch import Batch
from harness.checkpoint.elsewhere import Elsewhere
from harness.module import GuardedModule
from lm.batch import NO_LABEL, TokenBatch, logits_of
from lm.optim.groups import build_optimizer


class LmModule(GuardedModule):
    """Wraps a model for Lightning. `make_optimizer(groups)` and `make_scheduler(optimizer)` come from the config;
    `compiled` compiles the training step only, so that nothing else sees it."""

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[..., Optimizer],
        make_scheduler: Callable[[Optimizer], LRScheduler],
        *,
        format: TokenBatch,
        labels_per_batch: float,
        compiled: bool = False,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        super().__init__(labels_per_batch=labels_per_batch, format=format)
        self.model = model
        self.weights_elsewhere = elsewhere
        self.tokenizer = format.tokenizer
        self.make_optimizer = make_optimizer
        self.make_scheduler = make_scheduler
        self.training_losses = torch.compile(self.losses, dynamic=False) if compiled else self.losses

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        logits, total, labels = self.training_losses(batch)  # nats, summed over so many labels
        self.observe(logits)  # for the event log, at the steps that it records
        return self.mean_loss(total, labels)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        _, total, labels = self.losses(batch)
        self.count_validation(total, labels)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.make_optimizer, self.model)
        schedule = {"scheduler": self.make_scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def checkpoint_files(self) -> dict[str, str | bytes]:
        """Return what transformers needs beside the weights to load a checkpoint's folder as it is."""
        files: dict[str, str | bytes] = {"tokenizer.json": self.tokenizer.to_str()} if self.tokenizer else {}
        files |= getattr(getattr(self.trainer, "datamodule", None), "tokenizer_files", {})  # with its special tokens
        if isinstance(self.model, PreTrainedModel):
            files["config.json"] = self.model.config.to_json_string()
            if (how := self.model.generation_config) and not how._from_model_config:  # a pretrained model's own
                files["generation_config.json"] = how.to_json_string()
        return files

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        logits = self(batch)
        # Detached here: an output that could be differentiated would cost the compiled backward a tensor of zeros this
        # size.
        return logits.detach(), *loss_sums(logits, batch["labels"])

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits (B, T, V) of a batch."""
        return logits_of(self.model, batch)


def loss_sums(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy in nats and the number of labels it sums over, both float32 scalars.

    Position t of `logits` (B, T, V) predicts label t + 1 of `labels` (B, T). Counted after that shift, a row whose only
    label is its first token counts nothing; a batch without labels gives 0 / max(0, 1) = 0, not NaN.
    """
    targets = labels[:, 1:].flatten()  # (B * (T - 1))
    predictions = logits[:, :-1].flatten(0, 1).float()  # (B * (T - 1), V)
    total = F.cross_entropy(predictions, targets, ignore_index=NO_LABEL, reduction="sum")
    return total, (targets != NO_LABEL).sum().float()
