"""Disks that are full, read-only or slow: loud, named, and training goes on as long as nothing is lost."""

import errno
import logging
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from exactness import assert_same, newest

from conftest import WORDS
from harness.checkpoint import keep, preflight, read, write
from harness.errors import UserError
from harness.run.folder import Run
from harness.run.folder import read as read_run
from harness.telemetry import events
from harness.telemetry.append import AppendOnlyFile
from harness.telemetry.loggers import TensorBoard
from hooks import fill

RUN = ("trainer.max_steps=8", "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=2", "logger=csv",
       "trainer.val_check_interval=100")  # fmt: skip


class FullDisk:
    """Refuses the checkpoints of some steps after the first bytes of them are written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *full: int) -> None:
        self.full = full
        self.step = 0
        self.save, self.write = write._save_tensors, write.write
        monkeypatch.setattr(write, "_save_tensors", self._save)
        monkeypatch.setattr("harness.checkpoint.io.write", self._write)

    def _write(self, folder: Path, *, step: int, **more: object) -> read.Checkpoint:
        self.step = step
        return self.write(folder, step=step, **more)  # type: ignore[arg-type]

    def _save(self, tensors: dict, path: Path, *more: object) -> Path:
        if self.step in self.full:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.save(tensors, path, *more)


def test_a_full_disk_is_loud_and_training_goes_on(train, monkeypatch, caplog) -> None:
    reference = train(*RUN, "run.name=reference")
    FullDisk(monkeypatch, 4)
    with caplog.at_level(logging.ERROR):
        folder = train(*RUN, "run.name=full")
    assert caplog.text.count("The checkpoint of step 4 could not be written") == 1
    assert [checkpoint.step for checkpoint in read.checkpoints(folder / "checkpoints")] == [2, 6, 8]
    assert not [path for path in (folder / "checkpoints").iterdir() if path.name.startswith(".")]
    assert_same(folder, reference)
    failed = [event for event in events.read(folder / "debug_log" / "events.jsonl") if event["data"].get("failed")]
    assert [(event["event_type"], event["step"], event["warning"]) for event in failed] == [("checkpoint", 4, True)]


def test_a_first_checkpoint_that_fails_ends_the_run_for_nothing_would_be_kept(train, monkeypatch) -> None:
    FullDisk(monkeypatch, 2)
    with pytest.raises(UserError, match=r"No checkpoint can be written in .*Free some space"):
        train(*RUN, "run.name=full")


@pytest.mark.fault
def test_a_disk_that_stays_full_ends_the_run_in_the_end(train, monkeypatch, tmp_path) -> None:
    FullDisk(monkeypatch, *range(3, 40))
    with pytest.raises(UserError, match=r"tried 5 times.*goes on from the last checkpoint"):
        train(*RUN, "run.name=full", "trainer.max_steps=30")
    assert newest(tmp_path / "runs" / "full").step == 2


@pytest.mark.fault
def test_what_cannot_be_deleted_is_a_warning_and_training_goes_on(train, monkeypatch, caplog) -> None:
    reference = train(*RUN, "run.name=reference")
    remove = shutil.rmtree

    def refuse(path: Path, *arguments: object, **more: object) -> None:
        if ".trash-" in str(path):
            raise PermissionError(errno.EACCES, "in use by another program")
        remove(path, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with caplog.at_level(logging.WARNING):
        folder = train(*RUN, "run.name=busy", "checkpoint.keep_last=1")
    assert "in use by another program" in caplog.text
    assert_same(folder, reference)
    monkeypatch.undo()
    assert len(keep.sweep(folder / "checkpoints")) == 2  # 4 and 6; 2 is pinned, for a rollback
    assert keep.sweep(folder / "checkpoints") == []


def test_a_folder_that_cannot_be_written_is_found_before_training(train, tmp_path) -> None:
    """A file in its place refuses even root, which a read-only folder would not."""
    (tmp_path / "runs" / "blocked").mkdir(parents=True)
    (tmp_path / "runs" / "blocked" / "checkpoints").touch()
    with pytest.raises(UserError, match=r"No checkpoint can be written in .*run\.root=FOLDER"):
        train(*RUN, "run.name=blocked")


def test_the_preflight_counts_what_will_be_kept_and_one_more(tmp_path, monkeypatch) -> None:
    free = 10 * 10**9
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12 - free, free))
    check = preflight.preflight
    assert check(tmp_path, checkpoint_bytes=2 * 10**9, checkpoints=4, seconds_between=1e9) == []
    (warning,) = check(tmp_path, checkpoint_bytes=2 * 10**9, checkpoints=5, seconds_between=1e9)
    assert "lacks 2 GB for 6 checkpoints of 2 GB" in warning
    with pytest.raises(UserError, match="no room for a checkpoint of 11 GB"):
        check(tmp_path, checkpoint_bytes=11 * 10**9, checkpoints=1, seconds_between=1e9)
    assert list(tmp_path.iterdir()) == []


def test_the_preflight_says_when_checkpoints_would_take_too_much_of_the_time(tmp_path) -> None:
    (warning,) = preflight.preflight(tmp_path, checkpoint_bytes=10**9, checkpoints=1, seconds_between=1e-3)
    assert "of the time between two: raise checkpoint.every_minutes" in warning


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB, room for some thirty checkpoints of the smallest run. Only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder]).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # a logger may still have a file open


@pytest.mark.fault
@pytest.mark.parametrize("megabytes", [0, 0.4, 2])
def test_a_disk_that_is_full_while_data_are_prepared_is_a_sentence_and_the_same_command_goes_on(
    corpus, small_disk, tmp_path, command, megabytes
) -> None:
    """With room for nothing, for the tokenizer, and for a part of the tokens."""
    text = tmp_path / "text.txt"
    draw = random.Random(0)
    text.write_text("\n\n".join(" ".join(draw.choices(WORDS, k=300)) for _ in range(1000)), encoding="utf-8")  # 1.4 MB
    line = (
        "prepare",
        "model=tiny",
        "data=text",
        f"data.path={text}",
        "data.val_fraction=0.1",
        "data.tokenizer.kind=bytes",
    )
    fill(small_disk, leave=int(megabytes * 2**20))
    full = command(*line, f"data.prepared={small_disk / 'prepared'}")
    assert full.returncode == 2 and "Traceback" not in full.stderr, full.stderr
    assert "No space left on device" in full.stderr and "the same command goes on where it was" in full.stderr
    assert not list((small_disk / "prepared").glob("[!.]*")), "what is half made must not be taken for data"
    (small_disk / "filler").unlink()
    again = command(*line, f"data.prepared={small_disk / 'prepared'}")
    straight = command(*line, f"data.prepared={tmp_path / 'straight'}")
    assert (again.returncode, straight.returncode) == (0, 0), again.stderr + straight.stderr
    found, expected = (
        {file.name: file.read_bytes() for file in root.glob("[!.]*/*")}
        for root in (small_disk / "prepared", tmp_path / "straight")
    )
    assert found == expected != {}
    assert not [path for path in (small_disk / "prepared").iterdir() if path.is_dir() and path.name.startswith(".")]


LOUD = (*RUN, "logger=default", "callbacks.samples.every_n_steps=1")  # every file that a run writes


@pytest.mark.fault
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
@pytest.mark.parametrize("kind", ["full", "forbidden"])
def test_a_disk_that_really_fills_up_and_a_permission_that_is_lost(train, small_disk, tmp_path, caplog, kind) -> None:
    reference = train(*LOUD, "run.name=reference")
    root = small_disk if kind == "full" else tmp_path / "runs"
    obstruct = f"+callbacks.obstruct={{_target_:hooks.Obstruct,kind:{kind},first:3,last:5}}"
    with caplog.at_level(logging.ERROR):
        folder = train(*LOUD, f"run.name={kind}", f"run.root={root}", obstruct)
    assert caplog.text.count("The checkpoint of step 4 could not be written") == 1
    assert [checkpoint.step for checkpoint in read.checkpoints(folder / "checkpoints")][-2:] == [6, 8]
    assert not [path for path in (folder / "checkpoints").iterdir() if path.name.startswith(".")]
    assert_same(folder, reference)


@pytest.mark.fault
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's thread dies of it
def test_what_a_full_disk_refuses_is_written_later(compose, small_disk, caplog) -> None:
    lines, board = AppendOnlyFile(small_disk / "lines.txt"), TensorBoard(str(small_disk), name="", version="")
    run = Run.open(compose("run.name=diary", f"run.root={small_disk}"))
    board.log_metrics({"loss": 1.0}, step=1)
    fill(small_disk)
    for step in range(3):
        lines.write(f"{step} {'x' * 5000}\n".encode())
        run.note(step=step)
        board.log_metrics({"loss": 1.0}, step=step)
        board.save()
    assert lines.waiting
    (small_disk / "filler").unlink()
    lines.write(b"the end\n")
    run.close("finished")
    board.finalize("success")
    assert [line[:3] for line in lines.path.read_text(encoding="utf-8").splitlines()] == ["0 x", "1 x", "2 x", "the"]
    assert read_run(run.folder)["attempts"][0]["step"] == 2
    for refused in ("lines.txt (", "run.json (", "TensorBoard's file ("):
        assert refused in caplog.text
