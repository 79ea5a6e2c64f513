"""Whether anybody reads what an optimizer step logs: logging at each would be a sixth of a fast step."""

from typing import Any


def step_is_read(trainer: Any) -> bool:
    """Say it of the step under way.

    Loggers read every so many steps, whoever holds the Trainer after the last, and a callback that does not say
    `reads_metrics = False` at any.
    """
    every = trainer.log_every_n_steps
    if trainer.loggers and every and (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0:
        return True
    last = trainer.is_last_batch or trainer.global_step + 1 == trainer.max_steps
    return last or any(getattr(callback, "reads_metrics", True) for callback in trainer.callbacks)
