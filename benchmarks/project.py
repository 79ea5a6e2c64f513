"""The made project as benchmarks use it: the template folder in place, runs in a temporary folder."""

import itertools
import json
import multiprocessing
import os
import random
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
TEMPLATE = HERE.parent
PROJECT = TEMPLATE / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(PROJECT))
os.environ["PYTHONPATH"] = os.pathsep.join([str(PROJECT), str(HERE), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
T = TypeVar("T")
RUNS = itertools.count(1)  # each run of a process is a new one


def corpus(folder: Path, documents: int = 50) -> Path:
    """Write a small text, the same every time."""
    text = folder / "text"
    text.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8))) for _ in range(2000)]
    for number in range(documents):
        (text / f"{number}.txt").write_text(" ".join(draw.choices(words, k=4000)), encoding="utf-8")
    return text


def overrides(folder: Path) -> list[str]:
    """Return what every run of a benchmark has in common: its folders, the CPU or GPU as it is, nothing printed."""
    return [
        "data=text", f"data.path={corpus(folder)}", f"data.prepared={folder}/prepared", f"run.root={folder}/runs",
        "data.val_fraction=0.2", "trainer.limit_val_batches=0", "callbacks.samples=null",
        "model.compile=false",
    ]  # fmt: skip


def config(words: list[str]) -> Any:
    from omegaconf import OmegaConf

    from harness.config.compose import compose

    cfg = compose(words)
    OmegaConf.resolve(cfg)
    return cfg


def train(words: list[str]) -> Any:
    """Train in this process, without the sample at the end; returns the config."""
    from lm import fit

    fit.print_summary = lambda *_, **__: None  # type: ignore[assignment]
    cfg = config([*words, f"run.name=benchmark-{os.getpid()}-{next(RUNS)}"])
    fit.train(cfg)
    return cfg


def timed_run(words: list[str]) -> Any:
    """Train in this process with a `clock.Clock`, and return what it has read."""
    from clock import Clock

    train(words)
    return Clock.last


def apart(measurement: Callable[..., T], *arguments: Any) -> T:
    """Return what a function of a module returns, called in a new process: what one contestant sets for its process,
    its allocator, say, is nothing to another."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measurement, *arguments).result()


def validation_loss(run: Path) -> float:
    """Return the loss that a run ended with, in nats per token."""
    return float(json.loads((run / "run.json").read_text(encoding="utf-8"))["result"]["val_loss"])
