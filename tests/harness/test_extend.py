"""Every block of docs/extend.md as it stands, in a copy of the project: files are written, commands are run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import PROJECT

from conftest import SMALL

PAGE = (PROJECT / "docs" / "extend.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [text.strip() for kind, text in BLOCKS if kind == "bash"]
# Small and offline, and nothing that the page is about: the rest of each command is as typed.
BRIEF = ["trainer=cpu", "trainer.precision=32-true", "trainer.max_steps=3", "trainer.limit_val_batches=2"]
TINY = [word for word in SMALL if word.startswith("model")]


def test_every_file_is_named() -> None:
    assert all(re.match(r"# [\w/]+\.(py|yaml)\n", text) for kind, text in BLOCKS if kind in ("python", "yaml"))
    assert len(COMMANDS) >= 9


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Iterator[Path]:
    copy = tmp_path_factory.mktemp("own") / "project"
    skipped = shutil.ignore_patterns("runs", "prepared", "temp_debug", "__pycache__", ".*cache", "tests")
    shutil.copytree(PROJECT, copy, ignore=skipped)
    for kind, text in BLOCKS:
        if kind in ("python", "yaml"):
            name, _, content = text.partition("\n")
            (copy / name.removeprefix("# ")).write_text(content, encoding="utf-8")
    yield copy


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_trains(project: Path, corpus: Path, command: str) -> None:
    words = shlex.split(command)[2:]
    data = [] if "data=" in command else ["data=text", f"data.path={corpus}"]
    if "data=positioned" in command:
        data = ["data.limit=0.2", "data.val_fraction=0.2"]
    model = [] if re.search("model=|experiment=", command) else TINY
    done = subprocess.run(
        [sys.executable, "train.py", *words, *data, *model, *BRIEF],
        cwd=project,
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "validation loss" in done.stdout
