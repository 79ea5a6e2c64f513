"""Make projects from the template as it is in the working tree, without what git ignores (caches, runs)."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cookiecutter.main import cookiecutter

from copy_template import ROOT, copy_template

FOLDER = "{{cookiecutter.project_slug}}"
ANSWERS = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
QUESTIONS = [key for key in ANSWERS if not key.startswith("_")]

Bake = Callable[..., "Baked"]


def run(*command: str | Path, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command where nobody answers questions; keep its output."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if check and done.returncode:
        pytest.fail(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def imported(file: Path) -> set[str]:
    """Return the packages that a Python file imports anywhere, by their first name."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {module.split(".")[0] for module in modules}


class Baked:
    """A project made from the template."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def text(self, path: str) -> str:
        return (self.folder / path).read_text(encoding="utf-8")

    def tree(self) -> dict[str, bytes]:
        """Return the content of every file, without what git and cruft keep for themselves."""
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        named = {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in files}
        return {name: content for name, content in named.items() if not name.startswith((".git/", ".cruft.json"))}

    def run(self, *command: str | Path, **environment: str) -> str:
        return run(*command, cwd=self.folder, **environment).stdout


@pytest.fixture(scope="session", autouse=True)
def nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the settings of whoever runs the tests: git identity, cookiecutter defaults and replays."""
    home = tmp_path_factory.mktemp("home")
    (home / "gitconfig").write_text("[user]\nname = Nobody\nemail = nobody@example.org\n", encoding="utf-8")
    folders = {"cookiecutters_dir": str(home / "cookiecutters"), "replay_dir": str(home / "replay")}
    (home / "cookiecutter.yaml").write_text(json.dumps(folders), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", str(home / "gitconfig"))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("COOKIECUTTER_CONFIG", str(home / "cookiecutter.yaml"))
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with the template's files, tagged v1."""
    copy = tmp_path_factory.mktemp("origin") / "cookiecutter-lightning-lm.git"  # a URL needs "git" in it
    copy_template(copy)
    run("git", "init", "--quiet", "--initial-branch=main", cwd=copy)
    run("git", "add", "--all", cwd=copy)
    run("git", "commit", "--quiet", "--message=v1", cwd=copy)
    run("git", "tag", "v1", cwd=copy)
    return copy


@pytest.fixture
def bake(template: Path, tmp_path: Path) -> Bake:
    """Make a project. Cookiecutter takes an unknown answer in silence; this does not."""

    def bake(source: Path | str = template, into: Path = tmp_path, **options: object) -> Baked:
        own = {key: options.pop(key) for key in ("accept_hooks", "checkout", "overwrite_if_exists") if key in options}
        if unknown := set(options) - set(QUESTIONS):
            raise KeyError(f"No such question: {', '.join(sorted(unknown))}. There are: {', '.join(QUESTIONS)}.")
        answers = {"git_init": False, **options}
        return Baked(Path(cookiecutter(str(source), no_input=True, output_dir=into, extra_context=answers, **own)))

    return bake


@pytest.fixture
def cli(template: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line of cookiecutter, for what hooks print and how generation ends."""

    def cli(*arguments: str, into: Path = tmp_path, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cookiecutter", template, "--no-input", *arguments]
        return run(*command, cwd=into, check=False, PWD=str(into), **environment)

    return cli
