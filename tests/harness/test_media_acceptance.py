"""`python train.py experiment=omni`, whole: what only a picture or a sound can tell is learned from it, and a run whose
answers belong to other documents is told from one that looks."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from harness.report.learning import GAP

Command = Callable[..., "CompletedProcess[str]"]
KNOWN = {"image": 4 * math.log(6), "audio": 4 * math.log(8)}  # nats of a document: four of six colours, of eight notes


def scores(command: Command, folder: Path, *words: str) -> tuple[dict[str, Any], str]:
    """Train, evaluate and report as a user would; returns the scores by kind, and the report."""
    where = (f"data.prepared={folder / 'prepared'}", f"run.root={folder}", "run.name=omni")
    trained = command("train.py", "experiment=omni", "trainer=cpu", *where, *words)
    assert trained.returncode == 0, trained.stderr
    evaluated = command("evaluate.py", str(folder / "omni"), "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    report = command("report", str(folder / "omni"))
    assert report.returncode == 0, report.stderr
    return json.loads(evaluated.stdout)["media"], re.sub(r"\s+", " ", report.stdout)


@pytest.mark.slow
def test_omni_looks_and_listens_within_300_steps(command: Command, tmp_path: Path) -> None:
    found, report = scores(command, tmp_path)
    assert json.loads((tmp_path / "omni" / "run.json").read_text(encoding="utf-8"))["result"]["step"] <= 300
    for kind, known in KNOWN.items():
        assert found[kind]["own"] < known / 4 and found[kind]["other"] > known, found
        assert found[kind]["right"] >= 0.8, found
    assert "It uses what it is shown" in report


@pytest.mark.slow
def test_a_run_with_other_documents_answers_is_said_not_to_look(command: Command, tmp_path: Path) -> None:
    found, report = scores(command, tmp_path, "data.source.shuffled=true")
    assert all(abs(found[kind]["other"] - found[kind]["own"]) < GAP for kind in KNOWN), found
    assert "does not use its image and audio input" in report
