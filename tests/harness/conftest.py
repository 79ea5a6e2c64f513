"""Real parts made small: a corpus of a few kilobytes, the tiny model, commands as a user types them."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import settings
from omegaconf import DictConfig, OmegaConf
from places import HARNESS_TESTS, NO_USER_HAS, PATIENCE, PROJECT

# First on every path, also in processes that tests start: the environment may hold a project made from the template.
os.environ["PYTHONPATH"] = os.pathsep.join([str(PROJECT), str(HARNESS_TESTS)])

settings.register_profile("project", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("project")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make what a test has printed and logged fit to be sent between processes: a lone surrogate is not."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "replace").decode()) for name, text in report.sections]
    return report


WORDS = [
    "def",
    "return",
    "if",
    "else",
    "for",
    "in",
    "self",
    "import",
    "class",
    "name",
    "value",
    "list",
    "dict",
    "None",
    "True",
    "(",
    ")",
    ":",
    "=",
    "[",
    "]",
]

# The smallest run that still has batches, validation and accumulation.
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
    "scheduler.warmup_steps=2",
    "optimizer.lr=1e-3",
)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 small text files: about 24 kB, the same every time."""
    folder = tmp_path_factory.mktemp("corpus")
    words = random.Random(0)
    for number in range(40):
        text = " ".join(words.choices(WORDS, k=120))
        (folder / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def small(corpus: Path, tmp_path: Path) -> list[str]:
    """Overrides of the smallest run, with its folders below this test's own."""
    return overrides(corpus, tmp_path)


def overrides(corpus: Path, folder: Path) -> list[str]:
    return [*SMALL, f"data.path={corpus}", f"data.prepared={corpus.parent / 'prepared'}", f"run.root={folder / 'runs'}"]


@pytest.fixture
def compose(small: list[str]) -> Callable[..., DictConfig]:
    """Compose the smallest run with further overrides."""
    from harness.config.compose import compose

    return lambda *overrides: compose([*small, *overrides])


@pytest.fixture
def train(compose: Callable[..., DictConfig]) -> Callable[..., Path]:
    """Train the smallest run in this process; returns its folder."""
    from lm import fit

    def run(*overrides: str) -> Path:
        cfg = compose(*overrides)
        OmegaConf.resolve(cfg)
        fit.train(cfg)
        return Path(cfg.run.dir)

    return run


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run `python SCRIPT ARGUMENTS` as a user does, in a fresh folder unless `cwd` says otherwise."""

    def run(
        script: str, *arguments: str, cwd: Path = tmp_path, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        clean = {name: value for name, value in os.environ.items() if name not in NO_USER_HAS}
        environment = {
            **clean,
            "PYTHONUTF8": "1",
            "COLUMNS": "200",
            **environment,
        }
        words = [
            sys.executable,
            *((str(PROJECT / script),) if script.endswith(".py") else ("-m", "lm", script)),
            *arguments,
        ]
        output = {"capture_output": True, "text": True, "encoding": "utf-8", "check": False}
        return subprocess.run(words, cwd=cwd, env=environment, timeout=PATIENCE, **output)

    return run
