"""fp16 that can give up: mixed precision whose mode changes in the middle of a run and is part of the checkpoint."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import Tensor

# torch.amp.GradScaler's own numbers.
FIRST_SCALE, GROWTH, BACKOFF, GROWTH_INTERVAL = 2.0**16, 2.0, 0.5, 2000


class LossScale:
    """torch.amp.GradScaler's rule as two device scalars, fed with the overflow flag that the guard has anyway.

    The scaler itself would unscale in a pass of its own, or look for infinities in the fused kernel and overwrite the
    guard's `found_inf`; and its growth counter cannot be set from outside.
    """

    def __init__(self, scale: float = FIRST_SCALE, good_steps: float = 0) -> None:
        self.scale = torch.tensor(float(scale))
        self.good_steps = torch.tensor(float(good_steps))

    def to(self, device: torch.device) -> Tensor:
        self.scale, self.good_steps = self.scale.to(device), self.good_steps.to(device)
        return self.scale

    def update(self, overflow: Tensor) -> None:
        good_steps = torch.where(overflow, 0.0, self.good_steps + 1)
        grows = good_steps >= GROWTH_INTERVAL
        self.scale = self.scale * torch.where(overflow, BACKOFF, torch.where(grows, GROWTH, 1.0))
        self.good_steps = torch.where(grows, 0.0, good_steps)


class FallbackPrecision(MixedPrecision):
    """Lightning's "16-mixed", of which GuardedModule does the scaling and its guard the unscaling, and `fall_back()`.

    The class name is the key of this state in a checkpoint: renaming it would silently lose scale and mode.
    """

    def __init__(self, device: str, fallback: str) -> None:
        super().__init__("bf16-mixed", device)  # with "16-mixed" Lightning would make a scaler
        self.precision = "16-mixed"
        self.fallback = fallback  # "bf16-mixed" or "32-true"
        self.loss_scale: LossScale | None = LossScale()  # None once fp16 was left

    def fall_back(self) -> None:
        """Go on in the wider format. Weights and moments are float32 in all three, so nothing else changes."""
        self.precision = self.fallback  # type: ignore[assignment]
        self.loss_scale = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        return Precision.optimizer_step(self, *args, **kwargs)

    @contextmanager
    def forward_context(self) -> Generator[None]:
        dtype = torch.float16 if self.loss_scale else torch.bfloat16
        with torch.autocast(self.device, dtype, enabled=self.precision != "32-true", cache_enabled=False):
            yield

    def state_dict(self) -> dict[str, Any]:
        scale = self.loss_scale and (self.loss_scale.scale.item(), self.loss_scale.good_steps.item())
        return {"precision": self.precision, "loss_scale": scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.precision, self.loss_scale = state["precision"], None
        if state["loss_scale"]:
            self.loss_scale = LossScale(*state["loss_scale"])
