"""A project that was made before the machinery moved out of lm/ is updated by cruft, and its user's work stays."""

import os
import sys
from pathlib import Path

import pytest

from conftest import ROOT, Baked, run
from copy_template import copy_template
from test_ways import cruft, cruft_create

BEFORE = "a0eda29e703da28ebd85b0e11061083f4d6d13fd"  # the last commit with everything in lm/
OWN = {
    "lm/callbacks/mine.py": "from lightning.pytorch import Callback\n\n\nclass Mine(Callback):\n    pass\n",
    "conf/callbacks/mine.yaml": "mine:\n  _target_: lm.callbacks.mine.Mine\n",
    "conf/experiment/mine.yaml": (
        "# @package _global_\ndefaults:\n  - override /model: tiny\n  - override /callbacks: [default, mine]\n"
    ),
    "tests/test_mine.py": "def test_mine() -> None:\n    assert True\n",
}
EDITED = "conf/model/tiny.yaml"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose branch goes from that commit straight to the files of this working tree."""
    if run("git", "cat-file", "-e", BEFORE, cwd=ROOT, check=False).returncode:
        pytest.skip(f"This clone does not reach back to {BEFORE[:7]}: git fetch --unshallow brings it.")
    repository = tmp_path_factory.mktemp("update") / "origin.git"
    run("git", "clone", "--quiet", "--no-checkout", ROOT.as_uri(), repository, cwd=ROOT)
    run("git", "checkout", "--quiet", "-B", "main", BEFORE, cwd=repository)
    run("git", "rm", "-r", "--quiet", ".", cwd=repository)
    copy_template(repository)
    run("git", "add", "--all", cwd=repository)
    run("git", "commit", "--quiet", "--message=after", cwd=repository)
    run("git", "tag", "after", cwd=repository)
    return repository


def commit(baked: Baked, message: str) -> None:
    baked.run("git", "add", "--all")
    baked.run("git", "commit", "--quiet", f"--message={message}")


@pytest.fixture(scope="module")
def updated(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Baked:
    """A project of before, with a user's own files and an edited one, after the update."""
    baked = cruft_create(origin, tmp_path_factory.mktemp("user"), checkout=BEFORE)
    baked.run("git", "init", "--quiet")
    commit(baked, "Start")  # before anything is edited: git merges an update into an edit from what was there
    for name, text in OWN.items():
        (baked.folder / name).write_text(text, encoding="utf-8")
    model = baked.folder / EDITED
    model.write_text(model.read_text(encoding="utf-8").replace("hidden_size: 128", "hidden_size: 96"), encoding="utf-8")
    commit(baked, "Make it mine")
    cruft("update", "--skip-apply-ask", "--checkout", "after", cwd=baked.folder)
    return baked


def test_an_update_over_the_move_has_no_conflict(updated: Baked) -> None:
    states = {line[:2] for line in updated.run("git", "status", "--porcelain").splitlines()}
    assert not {state for state in states if "U" in state or state in ("AA", "DD")}
    for name, content in updated.tree().items():
        assert not name.endswith((".rej", ".orig"))
        assert b"\n<<<<<<< " not in content and b"\n>>>>>>> " not in content, name


def test_the_users_own_files_and_edits_are_kept(updated: Baked) -> None:
    assert {name: updated.text(name) for name in OWN} == OWN
    assert "hidden_size: 96" in updated.text(EDITED)


def test_the_rest_is_that_of_a_new_project(updated: Baked, origin: Path, tmp_path: Path) -> None:
    fresh = cruft_create(origin, tmp_path, checkout="after").tree()
    tree = updated.tree()
    assert sorted(set(tree) - set(OWN)) == sorted(fresh)  # the suites that nobody edited are gone, too
    assert [name for name in fresh if tree[name] != fresh[name]] == [EDITED]


@pytest.mark.project
def test_the_updated_project_trains_the_users_experiment(updated: Baked) -> None:
    if "PROJECT_VENV" not in os.environ:
        pytest.skip("Without PROJECT_VENV there is no installed project; `make test-project` makes one.")
    python = Path(os.environ["PROJECT_VENV"]) / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    composed = updated.run(python, "train.py", "--cfg", "job", "experiment=mine")
    assert "hidden_size: 96" in composed and "_target_: lm.callbacks.mine.Mine" in composed
    small = ["data=text", "data.path=conf/", "data.val_fraction=0.2", "model.config.vocab_size=300", "trainer=cpu"]
    steps = ["trainer.max_steps=2", "scheduler.warmup_steps=1", "trainer.limit_val_batches=2"]
    updated.run(python, "train.py", "experiment=mine", *small, *steps, "run.name=mine")
    assert (updated.folder / "runs/mine/checkpoints/step-00000002").is_dir()
