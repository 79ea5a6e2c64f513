"""What it gives on a CPU to keep freed memory (harness/heap.py): a step of a plain loop with and without, taking turns
in one process, 14M at 8 x 256 and 124M at 4 x 256 tokens."""

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

import project
import torch
import torch.nn.functional as F
from machine import fast_bf16
from timing import Absent, Bar, Outcome, Sample, Stopwatch, interleaved

from harness.heap import MMAP_THRESHOLD, TRIM_THRESHOLD, keep_freed_memory
from lm import fit

STEPS = 3
SHAPES = {"14m": 8, "124m": 4}  # rows of 256 tokens
# Where glibc's own adjustment of its two thresholds ends once large blocks have been freed, in bytes.
USUAL = {TRIM_THRESHOLD: 64 << 20, MMAP_THRESHOLD: 32 << 20}


def measure(rounds: int = 5, *, short: bool = False) -> Outcome:
    if sys.platform != "linux":
        raise Absent("only Linux with glibc has these thresholds")
    samples: dict[str, list[Sample]] = {}
    bars = []
    for size in list(SHAPES)[: 1 if short else None]:
        step = steps_of(size, SHAPES[size])
        kept, given = f"{size}, kept", f"{size}, given back"
        contestants: dict[str, Callable[[], Sample]] = {
            given: functools.partial(timed_steps, give_back, step),
            kept: functools.partial(timed_steps, keep_freed_memory, step),
        }
        samples |= interleaved(contestants, rounds)
        bars.append(Bar(f"a step at {size} with freed memory kept, over one without", kept, given, clock="wall"))
    return Outcome(samples, bars)


def give_back() -> None:
    libc = ctypes.CDLL(None)
    for name, value in USUAL.items():
        libc.mallopt(name, value)
    libc.malloc_trim(0)


def timed_steps(setting: Callable[[], None], step: Callable[[], None]) -> Sample:
    setting()
    step()
    watch = Stopwatch()
    for _ in range(STEPS):
        step()
    return watch.read().per(STEPS)


def steps_of(size: str, rows: int) -> Callable[[], None]:
    cfg = project.config([f"model={size}", "data=stdlib"])
    config: Any = fit.model_config(cfg.model)
    model = fit.build_model(cfg.model, config)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.randint(config.vocab_size, (rows, 256))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16()):
            logits = model(input_ids=tokens).logits
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step
