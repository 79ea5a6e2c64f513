"""Tokens per second of `model=124m` at a context of 1,024 on one GPU, everything on, beside nanoGPT's own loop there
(compiled, bf16, fused AdamW) and the speed of large matrix products: NANOGPT=FOLDER names a checkout of
github.com/karpathy/nanoGPT."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import project
import torch
from benchmark_limit import operations, products
from benchmark_peers import nanogpt
from timing import Absent, Bar, Outcome, Sample, Stopwatch, interleaved

CONTEXT, ROWS, STEPS, WARM_UP = 1024, 32, 20, 10
OURS, NANOGPT, PEAK = "`train.py` with `model=124m`", "nanoGPT, its GPT-2", "operations of a step at the measured peak"


def measure(rounds: int = 5, *, short: bool = False) -> Outcome:
    if not torch.cuda.is_available():
        raise Absent("no GPU was at hand")
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *project.overrides(Path(folder)), "model=124m", f"model.config.max_position_embeddings={CONTEXT}",
            f"data.batch_size={ROWS}", "trainer.max_steps=100000", "trainer.precision=bf16-mixed", "model.compile=true",
            f"+callbacks.clock={{_target_:clock.Clock,steps:{STEPS},warm_up:{WARM_UP},ends:true}}",
        ]  # fmt: skip
        cfg = project.config(words)
        work = operations(cfg)
        contestants: dict[str, Callable[[], Sample]] = {
            OURS: lambda: project.timed_run(words),
            PEAK: lambda: products(torch.bfloat16, "cuda").per(1 / work),
        }
        if checkout := os.environ.get("NANOGPT"):
            contestants[NANOGPT] = lambda: own_loop(checkout, int(cfg.model.config.vocab_size))
        samples = interleaved(contestants, rounds)
    # 40 % of the specification's peak is about half of what matrix products reach.
    bars = [Bar("a step of `model=124m` over its operations at the measured peak", OURS, PEAK, 2.0, "wall")]
    bars += [Bar("a step of `model=124m` over nanoGPT's", OURS, NANOGPT, 1.0, "wall")] * (NANOGPT in samples)
    return Outcome(samples, bars, rates=dict.fromkeys((OURS, NANOGPT), ROWS * CONTEXT), rate_unit="tokens/s")


def own_loop(checkout: str, vocabulary: int) -> Sample:
    """Time steps as nanoGPT's train.py does them on a GPU."""
    gpt, config = nanogpt(checkout)
    model = gpt(config(CONTEXT, vocabulary, 12, 12, 768, dropout=0.0, bias=False)).cuda()
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), "cuda")
    compiled = torch.compile(model)
    tokens = torch.randint(vocabulary, (ROWS, CONTEXT), device="cuda")
    watch = Stopwatch()
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            watch = Stopwatch()
        with torch.autocast("cuda", torch.bfloat16):
            loss = compiled(tokens, tokens)[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return watch.read().per(STEPS)
