"""Let the model say something while it trains, as texts that a person reads.

Nothing random of the training is touched: all generators are put back, so a run with samples equals one without, bit
for bit.
"""

import json
import logging
import textwrap
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from harness.callbacks.periodic import Periodic
from harness.checkpoint import rng
from harness.checkpoint.average import averaged
from harness.config.secrets import hidden
from harness.errors import UserError
from harness.sharding import samples_here
from harness.telemetry import events
from harness.telemetry.append import AppendOnlyFile
from harness.telemetry.loggers import log_texts

log = logging.getLogger(__name__)


class PeriodicSamples(Periodic):
    """Inherit and write `texts(trainer, module)`: {prompt: text}, shown on the console and by TensorBoard or wandb, and
    kept in `samples.jsonl`, each with `how` it was made."""

    how: dict[str, Any]

    def texts(self, trainer: Any, module: Any) -> dict[str, str]:
        raise NotImplementedError

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._lines = AppendOnlyFile(Path(trainer.default_root_dir) / "samples.jsonl")
        if trainer.is_global_zero:
            self._lines.forget_after(trainer.global_step)

    def act(self, trainer: Trainer, module: Any) -> None:
        if not samples_here(trainer):
            return
        generators = rng.capture()
        try:
            with trainer.precision_plugin.forward_context(), averaged(trainer, module):
                texts = self.texts(trainer, module)
        except (RuntimeError, UserError) as error:
            # Weights that are not finite, or no memory left: the guards of training see to it.
            log.warning("No samples at step %d: %s", trainer.global_step, error)
        else:
            if trainer.is_global_zero:
                self._show(trainer, texts)
        finally:
            rng.restore(generators)

    def _show(self, trainer: Trainer, texts: dict[str, str]) -> None:
        step = trainer.global_step
        texts = {hidden(prompt): hidden(text) for prompt, text in texts.items()}
        for prompt, text in texts.items():
            log.info("Step %d, after %r:\n%s", step, prompt, textwrap.indent(text, "  | ", predicate=lambda _: True))
            events.emit("sample", step, {"prompt": prompt, "text": text})
        lines = [{"step": step, "time": time.time(), "prompt": p, "text": t, **self.how} for p, t in texts.items()]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self._lines.write(text.encode("utf-8", "replace"))
        log_texts(trainer.loggers, texts, step, key="samples")
