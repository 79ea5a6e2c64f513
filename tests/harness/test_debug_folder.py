"""harness/run/debug_folder.py and devtools/clean.py: what is cleared, what is refused, and that runs leave each other
alone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from places import PROJECT

from harness.errors import UserError
from harness.run import debug_folder
from harness.run.debug_folder import EACH_LAUNCH, MARKER, VARIABLE, clear_unused, enter, remove

# A debug run that does nothing: enters, says where, and holds its folder until its input ends.
RUN = """
import sys
from pathlib import Path
from harness.run.debug_folder import enter
print(enter(clear=True, root=Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv(VARIABLE, raising=False)
    before = len(debug_folder._held)
    yield tmp_path / "temp_debug"
    for lock in debug_folder._held[before:]:
        lock.release()
    del debug_folder._held[before:]
    os.environ.pop(VARIABLE, None)


def fill(folder: Path) -> Path:
    for name in ("outputs/run/model.bin", "prepared/a/train.bin", "hf/datasets/x.arrow", "hf/hub/model.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x", encoding="utf-8")
    return folder


def left_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@contextmanager
def other_run(root: Path) -> Iterator[Path]:
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-c", RUN, str(root)]
    with subprocess.Popen(
        command, cwd=PROJECT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        yield Path(process.stdout.readline().strip())
        assert process.stdin is not None
        process.stdin.close()


def test_a_run_gets_a_marked_folder_that_git_ignores(root: Path) -> None:
    assert enter(clear=True, root=root) == root / "1"
    assert (root / MARKER).is_file()
    assert (root / ".gitignore").read_text(encoding="utf-8") == "*\n"


def test_a_second_run_gets_a_folder_of_its_own_and_neither_wipes_the_other(root: Path) -> None:
    with other_run(root) as first:
        fill(first)
        second = fill(enter(clear=True, root=root))
        assert (first, second) == (root / "1", root / "2")
        assert list(clear_unused(EACH_LAUNCH, root)) == [
            f"Left {f} alone: a debug run is using it." for f in (first, second)
        ]
        assert len(left_in(first)) == len(left_in(second)) == 4


def test_a_folder_is_free_again_when_its_run_has_been_killed(root: Path) -> None:
    with other_run(root) as first:
        pass
    assert enter(clear=True, root=root) == first


def test_a_launch_clears_what_runs_made_and_keeps_downloads(root: Path) -> None:
    with other_run(root) as folder:
        fill(folder)
    enter(clear=True, root=root)
    assert left_in(folder) == ["hf/hub/model.safetensors"]


def test_a_launch_that_must_not_clear_keeps_everything(root: Path) -> None:
    with other_run(root) as folder:
        fill(folder)
    enter(clear=False, root=root)
    assert len(left_in(folder)) == 4


def test_a_child_works_in_its_parents_folder_and_clears_nothing(root: Path) -> None:
    folder = fill(enter(clear=True, root=root))
    again = "from harness.run.debug_folder import enter; print(enter(clear=True))"
    done = subprocess.run(
        [sys.executable, "-c", again], check=True, cwd=PROJECT, capture_output=True, text=True, encoding="utf-8"
    )
    assert Path(done.stdout.strip()) == folder
    assert len(left_in(folder)) == 4


def test_parts_are_removed_by_name(root: Path) -> None:
    with other_run(root) as folder:
        fill(folder)
    assert list(clear_unused(["outputs"], root)) == [f"Removed {folder / 'outputs'}"]
    assert left_in(folder) == ["hf/datasets/x.arrow", "hf/hub/model.safetensors", "prepared/a/train.bin"]
    assert list(clear_unused(["all"], root)) == [f"Removed {folder}"]
    assert not folder.exists()


@pytest.mark.parametrize("part", ["..", "/etc", "hf/hub", "outputs/../..", ""])
def test_a_name_that_is_not_in_the_list_is_refused(root: Path, part: str) -> None:
    folder = fill(enter(clear=True, root=root))
    with pytest.raises(KeyError):
        remove(folder, [*EACH_LAUNCH, part])
    assert len(left_in(folder)) == 4


def test_a_folder_without_the_marker_is_refused(root: Path) -> None:
    folder = fill(enter(clear=True, root=root))
    (root / MARKER).unlink()
    with pytest.raises(UserError, match="not a debug folder"):
        remove(folder, EACH_LAUNCH)
    with pytest.raises(UserError, match="not a debug folder"):
        remove(root, EACH_LAUNCH)
    assert len(left_in(folder)) == 4


def test_somebodys_own_folder_of_that_name_is_not_taken_over(root: Path) -> None:
    (root / "1").mkdir(parents=True)
    with pytest.raises(UserError, match="is not a debug folder"):
        enter(clear=True, root=root)
    assert [path.name for path in root.iterdir()] == ["1"]


@pytest.mark.parametrize("place", ["temp_debug", "temp_debug/1", "temp_debug/1/hf", "temp_debug/1/outputs"])
def test_a_link_on_the_way_is_refused_and_its_target_kept(root: Path, tmp_path: Path, place: str) -> None:
    enter(clear=True, root=root)
    link, elsewhere = tmp_path / place, tmp_path / "elsewhere"
    fill(root / "1")
    link.rename(elsewhere)
    link.symlink_to(elsewhere, target_is_directory=True)
    before = left_in(elsewhere)
    with pytest.raises(UserError, match="is a link to"):
        remove(root / "1", ["prepared", "datasets", "outputs"])
    assert left_in(elsewhere) == before


def test_a_link_inside_is_removed_and_not_followed(root: Path, tmp_path: Path) -> None:
    folder = enter(clear=True, root=root)
    fill(tmp_path / "mine")
    (folder / "outputs").mkdir()
    (folder / "outputs" / "data").symlink_to(tmp_path / "mine", target_is_directory=True)
    remove(folder, ["outputs"])
    assert not (folder / "outputs").exists()
    assert len(left_in(tmp_path / "mine")) == 4


def test_the_command_knows_only_the_listed_names() -> None:
    clean = [sys.executable, "devtools/clean.py"]
    helped = subprocess.run(
        [*clean, "--help"], check=True, cwd=PROJECT, capture_output=True, text=True, encoding="utf-8"
    )
    assert all(f"--{part}" in helped.stdout for part in ("outputs", "prepared", "datasets", "all"))
    refused = subprocess.run([*clean, "../runs"], check=False, cwd=PROJECT, capture_output=True)
    assert refused.returncode == 2


def test_a_rank_of_a_launcher_is_told_that_presets_start_ranks_themselves(root: Path, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="without torchrun"):
        enter(clear=False, root=root)
