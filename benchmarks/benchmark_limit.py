"""How near a training step comes to the matrix products in it: their floating-point operations at the speed that this
machine reaches on large ones, over the time of a step of the 14M model, 8 x 256, everything on."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import project
import torch
from machine import fast_bf16
from timing import Bar, Outcome, Sample, Stopwatch, interleaved
from torch.utils.flop_counter import FlopCounterMode

from harness.probe import Setting
from lm import fit

STEPS, WARM_UP, SIZE, PRODUCTS = 6, 3, 2048, 8
# Precision: the type of its products, and the share of their peak that is to be reached.
FORMATS = {"32-true": (torch.float32, 0.90), "bf16-mixed": (torch.bfloat16, 0.78)}


def measure(rounds: int = 8, *, short: bool = False) -> Outcome:
    formats = FORMATS if fast_bf16() else {"32-true": FORMATS["32-true"]}
    contestants: dict[str, Callable[[], Sample]] = {}
    bars = []
    with tempfile.TemporaryDirectory() as folder:
        for precision, (dtype, share) in formats.items():
            words = [
                *project.overrides(Path(folder)), "model=14m", "data.batch_size=8", "trainer=cpu",
                f"trainer.precision={precision}", f"trainer.max_steps={WARM_UP + STEPS + 2}",
                "model.compile=true", "checkpoint.every_n_steps=null", "checkpoint.every_minutes=null",
                f"+callbacks.clock={{_target_:clock.Clock,steps:{STEPS},warm_up:{WARM_UP}}}",
            ]  # fmt: skip
            work = operations(project.config(words))
            step, peak = f"a step in {precision}", f"its operations at the peak of {dtype}"
            contestants[step] = lambda words=words: project.timed_run(words)
            contestants[peak] = lambda dtype=dtype, work=work: products(dtype).per(1 / work)
            bars.append(Bar(f"{step} at 14M over its operations at the measured peak", step, peak, 1 / share, "wall"))
        samples = interleaved(contestants, rounds)
    return Outcome(samples, bars)


def operations(cfg: Any) -> float:
    """Return the floating-point operations of the matrix products of a step, forward and backward."""
    config = fit.model_config(cfg.model)
    with torch.device("meta"):
        model: Any = fit.build_model(cfg.model, config)
        tokens = torch.zeros(cfg.data.batch_size, fit.context_length(cfg.model, config), dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            model(input_ids=tokens).logits.sum().backward()
    return float(counter.get_total_flops())


def products(dtype: torch.dtype, device: str = "cpu") -> Sample:
    """Return the time of one operation of a large matrix product, in the faster of the two ways that a CPU has for
    float32: a run takes whichever keeps its digits and is faster."""
    samples = []
    for precision in ("highest", "medium"):
        with Setting(matmul=precision).entered():
            samples.append(_products(dtype, device))
    return min(samples, key=lambda sample: sample.wall)


def _products(dtype: torch.dtype, device: str) -> Sample:
    a, b = (torch.randn(SIZE, SIZE, dtype=dtype, device=device) for _ in "ab")
    torch.mm(a, b)
    watch = Stopwatch()
    for _ in range(PRODUCTS):
        torch.mm(a, b)
    return watch.read().per(PRODUCTS * 2 * SIZE**3)
