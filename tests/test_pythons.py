"""What needs no torch, on every supported Python of this machine: making a project, hooks, composing its config."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT, Baked, run

# All that `lm` imports before a config is composed and checked, and cookiecutter.
REQUIREMENTS = ["cookiecutter", "filelock", "hydra-core", "pydantic", "rich"]
SCRIPTS = "Scripts" if os.name == "nt" else "bin"


def interpreter(version: str) -> str | None:
    """Return a Python of that version from the path or from pyenv, whose stand-ins on the path may lead nowhere."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)]:
        if (
            candidate
            and subprocess.run([candidate, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0
        ):
            return str(candidate)
    return None


@pytest.fixture(scope="module", params=["3.11", "3.12", "3.13"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    """The Python of a small environment without torch."""
    found = interpreter(request.param)
    if found is None:
        pytest.skip(f"There is no Python {request.param} on this machine.")
    folder = tmp_path_factory.mktemp("python") / request.param
    run(found, "-m", "venv", folder, cwd=template)
    pins = ["-c", ROOT / "requirements-dev.txt", "-c", template / "{{cookiecutter.project_slug}}" / "constraints.txt"]
    run(folder / SCRIPTS / "python", "-m", "pip", "install", "-qq", *REQUIREMENTS, *pins, cwd=template)
    return folder / SCRIPTS / "python"


@pytest.fixture(scope="module")
def baked(python: Path, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Baked:
    into = tmp_path_factory.mktemp("baked")
    run(python, "-m", "cookiecutter", template, "--no-input", cwd=into)
    return Baked(into / "my-lm")


def test_a_project_is_made_with_its_first_commit(baked: Baked) -> None:
    assert baked.run("git", "status", "--porcelain") == ""


def test_a_bad_slug_is_refused(python: Path, template: Path, tmp_path: Path) -> None:
    done = run(python, "-m", "cookiecutter", template, "--no-input", "project_slug=a/b", cwd=tmp_path, check=False)
    assert done.returncode == 1 and "has a path separator" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--cfg", "job", "model=30m", "+debug=overfit"]])
def test_the_config_composes(python: Path, baked: Baked, arguments: list[str]) -> None:
    assert "14m" in baked.run(python, "train.py", *arguments, PYTHONWARNINGS="error") or "model=30m" in arguments


def test_a_typo_is_one_sentence(python: Path, baked: Baked) -> None:
    done = run(python, "train.py", "modle=tiny", cwd=baked.folder, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("There is no key 'modle'. Did you mean model?")
