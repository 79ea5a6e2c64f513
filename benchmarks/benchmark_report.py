"""How fast a report reads events, and in how much memory, beside jq on the same file; events as a 14M model writes."""

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import project
from timing import Outcome, Sample, command, interleaved

SIZES = {"10 MB": 10_000_000, "100 MB": 100_000_000, "1 GB": 1_000_000_000}
MODULES = ["embed_tokens", "norm"] + [
    f"layers.{layer}.{part}"
    for layer in range(6)
    for part in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
        "mlp.down_proj", "input_layernorm", "post_attention_layernorm",
    )
]  # fmt: skip
JQ = 'select(.event_type == "training_step") | [.step, .data.loss, .data.accuracy, .data.learning_rate] | @tsv'


def measure(rounds: int = 3, *, short: bool = False) -> Outcome:
    sizes = dict(list(SIZES.items())[: 2 if short else None])
    contestants: dict[str, Callable[[], Sample]] = {}
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, size in sizes.items():
            folder = Path(scratch) / name.replace(" ", "")
            megabytes = write_log(folder, size) / 1e6
            commands = {f"report, {name}": [sys.executable, "-m", "lm", "report", str(folder)]}
            if jq := shutil.which("jq"):  # without it there is only the report
                commands[f"jq, {name}"] = [jq, "-r", JQ, str(folder / "debug_log" / "events.jsonl")]
            for who, words in commands.items():
                contestants[who] = lambda words=words: command(words, cwd=project.PROJECT)
                rates[who] = megabytes
        samples = interleaved(contestants, rounds, warm_up=0)
    notes = ["The whole process, its start included; jq reads one type of event and plots nothing."]
    return Outcome(samples, [], unit="s", rates=rates, rate_unit="MB/s", memory=True, notes=notes)


def write_log(folder: Path, limit: int) -> int:
    path = folder / "debug_log" / "events.jsonl"
    path.parent.mkdir(parents=True)
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for event in events():
            written += file.write(json.dumps(event, separators=(",", ":")) + "\n")
            if written > limit:
                return written
    return written


def events() -> Iterator[dict[str, Any]]:
    """Yield events of a run that never ends, with the fields and sizes of real ones."""
    draw = random.Random(0)
    step, now = 0, 1.79e9

    def event(event_type: str, data: dict[str, Any]) -> dict[str, Any]:
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
