"""What may change between two attempts of a run, what may not, and where else a run can go on from."""

import contextlib
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest
from exactness import logged, newest
from faults import Windows, with_callback
from processes import Process

from harness.checkpoint import read
from harness.errors import UserError
from harness.run import folder as run_folder
from hooks import PowerCut

RUN = ("trainer.max_steps=4", "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=2", "logger=csv")
CUT = "+callbacks.cut={_target_:hooks.CutAt,step:3,hook:batch_end}"


@pytest.fixture
def cut(train, tmp_path) -> Path:
    """A run that was cut at step 3, with a checkpoint of step 2."""
    with contextlib.suppress(PowerCut):
        train(*RUN, "run.name=cut", CUT)
    return tmp_path / "runs" / "cut"


def test_what_may_change_is_said(train, cut, caplog) -> None:
    with caplog.at_level(logging.INFO):
        train(*RUN, "run.name=cut", "trainer.max_steps=5", "checkpoint.keep_last=2")
    assert "Changed since the last attempt: trainer.max_steps: 4 -> 5" in caplog.text
    assert "Changed since the last attempt: checkpoint.keep_last: 3 -> 2" in caplog.text
    assert "optimizer.lr" not in caplog.text


def test_other_data_are_refused_with_the_difference(train, cut, corpus, tmp_path) -> None:
    other = Path(shutil.copytree(corpus, tmp_path / "other"))
    (other / "00.txt").write_text("def if else in " * 200, encoding="utf-8")
    difference = r"(?s)The data have changed since .*step-00000002.*train\.tokens: .* -> .*resume=never"
    with pytest.raises(UserError, match=difference):
        train(*RUN, "run.name=cut", f"data.path={other}")


def test_another_experiment_of_the_same_name_is_refused(command, small, cut) -> None:
    done = command("train.py", *small, *RUN, "run.name=cut", "optimizer.lr=0.5", "data.batch_size=2")
    assert done.returncode == 2
    assert "is another experiment" in done.stderr
    assert "optimizer.lr: 0.001 -> 0.5" in done.stderr
    assert "data.batch_size" not in done.stderr  # that alone would be the same run
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_smaller_batch_goes_on_with_the_run_and_is_said(train, command, small, tmp_path) -> None:
    run = train(*RUN, "run.name=large")
    smaller = ["data.batch_size=2", "trainer.accumulate_grad_batches=2", "trainer.max_steps=6"]
    done = command("train.py", *small, *RUN, "run.name=large", *smaller)
    assert done.returncode == 0, done.stderr
    assert "Changed since the last attempt: data.batch_size: 4 -> 2" in done.stderr
    diary = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert "data.batch_size: 4 -> 2" in diary["attempts"][-1]["changes"]
    assert newest(run).step == 6


@pytest.mark.parametrize("batch", [["data.batch_size=2"], ["data.batch_size=1", "trainer.accumulate_grad_batches=3"]])
@pytest.mark.parametrize("where", ["run.name=whole", "resume_from"])
def test_another_batch_size_goes_on_with_the_same_windows(train, batch: list[str], where: str, tmp_path) -> None:
    note = with_callback(Windows, name="note")
    train(note, "run.name=reference", "trainer.max_steps=8")
    expected = Windows.last.rows
    run = train(note, "run.name=whole", "trainer.max_steps=4")
    begun = Windows.last.rows
    train(note, f"resume_from={run}" if where == "resume_from" else where, *batch, "trainer.max_steps=8")
    there = begun + Windows.last.rows
    assert len(begun) == 16 and len(there) > len(begun)
    assert there == expected[: len(there)]


def test_resume_from_takes_a_run_a_checkpoint_or_latest(train, cut, tmp_path) -> None:
    for name, source in (("a", cut), ("b", cut / "checkpoints" / "step-00000002"), ("c", "latest")):
        folder = train(*RUN, f"run.name={name}", f"resume_from={source}")
        assert [row["step"] for row in logged(folder) if row["train/loss"]] == ["3", "4"]
        shutil.rmtree(folder)


def test_a_run_prefers_its_own_checkpoints_to_resume_from(train, cut) -> None:
    train(*RUN, "run.name=other", "trainer.max_steps=4")
    folder = train(*RUN, "run.name=cut", f"resume_from={cut.parent / 'other'}")
    assert newest(folder).manifest["run_id"] == run_folder.read(folder)["id"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("runs/nowhere", "is not a run: it has no config.yaml"),
        ("latest", "No run in .* has a checkpoint"),
    ],
)
def test_resume_from_nothing_is_a_sentence(train, path: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        train(*RUN, "run.name=new", f"resume_from={path}")


def test_latest_goes_by_the_diary_and_not_by_file_times(train, tmp_path) -> None:
    from harness.checkpoint.resume import newest_run

    train(*RUN, "run.name=older")
    newer = train(*RUN, "run.name=newer")
    os.utime(newer / "run.json", (0, 0))
    diary = json.loads((newer / "run.json").read_text(encoding="utf-8"))
    diary["attempts"][-1]["started"] = "2999-01-01T00:00:00+00:00"
    (newer / "run.json").write_text(json.dumps(diary), encoding="utf-8")
    assert newest_run(tmp_path / "runs", besides=tmp_path / "runs" / "new") == newer


@pytest.mark.fault
def test_a_run_is_locked_and_a_dead_holder_frees_it(small, tmp_path) -> None:
    slow = [*small, *RUN, "run.name=locked", "+callbacks.slow={_target_:hooks.Slow,seconds:30}"]
    first = Process(tmp_path, slow)
    first.until(lambda: "30,240 parameters" in first.output)
    second = Process(tmp_path, slow)
    assert second.ended() == 2
    assert f"is being trained by process {first.popen.pid} on" in second.output
    assert "Traceback" not in second.output
    first.kill()
    third = Process(tmp_path, slow)
    third.until(lambda: "30,240 parameters" in third.output)
    third.kill()


@pytest.mark.fault
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_loader_worker_is_a_clear_error(small, tmp_path) -> None:
    kill = "+callbacks.kill={_target_:hooks.KillWorkerAt,step:3,hook:batch_start}"
    process = Process(tmp_path, [*small, *RUN, "run.name=workers", "data.num_workers=1", "trainer.max_steps=60", kill])
    assert process.ended() == 2
    assert "A loader worker died" in process.output
    assert "Traceback" not in process.output
    assert [checkpoint.step for checkpoint in read.checkpoints(tmp_path / "runs" / "workers" / "checkpoints")] == [2]
