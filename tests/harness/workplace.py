"""A copy of the project that tests may debug in, clear and break, and the Pythons of this machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from places import PROJECT

NOT_COPIED = shutil.ignore_patterns(
    "__pycache__", ".*_cache", ".venv", "runs", "prepared", "temp_debug", "wandb", ".env"
)
# What harness.cli and Hydra need, all of it Python: other versions can use this environment's.
WITHOUT_TORCH = (
    "antlr4",
    "filelock",
    "hydra",
    "markdown_it",
    "mdurl",
    "omegaconf",
    "packaging",
    "pygments",
    "rich",
    "yaml",
)


def copy_of_project(folder: Path) -> Path:
    """Copy the project into a folder with a space in its path, which is where commands with a shell break."""
    shutil.copytree(PROJECT, folder / "my lm", ignore=NOT_COPIED, symlinks=True)
    return folder / "my lm"


def pythons() -> dict[str, str]:
    """Return this interpreter and, where there are some, those of the other supported versions, by version."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for version in ("3.11", "3.12", "3.13"):
        installed = sorted(pyenv.glob(f"{version}.*/bin/python"))
        other = str(installed[-1]) if installed else shutil.which(f"python{version}")
        if other and subprocess.run([other, "-c", ""], check=False, capture_output=True).returncode == 0:
            found.setdefault(version, other)
    return found


def packages_without_torch(folder: Path) -> Path:
    """Make a folder for PYTHONPATH that has these packages of this environment and no others."""
    folder.mkdir()
    for name in WITHOUT_TORCH:
        spec = __import__(name)
        shutil.copytree(
            Path(spec.__file__).parent, folder / name, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
        )
    return folder
