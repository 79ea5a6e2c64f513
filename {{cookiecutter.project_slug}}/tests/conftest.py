"""A run made small: a corpus of 20 kB, a model of two thin layers, six steps. Everything it makes is in a folder of
the test's own."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from harness.config.compose import CONF, compose

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch is not imported yet; so small a model is slower on two

PROJECT = CONF.parent


def quoted(path: Path) -> str:
    """Return a path as the value of an override: it may have spaces, commas or braces in it."""
    return f"'{path.as_posix()}'"


CONVERSATIONS = quoted(PROJECT / "devtools/chat.jsonl")

SMALL = (
    "model=tiny",
    "model.config.vocab_size=300",
    "model.config.max_position_embeddings=16",
    "model.config.num_hidden_layers=2",
    "model.config.hidden_size=32",
    "model.config.intermediate_size=64",
    "data=text",
    "data.batch_size=4",
    "data.val_fraction=0.2",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_steps=6",
    "trainer.log_every_n_steps=1",
    "scheduler.warmup_steps=2",
)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 text files, the same ones every time."""
    folder = tmp_path_factory.mktemp("corpus") / "text"
    folder.mkdir()
    words = random.Random(0)
    for number in range(40):
        text = " ".join(words.choices(["def", "return", "if", "self", "name", "value", "(", ")", ":", "="], k=120))
        (folder / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def small(corpus: Path, tmp_path: Path) -> list[str]:
    """The overrides of the smallest run. What is prepared once serves all tests."""
    prepared, runs = quoted(corpus.parent / "prepared"), quoted(tmp_path / "runs")
    return [*SMALL, f"data.path={quoted(corpus)}", f"data.prepared={prepared}", f"run.root={runs}"]


@pytest.fixture
def train(small: list[str]) -> Callable[..., DictConfig]:
    """Train the smallest run, changed by further overrides, and return its config."""

    def run(*overrides: str) -> DictConfig:
        from lm import fit  # not above: a test that composes only need not wait for torch

        cfg = compose([*small, *overrides])
        OmegaConf.resolve(cfg)  # else each look at the run's name would compute it again
        fit.train(cfg)
        return cfg

    return run
