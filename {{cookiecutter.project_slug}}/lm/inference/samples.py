"""Let the model say something while it trains: what tells most about a language model is its text.

Costs one pass over the weights for each token. Nothing random of the training is touched: sampling draws from a
generator of its own, and all others are put back, so a run with samples equals one without, bit for bit.
"""

import json
import logging
import textwrap
import time
from collections.abc import Sequence
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
from lm.inference.generate import continuation

log = logging.getLogger(__name__)


class Samples(Periodic):
    """Continues `prompts` as often as Periodic says (`when`), always with the same `seed`: to the console, TensorBoard
    or wandb, and `samples.jsonl`. An empty prompt begins a document."""

    def __init__(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int = 48,
        temperature: float = 0.8,
        top_k: int | None = 50,
        seed: int = 0,
        every_n_steps: int | None = 100,
        every_minutes: float | None = None,
        at_epoch_end: bool = True,
    ) -> None:
        super().__init__(every_n_steps=every_n_steps, every_minutes=every_minutes, at_epoch_end=at_epoch_end)
        self.prompts = list(dict.fromkeys(prompts))
        self.how = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "seed": seed}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._lines = AppendOnlyFile(Path(trainer.default_root_dir) / "samples.jsonl")
        if trainer.is_global_zero:
            self._lines.forget_after(trainer.global_step)

    def act(self, trainer: Any, module: Any) -> None:
        if not samples_here(trainer):
            return
        generators, how = rng.capture(), {"context": trainer.datamodule.context, **self.how}
        try:
            with trainer.precision_plugin.forward_context(), averaged(trainer, module):
                texts = {p: continuation(module.model, module.tokenizer, p, **how) for p in self.prompts}
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
