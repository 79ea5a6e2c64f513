"""Tokens per second of the default `python train.py` beside what others do by default: the 14M shape, 8 x 256, AdamW.

Each as its own documents start it on this machine, in a process of its own: nanoGPT's loop (fp32 on a CPU, gradients
clipped), Hugging Face's Trainer, bare Lightning, litgpt's model in its loop; ours as a run of hours would be, all on. A
peer that is not here is left out with a word: NANOGPT=FOLDER names a checkout of github.com/karpathy/nanoGPT,
`pip install litgpt accelerate`.
"""

import functools
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import project
import torch
from lightning.pytorch import LightningModule, Trainer
from machine import fast_bf16
from timing import Bar, Outcome, Sample, Stopwatch, interleaved
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import LlamaForCausalLM, TrainerCallback, TrainingArguments
from transformers import Trainer as HfTrainer

from lm import fit

ROWS, STEPS, WARM_UP = 8, 6, 3
WIDTH, LAYERS, HEADS, HIDDEN, CONTEXT, VOCABULARY = 512, 6, 8, 688, 256, 2048
OURS, NANOGPT, HF, BARE, LITGPT = "`train.py`", "nanoGPT", "Hugging Face Trainer", "bare Lightning", "litgpt"
Step = Callable[[Tensor], Tensor]  # token ids (B, T) to a loss


def measure(rounds: int = 5, *, short: bool = False) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *project.overrides(Path(folder)), "model=14m", f"data.batch_size={ROWS}", "trainer.max_steps=20000",
            "model.compile=auto",
            f"+callbacks.clock={{_target_:clock.Clock,steps:{STEPS},warm_up:{WARM_UP},ends:true}}",
        ]  # fmt: skip
        peers, absent = found(project.config(words), Path(folder))
        ours = functools.partial(project.apart, project.timed_run, words)
        samples = interleaved({OURS: ours, **peers}, rounds)
    bars = [Bar(f"the default `train.py` over {peer}, a step", OURS, peer, clock="wall") for peer in peers]
    if NANOGPT in peers:  # as times as fast: 3.6 and 1.05
        bars[0] = Bar(bars[0].says, OURS, NANOGPT, 1 / 3.6 if fast_bf16() else 1 / 1.05, "wall")
    rates = dict.fromkeys(samples, float(ROWS * CONTEXT))
    notes = ["A step is 8 rows of 256 tokens; matrices of a layer: 4 x 512 x 512 and 3 x 512 x 688, or as many."]
    notes += [f"Left out: {', '.join(absent)}."] * bool(absent)
    return Outcome(samples, bars, rates=rates, rate_unit="tokens/s", notes=notes)


def found(cfg: Any, folder: Path) -> tuple[dict[str, Callable[[], Sample]], list[str]]:
    """Return the peers that are installed here, nanoGPT first, and what is not."""
    checkout = os.environ.get("NANOGPT")
    peers: dict[str, Callable[[], Sample]] = {}
    if checkout:
        peers[NANOGPT] = functools.partial(project.apart, nanogpt_loop, checkout)
    peers[BARE] = functools.partial(project.apart, lightning, cfg)
    if importlib.util.find_spec("accelerate"):
        peers[HF] = functools.partial(project.apart, hf_trainer, cfg, folder)
    if importlib.util.find_spec("litgpt"):
        peers[LITGPT] = functools.partial(project.apart, litgpt_loop)
    return peers, [name for name in (NANOGPT, HF, LITGPT) if name not in peers]


def batches() -> Iterator[Tensor]:
    draw = torch.Generator().manual_seed(0)
    while True:
        yield torch.randint(VOCABULARY, (ROWS, CONTEXT), generator=draw)


def loop(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Step) -> Sample:
    """Time steps as nanoGPT and litgpt write them: forward, backward, clip, step."""
    watch = Stopwatch()
    for step, tokens in zip(range(WARM_UP + STEPS), batches(), strict=False):
        if step == WARM_UP:
            watch = Stopwatch()
        loss(tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return watch.read().per(STEPS)


def nanogpt(checkout: str) -> tuple[Any, Any]:
    """Return nanoGPT's own two classes."""
    sys.path.insert(0, checkout)
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    return GPT, GPTConfig


def nanogpt_loop(checkout: str) -> Sample:
    torch.set_float32_matmul_precision("highest")
    gpt, config = nanogpt(checkout)
    model = gpt(config(CONTEXT, VOCABULARY, LAYERS, HEADS, WIDTH, dropout=0.0, bias=False))
    hidden = HIDDEN * 3 // 2  # two matrices instead of Llama's three
    for block in model.transformer.h:
        block.mlp.c_fc = nn.Linear(WIDTH, hidden, bias=False)
        block.mlp.c_proj = nn.Linear(hidden, WIDTH, bias=False)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    return loop(model, optimizer, lambda tokens: model(tokens, tokens)[1])


def litgpt_loop() -> Sample:
    from litgpt import GPT, Config  # type: ignore[import-not-found]
    from litgpt.utils import chunked_cross_entropy  # type: ignore[import-not-found]

    torch.set_float32_matmul_precision("high")  # as its pretraining does
    model = GPT(Config(
        block_size=CONTEXT, padded_vocab_size=VOCABULARY, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, bias=False,
        rotary_percentage=1.0, parallel_residual=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
        intermediate_size=HIDDEN,
    ))  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.95), weight_decay=0.1)
    return loop(model, optimizer, lambda tokens: chunked_cross_entropy(model(tokens), tokens))


class Bare(LightningModule):
    """What Lightning's own tutorial would write."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.model = LlamaForCausalLM(fit.model_config(cfg.model))
        self.sample: Sample | None = None

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        if batch_index == WARM_UP:
            self.watch = Stopwatch()
        if batch_index == WARM_UP + STEPS:
            self.sample = self.watch.read().per(STEPS)
        loss: Tensor = self.model(input_ids=batch, labels=batch).loss
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-3)


def lightning(cfg: Any) -> Sample:
    torch.set_float32_matmul_precision("highest")
    module = Bare(cfg)
    trainer = Trainer(
        max_steps=WARM_UP + STEPS + 1, logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False, accelerator="cpu",
    )  # fmt: skip
    rows = [tokens for tokens, _ in zip(batches(), range(WARM_UP + STEPS + 1), strict=False)]
    trainer.fit(module, DataLoader(rows, batch_size=None))  # type: ignore[arg-type]
    assert module.sample
    return module.sample


class HfClock(TrainerCallback):
    sample: Sample | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == WARM_UP:
            self.watch = Stopwatch()
        if state.global_step == WARM_UP + STEPS:
            self.sample = self.watch.read().per(STEPS)


def hf_trainer(cfg: Any, folder: Path) -> Sample:
    torch.set_float32_matmul_precision("highest")
    clock = HfClock()
    rows = [
        {"input_ids": row, "labels": row}
        for tokens, _ in zip(batches(), range(STEPS * 2 + WARM_UP), strict=False)
        for row in tokens
    ]
    arguments = TrainingArguments(
        str(folder / "hf"), per_device_train_batch_size=ROWS, max_steps=WARM_UP + STEPS + 1, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    HfTrainer(LlamaForCausalLM(fit.model_config(cfg.model)), arguments, train_dataset=rows, callbacks=[clock]).train()
    assert clock.sample
    return clock.sample
