"""Looks into the step of a bundle when the replay gets there, and ends it."""

import math
import sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from harness.batch import Batch
from harness.checkpoint.rng import drawn_from, of_step
from harness.distributed import all_gather
from harness.module import GuardedModule
from harness.nan import bundle as bundles
from harness.nan.finder import FirstNonFinite, NonFinite
from harness.nan.guard import total_norm
from harness.ranks import rank
from harness.replay.diagnosis import Diagnosis, Trial, diagnose, most_telling
from harness.step.loss_window import LossWindow

FORMATS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
# What fp16 training scales its loss with at first. Without it small gradients would vanish and large ones not overflow.
FP16_SCALE = 2.0**16


class Reached(Exception):
    """The replay is over; carries what was found."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        super().__init__()
        self.diagnosis = diagnosis


class Watch(Callback):
    """Sees the step happen in the trainer, then tries it alone in every precision, and with a healthy batch."""

    def __init__(self, bundle: str) -> None:
        self.incident = bundles.read(Path(bundle), rank())
        self._batches: list[Batch] = []
        self._watching = ExitStack()

    def on_train_batch_start(self, trainer: Trainer, pl_module: GuardedModule, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        if trainer.global_step + 1 != self.incident.step:
            return
        if not self._batches:
            self._begin(pl_module)
        self._batches.append(batch)

    def on_train_batch_end(self, trainer: Trainer, pl_module: GuardedModule, *_: Any) -> None:  # type: ignore[override]
        if trainer.global_step == self.incident.step:
            self._watching.close()
            raise Reached(most_telling(all_gather(self._examine(trainer, pl_module), trainer)))

    def _begin(self, module: GuardedModule) -> None:
        self._rng = of_step(module.device)
        plugin: Any = module.trainer.precision_plugin
        scale = getattr(plugin, "loss_scale", None)
        self._scale = scale.scale.item() if scale else FP16_SCALE
        self._finder = self._watching.enter_context(FirstNonFinite(module.network, on_found=stop_in_debugger))
        self._watching.enter_context(eager())

    def on_before_backward(self, trainer: Trainer, pl_module: GuardedModule, loss: Tensor) -> None:  # type: ignore[override]
        if self._batches:
            self._finder.check_loss(loss)

    def _examine(self, trainer: Trainer, module: GuardedModule) -> Diagnosis:
        # The step was skipped, so these are the weights that it began with.
        assert module.decision is not None
        decision = module.decision
        norm, limit = decision.norm.item(), decision.limit.item()
        bad_weights = [name for name, weight in module.network.named_parameters() if not bool(weight.isfinite().all())]
        module.float()  # of a run in bf16-true, say; this process trains no further
        healthy = trainer.strategy.batch_to_device(self._healthy_batch(trainer))
        return diagnose(
            precision=trainer.precision_plugin.precision,
            norm=norm,
            skipped=bool(decision.skip),
            found=self._finder.found,
            bad_weights=bad_weights,
            trials=[self._try(module, name, self._batches, limit) for name in FORMATS],
            other_batch=self._try(module, "32-true", [healthy], limit),
            same_batches=self._same_batches(),
            rank=trainer.global_rank,
        )

    def _try(self, module: GuardedModule, precision: str, batches: list[Batch], limit: float) -> Trial:
        """Compute loss and gradient of a step in some precision."""
        module.zero_grad()
        module.window = LossWindow(module.window.labels_per_batch)
        scale = self._scale if precision == "16-mixed" else 1.0
        with eager(), drawn_from(self._rng, module.device), FirstNonFinite(module.network) as finder:
            for index, batch in enumerate(batches):
                enabled = precision != "32-true"
                with torch.autocast(module.device.type, FORMATS[precision], enabled=enabled, cache_enabled=False):
                    loss = cast(Tensor, module.training_step(batch, index))
                finder.check_loss(loss)
                loss.backward(torch.full_like(loss, scale))
        module.splitter.close()
        mean = module.window.close(1, all_ranks=False)
        norm = (total_norm(module.parameters()) * mean.factor / scale).item()
        fine = norm <= limit and math.isfinite(mean.loss.item())
        return Trial(precision, mean.loss.item(), norm, fine, finder.found)

    def _healthy_batch(self, trainer: Trainer) -> Batch:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loaders = (data.val_dataloader(), data.train_dataloader())
        return next(batch for loader in loaders if loader is not None for batch in loader)

    def _same_batches(self) -> bool:
        pairs = zip(self._batches, self.incident.batches, strict=False)
        return len(self._batches) == len(self.incident.batches) and all(
            same(now[name].cpu(), then[name]) for now, then in pairs for name in then
        )


def eager() -> AbstractContextManager[Any]:
    """Do not use compiled code inside: it calls no hook."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def stop_in_debugger(found: NonFinite) -> None:
    """Stop when a debugger is attached: two frames up is the module's call with its inputs.

    A bare breakpoint() would open a console, and hang a job that has none.
    """
    debugpy = sys.modules.get("debugpy")
    if debugpy and debugpy.is_client_connected():
        debugpy.breakpoint()


def same(one: Tensor, other: Tensor) -> bool:
    """Say whether two tensors hold the same values; what is not a number equals itself here."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())
