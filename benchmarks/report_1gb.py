"""A report on 1 GB of events: how long it takes and how much memory, beside jq and pandas on the same file.

    python benchmarks/report_1gb.py [--gb 1.0]

The file is made once, in the system's folder for temporary files, from events as a 14M model writes them.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROJECT = next(Path(__file__).resolve().parents[1].glob("*cookiecutter.project_slug*"))
MODULES = ["embed_tokens", "norm"] + [
    f"layers.{layer}.{part}"
    for layer in range(6)
    for part in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
        "mlp.down_proj", "input_layernorm", "post_attention_layernorm",
    )
]  # fmt: skip
JQ = 'select(.event_type == "training_step") | [.step, .data.loss, .data.accuracy, .data.learning_rate] | @tsv'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="report-1gb-") as folder:
        size = write_log(Path(folder), args.gb)
        print(f"{size / 1e9:.2f} GB of events")
        commands = {"python -m lm report": [sys.executable, "-m", "harness.report", folder]}
        if shutil.which("jq"):
            path = str(Path(folder) / "debug_log" / "events.jsonl")
            commands["jq, one type of event"] = ["jq", "-r", JQ, path]
        best = dict.fromkeys(commands, (math.inf, 0.0))
        for _ in range(args.rounds):  # interleaved, so that both meet the same machine
            for name, command in commands.items():
                best[name] = min(best[name], measure(command))
        for name, (seconds, megabytes) in best.items():
            print(f"{name:24} {seconds:7.1f} s  {size / seconds / 1e6:6.0f} MB/s  {megabytes:6.0f} MB of memory")


def measure(command: list[str]) -> tuple[float, float]:
    """Return seconds and peak memory in MB of one command."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command} failed")
    return time.perf_counter() - started, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def write_log(folder: Path, gigabytes: float) -> int:
    path = folder / "debug_log" / "events.jsonl"
    path.parent.mkdir(parents=True)
    written, limit = 0, int(gigabytes * 1e9)
    with path.open("w", encoding="utf-8") as file:
        for event in events():
            written += file.write(json.dumps(event, separators=(",", ":")) + "\n")
            if written > limit:
                return written
    return written


def events() -> Iterator[dict]:
    """Yield events of a run that never ends, with the fields and sizes of real ones."""
    draw = random.Random(0)
    step, now = 0, 1.79e9

    def event(event_type: str, data: dict) -> dict:
        same = {"schema": 1, "time": now, "run_id": "0123456789abcdef", "attempt": 1, "rank": 0, "step": step}
        return same | {"event_type": event_type, "data": data}

    yield event("fit_start", {"parameters": {"trainable": 13687296, "frozen": 0, "total": 13687296}, "training": {}})
    while True:
        step, now = step + 10, now + 3.0
        norms = {module: draw.uniform(0.01, 1.0) for module in draw.sample(MODULES, 10)}
        yield event("gradient_stats", {"total_norm": draw.uniform(0.3, 2.0), "max": 1.0, "min": 0.001, "parameters": 56,
                                       "with_gradient": 56, "zero": 0, "top": norms})  # fmt: skip
        ids = [draw.randrange(2048) for _ in range(16)]
        shown = {"ids": ids, "text": "self.assertEqual(len(x), 3)\\n        return name"}
        yield event("training_step", {"epoch": step // 5000, "learning_rate": 1e-3, "shape": [8, 256],
                                      "loss": 7 * step**-0.1,
                                      "valid_tokens": 2040, "tokens_per_second": draw.uniform(6e3, 7e3),
                                      "accuracy": draw.random(), "predicted": shown, "expected": shown})  # fmt: skip
        if step % 50 == 0:
            changes = {module: draw.uniform(1e-5, 1e-3) for module in MODULES}
            yield event("param_updates", {"parameters": 56, "changed": 56, "top": dict(list(changes.items())[:10]),
                                          "modules": changes, "skipped": False, "learning_rate": 1e-3})  # fmt: skip
        if step % 100 == 0:
            yield event("validation", {"epoch": step // 5000, "seconds": 1.0, "loss": 7 * step**-0.1})


if __name__ == "__main__":
    main()
