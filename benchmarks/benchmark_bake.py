"""How long `cookiecutter` takes for this template, beside the smallest template there can be, of one file, and others.

TEMPLATES=FOLDER:FOLDER names checkouts of other templates (grok-ai/nn-template, audreyfeldroy/cookiecutter-pypackage).
No hook runs, of anybody's.
"""

import json
import os
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
        named = [Path(path) for path in os.environ.get("TEMPLATES", "").split(os.pathsep) if path]
        templates = {OURS: ours, SMALLEST: other, **{path.name: path for path in named}}
        contestants = {
            who: lambda path=path: command([*words, "--output-dir", str(folder / "out"), str(path)])
            for who, path in templates.items()
        }
        samples = interleaved(contestants, 5 if short else rounds)
    bars = [Bar("baking this template over baking one file", OURS, SMALLEST)]
    bars += [Bar(f"baking this template over {path.name}", OURS, path.name, 1) for path in named]
    return Outcome(samples, bars, unit="s")
