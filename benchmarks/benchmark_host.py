"""Host time a step adds, with a model that computes nothing: what a fast device would wait for.

The same model, optimizer, schedule and batches (one row of 8 tokens) in a raw loop, in bare Lightning (no callback, no
logger, no clipping), in Lightning with its own clipping, bar, loggers and `self.log`, in `train.py` with everything
on, and in `train.py` without one part after another.
"""

import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import project
import torch
from clock import Clock
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from timing import Bar, Outcome, Sample, Stopwatch, interleaved
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from harness.hardware import Picks
from lm import fit
from lm.module import loss_sums

STEPS, WARM_UP = 200, 20
PICKS = Picks("cpu", "32-true", compile=False, attention="eager")
OURS, BARE, RAW, USUAL = "`train.py`, all on", "bare Lightning", "raw loop", "Lightning's own clip, bar, loggers"
NO_BAR = ["callbacks.progress=null", "trainer.enable_progress_bar=false"]  # else Lightning brings its own
WITHOUT = {
    "event log": ["callbacks.debug_log=null"],
    "loggers": ["logger=none"],
    "bar": [*NO_BAR],
    "guard's reports": ["callbacks.nan_guard=null"],
    "any of these": ["callbacks.debug_log=null", "logger=none", *NO_BAR, "callbacks.nan_guard=null"],
}


class Nothing(LlamaForCausalLM):
    """A causal language model whose logits are its one parameter."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        del self.model, self.lm_head
        self.logits = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
        return self.logits.expand(*input_ids.shape, -1)


class Bare(LightningModule):
    """What one would write without a harness."""

    def __init__(self, cfg: Any, data: Any, log_loss: bool) -> None:
        super().__init__()
        self.ours = fit.build_module(cfg, fit.model_config(cfg.model), data, PICKS, 1000)
        self.log_loss = log_loss

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        total, labels = loss_sums(self.ours.model(batch["input_ids"]), batch["labels"])
        loss = total / labels.clamp(min=1)
        if self.log_loss:
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return self.ours.configure_optimizers()


def measure(rounds: int = 8, *, short: bool = False) -> Outcome:
    fit.build_model = lambda model, config, **_: Nothing(config)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder, _quiet_terminal():
        words = [
            *project.overrides(Path(folder)), "model=tiny", "model.config.vocab_size=300", "data.batch_size=1",
            "model.config.max_position_embeddings=8", "trainer=cpu", "trainer.precision=32-true",
            f"trainer.max_steps={WARM_UP + STEPS + 2}", "checkpoint.every_n_steps=null",
            "checkpoint.every_minutes=null",
            f"+callbacks.clock={{_target_:clock.Clock,steps:{STEPS},warm_up:{WARM_UP}}}",
        ]  # fmt: skip
        cfg = project.config(words)
        contestants: dict[str, Callable[[], Sample]] = {
            RAW: lambda: raw(cfg, STEPS, WARM_UP),
            BARE: lambda: lightning(cfg, folder, usual=False),
            USUAL: lambda: lightning(cfg, folder, usual=True),
            OURS: lambda: project.timed_run(words),
        }
        for part, without in {} if short else WITHOUT.items():
            contestants[f"`train.py` without {part}"] = lambda without=without: project.timed_run([*words, *without])
        samples = interleaved(contestants, rounds)
    bars = [
        Bar("`train.py` with everything on, over bare Lightning", OURS, BARE, 1.05),
        Bar("the same, over Lightning with its own clip, bar and loggers", OURS, USUAL),
        Bar("bare Lightning over a raw loop", BARE, RAW),
    ]
    return Outcome(samples, bars, notes=["The model computes nothing: a real step adds the same time to a longer one."])


def lightning(cfg: Any, folder: str, *, usual: bool) -> Sample:
    data = fit.build_data(cfg, fit.model_config(cfg.model))
    module = Bare(cfg, data, log_loss=usual)
    loader = data.train_dataloader()
    off: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
    on: dict[str, Any] = {"logger": [CSVLogger(folder), TensorBoardLogger(folder)], "gradient_clip_val": 1.0,
                          "log_every_n_steps": 10}  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", max_steps=WARM_UP + STEPS + 2, enable_checkpointing=False, enable_model_summary=False,
        use_distributed_sampler=False, callbacks=[Clock(STEPS, WARM_UP)], default_root_dir=folder,
        **(on if usual else off),
    )  # fmt: skip
    trainer.fit(module, loader)
    return Clock.last


def raw(cfg: Any, steps: int, warm_up: int) -> Sample:
    data = fit.build_data(cfg, fit.model_config(cfg.model))
    module = fit.build_module(cfg, fit.model_config(cfg.model), data, PICKS, 1000)
    made = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    batches, watch = iter(data.train_dataloader()), Stopwatch()
    for step in range(warm_up + steps):
        if step == warm_up:
            watch = Stopwatch()
        batch = next(batches)
        output = module.model(batch["input_ids"])
        total, labels = loss_sums(getattr(output, "logits", output), batch["labels"])
        (total / labels.clamp(min=1)).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return watch.read().per(steps)


class _quiet_terminal:
    """A terminal that nobody sees: bars are drawn, into memory."""

    def __enter__(self) -> None:
        import contextlib

        os.environ["FORCE_COLOR"] = "1"
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        self.stack.enter_context(contextlib.redirect_stdout(io.StringIO()))

    def __exit__(self, *_: object) -> None:
        del os.environ["FORCE_COLOR"]
        self.stack.close()
