"""Looks into the step of a bundle when the replay gets there, and ends it."""

import sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from harness.distributed import all_gather
from harness.nan import bundle as bundles
from harness.nan.bundle import Batch
from harness.nan.evidence import drawn_from, generators
from harness.nan.finder import Finding, FirstNonFinite
from harness.nan.guard import total_norm
from harness.replay.verdict import Trial, Verdict, judge, most_telling
from harness.telemetry.logs import rank
from lm.module import LmModule

FORMATS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
# What fp16 training scales its loss with at first. Without it small gradients would vanish and large ones not overflow.
FP16_SCALE = 2.0**16


class Reached(Exception):
    """The replay is over; carries what was found."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__()
        self.verdict = verdict


class Watch(Callback):
    """Sees the step happen in the trainer, then tries it alone in every precision, and with a healthy batch."""

    def __init__(self, bundle: str) -> None:
        self.incident = bundles.read(Path(bundle), rank())
        self._batches: list[Batch] = []
        self._watching = ExitStack()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LmModule, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        if trainer.global_step + 1 != self.incident.step:
            return
        if not self._batches:
            self._begin(pl_module)
        self._batches.append(batch)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LmModule, *_: Any) -> None:  # type: ignore[override]
        if trainer.global_step == self.incident.step:
            self._watching.close()
            raise Reached(most_telling(all_gather(self._examine(trainer, pl_module), trainer)))

    def _begin(self, module: LmModule) -> None:
        self._rng = generators(module.device)
        plugin: Any = module.trainer.precision_plugin
        scale = getattr(plugin, "loss_scale", None)
        self._scale = scale.scale.item() if scale else FP16_SCALE
        self._finder = self._watching.enter_context(FirstNonFinite(module.model, on_found=stop_in_debugger))
        self._watching.enter_context(eager())
        self._loss = module.training_loss

        def watched(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
            sums = self._loss(batch)
            self._finder.check_loss(sums[0])
            return sums

        module.training_loss = watched

    def _examine(self, trainer: Trainer, module: LmModule) -> Verdict:
        # The step was skipped, so these are the weights that it began with.
        assert module.verdict is not None
        norm, limit = module.verdict.norm.item(), module.verdict.limit.item()
        bad_weights = [name for name, weight in module.model.named_parameters() if not bool(weight.isfinite().all())]
        module.float()  # of a run in bf16-true, say; this process trains no further
        healthy = trainer.strategy.batch_to_device(next(iter(trainer.datamodule.val_dataloader())))  # type: ignore[attr-defined]
        return judge(
            precision=trainer.precision_plugin.precision,
            norm=norm,
            limit=limit,
            found=self._finder.found,
            bad_weights=bad_weights,
            trials=[self._try(module, name, self._batches, limit) for name in FORMATS],
            other_batch=self._try(module, "32-true", [healthy], limit),
            same_batches=self._same_batches(),
            rank=trainer.global_rank,
        )

    def _try(self, module: LmModule, precision: str, batches: list[Batch], limit: float) -> Trial:
        """Compute loss and gradient of a step in some precision."""
        module.zero_grad()
        scale = self._scale if precision == "16-mixed" else 1.0
        sums: list[tuple[float, float]] = []
        with eager(), drawn_from(self._rng, module.device), FirstNonFinite(module.model) as finder:
            for batch in batches:
                enabled = precision != "32-true"
                with torch.autocast(module.device.type, FORMATS[precision], enabled=enabled, cache_enabled=False):
                    total, labels, _ = self._loss(batch)
                finder.check_loss(total)
                (total * (scale / module.nominal_labels)).backward()
                sums.append((total.item(), labels.item()))
        count = max(sum(labels for _, labels in sums), 1)
        norm = total_norm(module.parameters()).item() * module.nominal_labels / count / scale
        return Trial(precision, sum(total for total, _ in sums) / count, norm, norm <= limit, finder.found)

    def _same_batches(self) -> bool:
        pairs = zip(self._batches, self.incident.batches, strict=False)
        return len(self._batches) == len(self.incident.batches) and all(
            torch.equal(now[name].cpu(), then[name]) for now, then in pairs for name in then
        )


def eager() -> AbstractContextManager[Any]:
    """Do not use compiled code inside: it calls no hook."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def stop_in_debugger(finding: Finding) -> None:
    """Stop when a debugger is attached: two frames up is the module's call with its inputs.

    A bare breakpoint() would open a console, and hang a job that has none.
    """
    debugpy = sys.modules.get("debugpy")
    if debugpy and debugpy.is_client_connected():
        debugpy.breakpoint()
