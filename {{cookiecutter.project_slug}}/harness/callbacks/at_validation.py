"""A callback that measures something at each validation: the part that decides when, for those that say what."""

import logging
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, Trainer

from harness.checkpoint import rng
from harness.errors import UserError

log = logging.getLogger(__name__)


class AtValidation(Callback):
    """Inherit and write `measure(trainer, module)`, which returns numbers by name: they are logged as val/NAME, and are
    in the event of the validation. Nothing random of the training is touched.

    Every rank measures the same: weights may be split, and whoever monitors the numbers needs them on each.
    """

    reads_metrics = False

    def __init__(self) -> None:
        self._measured: Mapping[str, float] = {}

    def measure(self, trainer: Trainer, module: Any) -> Mapping[str, float]:
        """Raises UserError for what cannot be measured, which is said and ends nothing."""
        raise NotImplementedError

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if not sum(trainer.num_val_batches):
            log.warning("%s measures at validations, and this run has none.", type(self).__name__)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, index: int, part: int = 0
    ) -> None:
        # Before the first batch rather than at the end, where an average of the weights has been taken out again.
        if (index, part) != (0, 0) or trainer.sanity_checking:
            return
        generators = rng.capture()
        try:
            with trainer.precision_plugin.forward_context():
                self._measured = self.measure(trainer, pl_module)
        except UserError as error:
            log.warning("Step %d: %s", trainer.global_step, error)
        finally:
            rng.restore(generators)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self._measured:
            pl_module.log_dict({f"val/{name}": value for name, value in self._measured.items()}, sync_dist=True)
        self._measured = {}
