"""Polish: an optional git repository, and what to type next. The project is complete without this hook.

Standard library only, no network, no input, and no failure here is ever fatal.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

GIT_INIT = json.loads(r""" {{ cookiecutter.git_init | tojson }} """)
UNDER_CRUFT = json.loads(r""" {{ (cookiecutter.get("_commit") is not none) | tojson }} """)
PROJECT = Path.cwd()


def git(*arguments: str) -> bool:
    """Run git where nobody can be asked anything; say whether it worked."""
    # Set when generation itself runs inside a git hook: they would point git at that other repository.
    environment = {k: v for k, v in os.environ.items() if k not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    try:
        done = subprocess.run(
            ["git", *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, env=environment
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def make_repository() -> str:
    """Make a repository with a first commit where that is wanted and possible; return what happened."""
    if UNDER_CRUFT or not GIT_INIT:
        return ""
    if shutil.which("git") is None:
        return "No git on this machine, so no repository was made."
    if any((folder / ".git").exists() for folder in [PROJECT, *PROJECT.parents]):
        return "Inside an existing git repository, so no new one was made."
    if not git("init", "--quiet"):
        return "git init did not work here, so no repository was made."
    first_commit = ["commit", "--quiet", "--no-verify", "--message", "Start from cookiecutter-lightning-lm"]
    if git("add", "--all") and git("-c", "commit.gpgsign=false", *first_commit):
        return "Made a git repository with a first commit."
    return "Made a git repository; its first commit is yours (git does not know your name and address yet)."


def folder_to_enter() -> str:
    """Return the project's folder as seen from where the user stands, if the shell tells; else in full."""
    return PROJECT.name if os.environ.get("PWD") == str(PROJECT.parent) else f'"{PROJECT}"'


def being_updated() -> bool:
    """Say whether cruft is comparing versions: it renders the project up to four times in temporary folders."""
    return UNDER_CRUFT and Path(tempfile.gettempdir()).resolve() in PROJECT.resolve().parents


if not being_updated():
    print(make_repository())
    print("Next:")
    print(f"  cd {folder_to_enter()}")
    print("  pip install -e . -c constraints.txt")
    print("  python train.py")
