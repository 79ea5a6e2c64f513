"""Averages the weights over the last steps. Costs a second copy of them, and one pass over both a step."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from harness.config.schema import Positive, Share

EARLY = (
    10  # the first averages forget as fast as if decay were (1 + n) / (EARLY + n): else a short run is its first steps
)


class Ema(WeightAveraging):
    """After each `every_n_steps` optimizer steps, average = decay * average + (1 - decay) * weights.

    The average is what is validated, sampled, scored and handed on: `model.safetensors` of a checkpoint holds it, and
    `trainer.safetensors` the weights that training goes on with. `device` puts the copy elsewhere, such as `cpu`.
    """

    reads_metrics = False

    def __init__(self, *, decay: Share = 0.999, every_n_steps: Positive = 1, device: str | None = None) -> None:
        super().__init__(device=device, multi_avg_fn=self._forget_and_learn)
        self.decay = decay
        self.every_n_steps = every_n_steps
        self._swapped = False

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx % self.every_n_steps == 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self._average_model is not None:
            # How often it was updated is asked at each update: on a GPU, asking would wait.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pass  # others still look at what was trained

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the module: for the final validation and samples, even where no step was left to do."""
        self._copy_average_to_current(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._swapped:  # stopped in a validation, where each has the other's weights
            average, current = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint |= {"state_dict": average, "current_model_state": current}

    @torch.no_grad()
    def _forget_and_learn(self, averages: list[Tensor], weights: list[Tensor], number: Any) -> None:
        assert self._average_model is not None
        updates = int(self._average_model.n_averaged)
        decay = min(self.decay, (1 + updates) / (EARLY + updates))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, weights, 1 - decay)
        else:  # a buffer that counts something
            torch._foreach_copy_(averages, weights)

    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped
