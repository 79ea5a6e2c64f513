"""Let the model say something while it trains: what tells most about a language model is its text.

Costs one pass over the weights for each token. Nothing random of the training is touched: sampling draws from a
generator of its own, and all others are put back, so a run with samples equals one without, bit for bit.
"""

import json
import logging
import math
import os
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from harness.batch import Batch
from harness.checkpoint import rng
from harness.checkpoint.average import averaged
from harness.errors import UserError
from harness.files import json_lines, write_whole
from harness.telemetry import events
from harness.telemetry.append import AppendOnlyFile
from harness.telemetry.loggers import TensorBoard
from lm.inference.generate import continuation
from lm.module import LmModule

log = logging.getLogger(__name__)


class Samples(Callback):
    """Continues `prompts` every `every_n_steps` optimizer steps, every `every_minutes` and at each epoch's end, always
    with the same `seed`: to the console, TensorBoard or wandb, and `samples.jsonl`. An empty prompt begins a document.
    """

    reads_metrics = False

    def __init__(
        self,
        prompts: Sequence[str],
        *,
        every_n_steps: int | None = 100,
        every_minutes: float | None = None,
        at_epoch_end: bool = True,
        max_tokens: int = 48,
        temperature: float = 0.8,
        top_k: int | None = 50,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.prompts = list(dict.fromkeys(prompts))
        self.every_n_steps = every_n_steps or 0
        self.every_seconds = math.inf if every_minutes is None else 60 * every_minutes
        self.at_epoch_end = at_epoch_end
        self.how = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "seed": seed}
        self.clock = clock
        self._able = False
        self._step = self._sampled_at = -1
        self._last = clock()

    def on_train_start(self, trainer: Trainer, pl_module: LmModule) -> None:  # type: ignore[override]
        self._step = self._sampled_at = trainer.global_step
        self._last = self.clock()
        # Sharded weights need every rank in each forward pass; with these two strategies rank 0 can sample alone.
        self._able = trainer.is_global_zero and isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy))
        self._lines = AppendOnlyFile(Path(trainer.default_root_dir) / "samples.jsonl")
        if self._able:
            forget_after(self._lines.path, trainer.global_step)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: LmModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:  # inside an accumulation window
            return
        self._step = trainer.global_step
        by_step = self.every_n_steps and self._step % self.every_n_steps == 0
        if by_step or self.clock() - self._last >= self.every_seconds:
            self._sample(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LmModule) -> None:  # type: ignore[override]
        if self.at_epoch_end:
            self._sample(trainer, pl_module)

    def _sample(self, trainer: Any, pl_module: LmModule) -> None:
        if not self._able or self._sampled_at == trainer.global_step:
            return
        self._sampled_at, self._last, generators = trainer.global_step, self.clock(), rng.capture()
        model, tokenizer = pl_module.model, trainer.datamodule.tokenizer
        how: dict[str, Any] = {"context": trainer.datamodule.context, **self.how}
        try:
            with trainer.precision_plugin.forward_context(), averaged(trainer, pl_module):
                texts = {prompt: continuation(model, tokenizer, prompt, **how) for prompt in self.prompts}
        except (RuntimeError, UserError) as error:
            # Weights that are not finite, or no memory left: the guards of training see to it.
            log.warning("No samples at step %d: %s", trainer.global_step, error)
        else:
            self._show(trainer, texts)
        finally:
            rng.restore(generators)

    def _show(self, trainer: Trainer, texts: dict[str, str]) -> None:
        step = trainer.global_step
        for prompt, text in texts.items():
            log.info("Step %d, after %r:\n%s", step, prompt, textwrap.indent(text, "  | ", predicate=lambda _: True))
            events.emit("sample", step, {"prompt": prompt, "text": text})
        lines = [{"step": step, "time": time.time(), "prompt": p, "text": t, **self.how} for p, t in texts.items()]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self._lines.write(text.encode("utf-8", "replace"))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                for prompt, text in texts.items():
                    logger.log_text(f"samples/{prompt}", f"```\n{text}\n```", step)
            elif isinstance(logger, WandbLogger):
                logger.log_text("samples", columns=["prompt", "text"], data=[*map(list, texts.items())], step=step)


def forget_after(path: Path, step: int) -> None:
    """Remove what an earlier attempt sampled beyond the step at which this one goes on: it will come again."""
    if not os.path.lexists(path):
        return
    kept = [line for line, sample in json_lines(path) if isinstance(at := sample.get("step"), int) and at <= step]
    try:
        write_whole(path, b"".join(kept))
    except OSError as error:
        log.warning("Cannot write %s (%s).", path, error)
