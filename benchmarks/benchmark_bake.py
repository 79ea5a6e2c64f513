"""How long `cookiecutter` takes for this template, beside the smallest template there can be: one file."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import project
from timing import Bar, Outcome, command, interleaved

OURS, SMALLEST = "this template", "a template of one file"


def measure(rounds: int = 7, *, short: bool = False) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, other = folder / "ours", folder / "smallest"
        shutil.copytree(  # without the caches and runs that work in place leaves behind
            project.TEMPLATE, ours, symlinks=True,
            ignore=shutil.ignore_patterns(".git", "__pycache__", "runs", "build", ".venv", "*cache", "demo", "debug"),
        )  # fmt: skip
        (other / "{{cookiecutter.slug}}").mkdir(parents=True)
        (other / "{{cookiecutter.slug}}" / "README.md").write_text("# {{cookiecutter.slug}}\n", encoding="utf-8")
        (other / "cookiecutter.json").write_text(json.dumps({"slug": "project"}), encoding="utf-8")
        words = [sys.executable, "-m", "cookiecutter", "--no-input", "--overwrite-if-exists", "--accept-hooks=no"]
        contestants = {
            who: lambda path=path: command([*words, "--output-dir", str(folder / "out"), str(path)])
            for who, path in ((OURS, ours), (SMALLEST, other))
        }
        samples = interleaved(contestants, 5 if short else rounds)
    return Outcome(samples, [Bar("baking this template over baking one file", OURS, SMALLEST)], unit="s")
