"""Makes what a checkpoint holds exact, whoever asks for it. Always there, and first: it is not a matter of taste."""

import logging
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder

from harness.checkpoint import read, rng
from harness.checkpoint.io import at_boundary, run_facts, stored_model
from harness.checkpoint.loaded import loaded
from harness.checkpoint.moments import load_by_name, refuse_another_kind
from harness.distributed import all_gather
from harness.errors import UserError

log = logging.getLogger(__name__)

# Why a callback of Lightning cannot be here, and what to type instead.
INEXACT = {
    # It counts in epochs, and sets its number at the start of one only: a resumed epoch would have another.
    GradientAccumulationScheduler: "Set trainer.accumulate_grad_batches to one number.",
    # They train some steps and go back to a checkpoint of their own.
    BatchSizeFinder: "Set data.batch_size; a batch that is too large for memory is cut into pieces.",
    LearningRateFinder: "Try some: python train.py -m optimizer.lr=1e-3,3e-4",
}


def refuse_inexact(callbacks: Iterable[Callback]) -> None:
    """Raise UserError for callbacks with which a run cannot go on exactly."""
    for callback in callbacks:
        for kind, cure in INEXACT.items():
            if isinstance(callback, kind):
                raise UserError(f"A {kind.__name__} cannot be resumed exactly, so it is not used here.", cure=cure)


class ExactResume(Callback):
    """Random generators, counters, names of moments, and what a manifest says of the run. Costs nothing in a step.

    A module may have `checkpoint_files()`: files that a checkpoint is to have besides, {name: content}.
    """

    reads_metrics = False

    def __init__(self) -> None:
        self._rng: dict[str, Any] | None = None  # what the generators are set to at the next boundary
        self._loaded: dict[str, Any] = {}
        self._source: read.Checkpoint | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Where our modules override it, they are sharded, and an average is refused.
        warnings.filterwarnings("ignore", message=".*with a model that overrides the configure_model")
        warnings.filterwarnings("ignore", message="torch.distributed.nn.functional.all_gather is deprecated")
        # It is: the sums of all ranks are added up before the mean is taken.
        warnings.filterwarnings("ignore", message=".*recommended to use `self.log.'val/loss', ..., sync_dist=True")
        refuse_inexact(trainer.callbacks)  # type: ignore[attr-defined]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        source: read.Checkpoint = checkpoint.pop("source")
        self._source = source
        self._rng = read.load_rng(source, trainer.global_rank)
        own = source.manifest.get("run_id") == run_facts(trainer).id
        if own and source.manifest.get("ended_early") == [trainer.max_steps, trainer.max_epochs]:
            # A callback had ended training, and only the result was not written any more.
            trainer.fit_loop.epoch_loop.max_steps = source.step
        self._loaded = checkpoint
        # Lightning looks for a state of the loader; ours needs none, the data module has the one cursor.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Optimizers exist since a moment ago, and their states are loaded in the next.
        refuse_another_kind(trainer.optimizers, self._loaded.get("optimizers", ()))
        for optimizer in trainer.optimizers:
            load_by_name(optimizer, pl_module)
        for config, saved in zip(trainer.lr_scheduler_configs, self._loaded.get("lr_schedulers", ()), strict=False):
            ours: Any = config.scheduler
            if len(saved.get("base_lrs", ())) != len(getattr(ours, "base_lrs", ())):  # parameters were regrouped
                saved["base_lrs"] = ours.base_lrs
        self._loaded = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        at_boundary(checkpoint["loops"]["fit_loop"], validation_pending=bool(trainer.validating))
        facts, data = run_facts(trainer), getattr(trainer, "datamodule", None)
        checkpoint["optimizers"] = [type(optimizer).__name__ for optimizer in trainer.optimizers]
        checkpoint["rng"] = all_gather(self._rng or rng.capture(), trainer)
        checkpoint["files"] = files(pl_module)
        checkpoint["about"] = {
            "run_id": facts.id,
            "identity": facts.identity,
            "attempt": facts.attempt,
            "versions": dict(facts.versions),
            "data": getattr(data, "described", None),
            "ranks": trainer.world_size,
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._source is not None:
            network, place = stored_model(pl_module)[1], self._source.path.as_posix()
            tensors = len(read.load_names(self._source))
            log.info("%s", loaded(network, place, tensors=tensors, optimizers=trainer.optimizers))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._rng is not None:
            rng.restore(self._rng)
            self._rng = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Validation must not move the generators of training, and a checkpoint in the middle of it needs them as they
        # were.
        if self._rng is None:
            self._rng = rng.capture()
        if trainer.state.fn == "validate":
            # The final one: a run that was stopped before it, and has no step left to do, logs it where it belongs.
            loop = trainer.fit_loop
            loop.epoch_loop._batches_that_stepped = trainer.global_step
            epoch = loop.epoch_progress.current
            epoch.completed = epoch.ready - 1 + loop.epoch_loop.batch_progress.is_last_batch


def files(module: LightningModule) -> Mapping[str, str | bytes]:
    """Return the files that the module wants in a checkpoint, with which other programs load it."""
    own: Any = getattr(module, "checkpoint_files", None)
    return dict(own()) if own else {}
