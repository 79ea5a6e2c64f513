"""What a step of `train.py` with everything on costs beside a raw PyTorch loop: the same 14M model, fp32, 8 x 256."""

import tempfile
from pathlib import Path

import project
from benchmark_host import raw
from timing import Bar, Outcome, interleaved

STEPS, WARM_UP = 6, 2
OURS, RAW = "`train.py`, all on", "raw loop"


def measure(rounds: int = 8, *, short: bool = False) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *project.overrides(Path(folder)), "model=14m", "data.batch_size=8", "trainer=cpu",
            "trainer.precision=32-true", "model.attention=eager", f"trainer.max_steps={WARM_UP + STEPS + 2}",
            "checkpoint.every_n_steps=null", "checkpoint.every_minutes=null",
            f"+callbacks.clock={{_target_:clock.Clock,steps:{STEPS},warm_up:{WARM_UP}}}",
        ]  # fmt: skip
        cfg = project.config(words)
        contestants = {RAW: lambda: raw(cfg, STEPS, WARM_UP), OURS: lambda: project.timed_run(words)}
        samples = interleaved(contestants, rounds, warm_up=0)
    return Outcome(samples, [Bar("a step of `train.py` at 14M over a raw loop's", OURS, RAW, 1.02)])
