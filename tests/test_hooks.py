"""Hooks validate and polish; a project without them is the same project."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from conftest import ROOT, Bake, Baked, imported, run

Cli = Callable[..., CompletedProcess[str]]

REFUSED = {  # slug: (what the sentence says, what it proposes)
    "": ("is empty", "my-lm"),
    " ": ("is empty", "my-lm"),
    ".": ("starts with a dot", "my-lm"),
    "..": ("starts with a dot", "my-lm"),
    ".lm": ("starts with a dot", "lm"),
    "a/b": ("has a path separator", "a-b"),
    "../a": ("has a path separator", "a"),
    "/tmp/a": ("has a path separator", "tmp-a"),
    "a\\b": ("has a path separator", "a-b"),
    "con": ("is a device name on Windows", "con-lm"),
    "LPT1.old": ("is a device name on Windows", "LPT1-lm"),
    "my lm": ("is no distribution name", "my-lm"),
    "my-lm-": ("is no distribution name", "my-lm"),
    "-lm": ("is no distribution name", "lm"),
    "läm": ("is no distribution name", "l-m"),
    "it's": ("is no distribution name", "it-s"),
    'a"b': ("is no distribution name", "a-b"),
    "a\n": ("is no distribution name", "a"),
}


@pytest.mark.parametrize("slug", REFUSED)
def test_a_bad_slug_ends_in_one_line_and_leaves_nothing(cli: Cli, tmp_path: Path, slug: str) -> None:
    done = cli(f"project_slug={slug}")
    complaint, proposal = REFUSED[slug]
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert complaint in line and line.endswith(f"Valid would be: project_slug={proposal}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("slug", sorted({proposal for _, proposal in REFUSED.values()}))
def test_what_the_line_proposes_is_valid(bake: Bake, slug: str) -> None:
    assert bake(project_slug=slug).folder.name == slug


@pytest.mark.parametrize("question", ["description", "author"])
def test_a_line_break_is_refused(cli: Cli, tmp_path: Path, question: str) -> None:
    done = cli(f"{question}=a\nb")
    assert done.returncode == 1 and f"The {question} has a line break" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bad_slug_never_spills_into_a_folder_that_exists(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    assert cli("--overwrite-if-exists", "project_slug=").returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_project_is_complete_without_hooks(bake: Bake, tmp_path: Path) -> None:
    without = bake(into=tmp_path / "without", accept_hooks=False, git_init=True)
    assert without.tree() == bake(into=tmp_path / "with").tree()
    assert not (without.folder / ".git").exists()


def test_hooks_use_the_standard_library_alone() -> None:
    for hook in (ROOT / "hooks").iterdir():
        assert imported(hook) <= sys.stdlib_module_names - {"socket", "urllib", "http", "ssl"}


def test_the_first_commit_holds_everything(cli: Cli, tmp_path: Path) -> None:
    done = cli()
    baked = Baked(tmp_path / "my-lm")
    assert done.returncode == 0, done.stderr
    assert baked.run("git", "log", "--format=%s").splitlines() == ["Start from cookiecutter-lightning-lm"]
    assert baked.run("git", "status", "--porcelain") == ""
    assert ".vscode" not in baked.text(".gitignore")
    last = done.stdout.splitlines()[-3:]
    assert last == ["  cd my-lm", "  pip install -e . -c constraints.txt", "  python train.py"]


def test_the_folder_is_named_in_full_when_it_is_elsewhere(cli: Cli, tmp_path: Path) -> None:
    done = cli("--output-dir", "some where")
    assert f'cd "{tmp_path / "some where" / "my-lm"}"' in done.stdout


def test_no_repository_when_not_wanted(cli: Cli, tmp_path: Path) -> None:
    assert cli("git_init=no").returncode == 0
    assert not (tmp_path / "my-lm" / ".git").exists()


def test_no_repository_inside_another(cli: Cli, tmp_path: Path) -> None:
    run("git", "init", "--quiet", cwd=tmp_path)
    assert "Inside an existing git repository" in cli().stdout
    assert not (tmp_path / "my-lm" / ".git").exists()


def test_variables_of_another_repository_are_not_followed(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    run("git", "init", "--quiet", cwd=tmp_path / "other")
    (tmp_path / "here").mkdir()
    other = {"GIT_DIR": str(tmp_path / "other" / ".git"), "GIT_WORK_TREE": str(tmp_path / "other")}
    assert "Made a git repository with a first commit" in cli(into=tmp_path / "here", **other).stdout


def fake_git(folder: Path, script: str) -> str:
    """Put a git of our own first on the path; return that path."""
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / "git").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for git is a shell script")
@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("exit 1", "git init did not work"),
        ('test "$1" = init', "its first commit is yours"),
        ("kill -9 $$", "git init did not work"),
    ],
)
def test_a_git_that_fails_is_never_fatal(cli: Cli, tmp_path: Path, script: str, says: str) -> None:
    done = cli(PATH=fake_git(tmp_path / "bin", script))
    assert done.returncode == 0 and says in done.stdout
    assert (tmp_path / "my-lm" / "pyproject.toml").exists()


def test_without_git_the_project_is_still_made(cli: Cli, tmp_path: Path) -> None:
    done = cli(PATH=str(tmp_path / "nothing-here"))
    assert done.returncode == 0 and "No git on this machine" in done.stdout


def test_without_a_name_git_keeps_the_first_commit_for_the_user(cli: Cli, tmp_path: Path) -> None:
    nameless = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_COUNT": "1"}
    nameless |= {"GIT_CONFIG_KEY_0": "user.useConfigOnly", "GIT_CONFIG_VALUE_0": "true"}
    done = cli(**nameless)
    assert done.returncode == 0 and "its first commit is yours" in done.stdout
