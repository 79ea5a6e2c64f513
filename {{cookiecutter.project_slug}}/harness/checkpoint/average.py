"""Where a callback averages weights, as `callbacks=[default,ema]` does: to use the average for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging


def keepers(trainer: Trainer) -> list[WeightAveraging]:
    """Return the callbacks that keep an average of the weights."""
    callbacks: list[WeightAveraging] = [
        callback
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging)
    ]
    return [callback for callback in callbacks if callback._average_model is not None]


@contextmanager
def averaged(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Within, `module` has the averaged weights, if there are some. A validation has them already."""
    swapping = [] if trainer.validating or trainer.sanity_checking else keepers(trainer)
    for keeper in swapping:
        keeper._swap_models(module)
    try:
        yield
    finally:
        for keeper in reversed(swapping):
            keeper._swap_models(module)
