"""The same project, whichever way it is made; and updates that leave the user's work alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Bake, Baked, run

ANSWERS = {"project_name": "Same", "author": "Ada", "license": "BSD-3-Clause", "git_init": False}


def cruft(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "cruft", *arguments, cwd=cwd)


def cruft_create(template: Path, into: Path, checkout: str = "v1", **answers: object) -> Baked:
    """Make a project that can be updated, as a user would: from a URL, at a tag."""
    options = ["--no-input", "--checkout", checkout, "--output-dir", into, "--extra-context", json.dumps(answers)]
    cruft("create", template.as_uri(), *options, cwd=into)
    (folder,) = into.iterdir()
    return Baked(folder)


def from_path(bake: Bake, template: Path, tmp_path: Path) -> Baked:
    return bake(**ANSWERS)


def from_url_at_a_tag(bake: Bake, template: Path, tmp_path: Path) -> Baked:
    return bake(template.as_uri(), checkout="v1", **ANSWERS)


def from_zip(bake: Bake, template: Path, tmp_path: Path) -> Baked:
    archive = tmp_path / "template.zip"
    run("git", "archive", "--prefix=cookiecutter-lightning-lm-1/", f"--output={archive}", "v1", cwd=template)
    return bake(archive, **ANSWERS)


def from_clone_without_links(bake: Bake, template: Path, tmp_path: Path) -> Baked:
    run("git", "clone", "--quiet", "--config=core.symlinks=false", template.as_uri(), "clone", cwd=tmp_path)
    assert not (tmp_path / "clone" / "conf").is_symlink()
    return bake(tmp_path / "clone", **ANSWERS)


def from_cruft(bake: Bake, template: Path, tmp_path: Path) -> Baked:
    (tmp_path / "cruft").mkdir()
    return cruft_create(template, tmp_path / "cruft", **ANSWERS)


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory, template: Path) -> dict[str, bytes]:
    """Cookiecutter's command line on the folder itself: the way nothing else is compared with."""
    into = tmp_path_factory.mktemp("expected")
    answers = [f"{question}={answer}" for question, answer in ANSWERS.items()]
    run(sys.executable, "-m", "cookiecutter", template, "--no-input", *answers, cwd=into)
    return Baked(into / "same").tree()


@pytest.mark.parametrize("way", [from_path, from_url_at_a_tag, from_zip, from_clone_without_links, from_cruft])
def test_every_way_gives_the_same_bytes(
    way: Callable[[Bake, Path, Path], Baked], bake: Bake, template: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    tree = way(bake, template, tmp_path).tree()
    assert sorted(tree) == sorted(expected)
    assert [name for name in tree if tree[name] != expected[name]] == []


def test_rendering_again_changes_nothing(bake: Bake) -> None:
    before = bake(**ANSWERS).tree()
    assert bake(overwrite_if_exists=True, **ANSWERS).tree() == before


def test_no_repository_under_cruft(template: Path, tmp_path: Path) -> None:
    assert not (cruft_create(template, tmp_path, git_init=True).folder / ".git").exists()


def release(template: Path) -> None:
    """Commit a newer version: one new rule in .gitignore, one new page."""
    project = template / "{{cookiecutter.project_slug}}"
    rules = project / ".gitignore"
    rules.write_text("new-rule/\n" + rules.read_text(encoding="utf-8"), encoding="utf-8")
    (project / "docs").mkdir(exist_ok=True)
    (project / "docs" / "new.md").write_text("{{ kept as it is }}\n", encoding="utf-8")
    run("git", "add", "--all", cwd=template)
    run("git", "commit", "--quiet", "--message=v2", cwd=template)


def test_an_update_brings_the_new_and_keeps_local_edits(template: Path, tmp_path: Path) -> None:
    run("git", "clone", "--quiet", template.as_uri(), "template", cwd=tmp_path)
    (tmp_path / "work").mkdir()
    baked = cruft_create(tmp_path / "template", tmp_path / "work", project_name="Any", project_slug="chosen")
    edited = {name: baked.text(name) + "\n# mine\n" for name in (".gitignore", ".env.example")}
    for name, text in edited.items():
        (baked.folder / name).write_text(text, encoding="utf-8")
    (baked.folder / ".pre-commit-config.yaml").unlink()
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=mine"]):
        baked.run("git", *arguments)

    release(tmp_path / "template")
    done = cruft("update", "--skip-apply-ask", cwd=baked.folder)

    assert baked.text(".gitignore") == "new-rule/\n" + edited[".gitignore"]
    assert baked.text(".env.example") == edited[".env.example"]
    assert baked.text("docs/new.md") == "{{ kept as it is }}\n"
    assert not (baked.folder / ".pre-commit-config.yaml").exists()
    assert 'name = "chosen"' in baked.text("pyproject.toml")
    changed = {line[3:] for line in baked.run("git", "status", "--porcelain", "-uall").splitlines()}
    assert changed == {".cruft.json", ".gitignore", "docs/new.md"}
    assert "pip install" not in done.stdout  # hooks run at every update, and stay silent
