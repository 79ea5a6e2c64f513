"""A sweep is a list of runs that the same command line continues."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from places import PROJECT
from processes import Process

from harness.config.jobs import Job
from harness.launch import table
from harness.launch.gpus import FreeList, visible_gpus
from harness.launch.status import Status
from harness.report.sweep import effects, rows_in

Command = Callable[..., "subprocess.CompletedProcess[str]"]
BRIEF = ("trainer.max_steps=2", "callbacks.samples=null", "logger=none")


def job(name: str = "x", *, asked: str = "a", accelerator: str = "auto", devices: object = 1) -> Job:
    return Job(name, ("seed=1",), {"seed": "1"}, asked, accelerator, devices)


def the_sweep(root: Path) -> Path:
    [folder] = root.iterdir()
    return folder


def statuses(folder: Path) -> dict[str, dict[str, object]]:
    return {one["overrides"]["seed"]: one for one in json.loads((folder / "sweep.json").read_text(encoding="utf-8"))}


def attempts(folder: Path) -> list[int]:
    diaries = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/run.json"))]
    return [len(diary["attempts"]) for diary in diaries]


def test_each_job_gets_gpus_that_no_other_has() -> None:
    gpus = FreeList(["0", "1", "2"])
    first, second = gpus.take(job(devices=2)), gpus.take(job(devices=1))
    assert (first, second) == (["0", "1"], ["2"])
    assert gpus.take(job(devices=1)) is None
    assert gpus.take(job(accelerator="cpu")) == []
    gpus.give_back(["0", "1"])
    assert gpus.take(job(devices="auto")) is None
    gpus.give_back(["2"])
    assert gpus.take(job(devices=[0, 1])) == ["0", "1", "2"]


def test_a_job_that_asks_for_more_gpus_than_there_are_starts_and_says_so_itself() -> None:
    assert FreeList([]).take(job(devices=8)) == []
    assert FreeList(["0"]).take(job(devices=8)) == ["0"]


def test_gpus_that_are_hidden_from_a_sweep_are_not_given_to_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-ab")
    assert visible_gpus() == ["3", "GPU-ab"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


@pytest.mark.parametrize("damage", ["", "[1]", '{"name": "x"}', "\x00", '{"state": "gone"}'])
def test_a_damaged_status_is_set_aside(tmp_path: Path, damage: str) -> None:
    Status("x", {}, "a", state="finished").write(tmp_path)
    (tmp_path / "status" / "x.json").write_text(damage, encoding="utf-8")
    assert Status.of(tmp_path, job()).state == "waiting"
    assert (tmp_path / "status" / "x.json.damaged-1").exists()


def test_finished_is_what_did_as_much_as_is_asked_and_is_still_there(tmp_path: Path) -> None:
    Status("x", {}, "a", state="finished").write(tmp_path)
    assert Status.of(tmp_path, job()).state == "waiting"
    (tmp_path / "x").mkdir()
    assert Status.of(tmp_path, job()).state == "finished"
    assert Status.of(tmp_path, job(asked="more")).state == "waiting"


def test_a_row_says_why_its_job_failed_and_where_its_log_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [
        Status("x", {"seed": "0"}, "a", "finished", 2, 5.5, 3.0),
        Status("y", {"seed": "[1,2]"}, "a", "failed", reason="ValueError: a mistake", log="y/train.log"),
    ]
    table.show(rows)
    said = " ".join(capsys.readouterr().out.split())
    assert "0 finished 5.5000 3 s" in said and "[1,2] failed ValueError: a mistake Log: y/train.log" in said
    table.write(tmp_path, rows)
    read = list(csv.DictReader((tmp_path / "sweep.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["seed"] for row in read] == ["0", "[1,2]"] and read[0]["val_loss"] == "5.5"


@pytest.mark.slow
def test_the_same_line_again_trains_nothing_and_imports_nothing_heavy(
    command: Command, small: list[str], tmp_path: Path
) -> None:
    first = command("train.py", "-m", *small, *BRIEF, "seed=0,1", OMP_NUM_THREADS="1")
    assert first.returncode == 0, first.stderr
    folder = the_sweep(tmp_path / "runs")
    assert "2 jobs, 0 of them finished" in first.stderr and first.stdout.count("finished") == 2
    assert (folder / "report.html").is_file() and len(statuses(folder)) == 2
    words = [word for word in small if not word.startswith("optimizer.lr")]
    again = command("train.py", "-m", "seed=1,0", "optimizer.lr=1e-3", *words, *BRIEF, PYTHONPROFILEIMPORTTIME="1")
    assert again.returncode == 0, again.stderr
    assert "2 jobs, 2 of them finished" in again.stderr and "Nothing to do" in again.stderr
    assert not re.search(r"\| +(torch|lightning|transformers|numpy|plotly)$", again.stderr, re.MULTILINE)
    assert attempts(folder) == [1, 1]


@pytest.mark.slow
def test_a_longer_sweep_with_one_more_value_is_the_same_sweep(
    command: Command, small: list[str], tmp_path: Path
) -> None:
    assert command("train.py", "-m", *small, *BRIEF, "seed=0,1", OMP_NUM_THREADS="1").returncode == 0
    more = (*BRIEF, "trainer.max_steps=3", "seed=2,0", "launcher.jobs=2")
    again = command("train.py", "-m", *small, *more, OMP_NUM_THREADS="1")
    assert again.returncode == 0, again.stderr
    folder = the_sweep(tmp_path / "runs")
    found = statuses(folder)
    assert {seed: one["step"] for seed, one in found.items()} == {"2": 3, "0": 3, "1": 2}
    assert sorted(attempts(folder)) == [1, 1, 2]
    assert "parameters, 3 steps" in Path(str(found["2"]["log"])).read_text(encoding="utf-8")
    never = command("train.py", "-m", *small, *BRIEF, "seed=0,1", "resume=never", OMP_NUM_THREADS="1")
    assert never.returncode == 0, never.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 2 and "0 of them finished" in never.stderr


@pytest.mark.slow
def test_a_failing_job_stops_no_other_and_is_tried_again(command: Command, small: list[str], tmp_path: Path) -> None:
    # Made, it stops the run: the pause waits for a file in a folder that is not there.
    fault = f"+callbacks.pause={{_target_:hooks.PauseAt,hook:step,step:1,reached:{tmp_path}/of-${{seed}}/x,seconds:0}}"
    (tmp_path / "of-1").mkdir()
    words = ("-m", *small, *BRIEF, "seed=0,1", fault)
    first = command("train.py", *words, OMP_NUM_THREADS="1")
    assert first.returncode == 1
    assert "1 of 2 jobs failed or stopped" in first.stderr and "The same command tries them again." in first.stderr
    assert "FileNotFoundError" in first.stdout and "train.log" in first.stdout
    found = statuses(the_sweep(tmp_path / "runs"))
    assert (found["0"]["state"], found["1"]["state"]) == ("failed", "finished")
    (tmp_path / "of-0").mkdir()
    again = command("train.py", *words, OMP_NUM_THREADS="1")
    assert again.returncode == 0, again.stderr
    assert sorted(attempts(the_sweep(tmp_path / "runs"))) == [1, 2]


@pytest.mark.slow
def test_each_job_sees_the_gpus_that_it_has_and_no_other(command: Command, small: list[str], tmp_path: Path) -> None:
    words = [word for word in small if word != "trainer=cpu"]
    note = f"+callbacks.note={{_target_:hooks.NoteGpus,path:{tmp_path}/gpus-of-${{seed}}}}"
    done = command(
        "train.py", "-m", *words, *BRIEF, "seed=0,1,2", "launcher.jobs=3", note, CUDA_VISIBLE_DEVICES="GPU-a,GPU-b",
        OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    given = [(tmp_path / f"gpus-of-{seed}").read_text(encoding="utf-8") for seed in range(3)]
    assert given[:2] == ["GPU-a", "GPU-b"] and given[2] in given[:2]


@pytest.mark.slow
def test_each_job_is_a_process_of_its_own(command: Command, small: list[str], tmp_path: Path) -> None:
    assert command("train.py", "-m", *small, *BRIEF, "seed=0,1", OMP_NUM_THREADS="1").returncode == 0
    diaries = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "runs").glob("*/*/run.json")]
    assert len({diary["attempts"][0]["pid"] for diary in diaries}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("first", range(2))
def test_a_job_is_bit_for_bit_the_run_alone(command: Command, small: list[str], tmp_path: Path, first: int) -> None:
    words = [*small, *BRIEF, "seed=0,1", f"run.root={tmp_path / 'swept'}"]
    assert command("train.py", "-m", *words, OMP_NUM_THREADS="1").returncode == 0
    assert command("train.py", *small, *BRIEF, f"seed={first}", OMP_NUM_THREADS="1").returncode == 0
    [alone] = (tmp_path / "runs").glob("*/checkpoints/step-*/model.safetensors")
    name = alone.parents[2].name
    [swept] = (tmp_path / "swept").glob(f"*/{name}/checkpoints/step-*/model.safetensors")
    assert swept.read_bytes() == alone.read_bytes()


def paused(tmp_path: Path, seconds: float) -> str:
    place = f"hook:step,step:1,reached:{tmp_path}/reached-${{seed}},seconds:{seconds}"
    return f"+callbacks.pause={{_target_:hooks.PauseAt,{place}}}"


unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@unix
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_every_job_at_a_checkpoint(small: list[str], tmp_path: Path, number: int) -> None:
    words = ["-m", *small, *BRIEF, "trainer.max_steps=3", "seed=0,1,2", "launcher.jobs=2", paused(tmp_path, 2)]
    process = Process(tmp_path / "w", words)
    process.until(lambda: all((tmp_path / f"reached-{seed}").exists() for seed in (0, 1)))
    process.send(number)
    assert process.ended() == 128 + number, process.output
    assert f"Stopped by {signal.Signals(number).name}. The same command goes on from here." in process.output
    folder = the_sweep(tmp_path / "runs")
    assert [statuses(folder)[seed]["state"] for seed in "012"] == ["stopped", "stopped", "waiting"]
    assert len(list(folder.glob("*/checkpoints/step-00000002"))) == 2
    again = Process(tmp_path / "w", words)
    assert again.ended() == 0, again.output
    assert [statuses(folder)[seed]["step"] for seed in "012"] == [3, 3, 3]


@unix
@pytest.mark.slow
def test_a_second_signal_ends_a_sweep_and_its_jobs_at_once(small: list[str], tmp_path: Path) -> None:
    process = Process(tmp_path / "w", ["-m", *small, *BRIEF, "seed=0,1", paused(tmp_path, 600)])
    process.until((tmp_path / "reached-0").exists)
    process.send(signal.SIGINT)
    time.sleep(0.5)
    process.send(signal.SIGINT)
    assert process.ended() == 130, process.output
    assert is_gone(trainer_of(the_sweep(tmp_path / "runs")))


@unix
@pytest.mark.slow
def test_jobs_do_not_outlive_a_sweep_that_is_killed(small: list[str], tmp_path: Path) -> None:
    process = Process(tmp_path / "w", ["-m", *small, *BRIEF, "seed=0,1", paused(tmp_path, 600)])
    process.until((tmp_path / "reached-0").exists)
    process.kill()
    assert is_gone(trainer_of(the_sweep(tmp_path / "runs")))


@unix
@pytest.mark.slow
def test_a_job_that_is_killed_is_failed_and_the_others_go_on(small: list[str], tmp_path: Path) -> None:
    process = Process(tmp_path / "w", ["-m", *small, *BRIEF, "seed=0,1", paused(tmp_path, 5)])
    process.until((tmp_path / "reached-0").exists)
    os.kill(trainer_of(the_sweep(tmp_path / "runs")), signal.SIGKILL)
    assert process.ended() == 1, process.output
    found = statuses(the_sweep(tmp_path / "runs"))
    assert (found["0"]["state"], found["1"]["state"]) == ("failed", "finished")
    assert found["0"]["reason"] == "Its process ended with SIGKILL."


@unix
@pytest.mark.slow
def test_a_sweep_is_run_by_one_process_at_a_time(small: list[str], command: Command, tmp_path: Path) -> None:
    words = ["-m", *small, *BRIEF, "seed=0,1", paused(tmp_path, 20)]
    process = Process(tmp_path / "w", words)
    process.until((tmp_path / "reached-0").exists)
    other = command("train.py", *words)
    assert other.returncode == 2 and "is being trained by process" in other.stderr
    process.send(signal.SIGTERM)
    process.ended()


def trainer_of(folder: Path) -> int:
    [diary] = folder.glob("*/run.json")
    return int(json.loads(diary.read_text(encoding="utf-8"))["attempts"][-1]["pid"])


def is_gone(pid: int) -> bool:
    """Wait for the end of a process that nobody here is the parent of."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and ") Z " in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8"):
            return True  # dead, and not yet fetched by init
        time.sleep(0.02)
    return False


PAGE = (PROJECT / "docs" / "sweep.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```bash\npython train\.py (.*)\n```", PAGE, flags=re.MULTILINE)


@pytest.mark.slow
def test_the_commands_of_the_page_run_and_train_only_what_is_missing(
    command: Command, small: list[str], tmp_path: Path
) -> None:
    words = [word for word in small if not word.startswith("optimizer.lr")]
    expected = ("4 jobs, 0 of", "6 jobs, 4 of", "6 jobs, 0 of", "2 jobs, 0 of", "3 jobs, 0 of")
    for line, counts in zip(COMMANDS, expected, strict=True):
        done = command("train.py", *words, *BRIEF, *shlex.split(line), OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        assert counts in done.stderr
    assert sorted(len(list(folder.glob("*/run.json"))) for folder in (tmp_path / "runs").iterdir()) == [2, 3, 6]


def test_the_effect_of_a_key_is_that_of_all_jobs_with_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    losses = {("1e-3", "0"): 5.0, ("1e-3", "1"): 5.2, ("3e-4", "0"): 6.0, ("3e-4", "1"): 6.4}
    rows = [
        Status(f"{lr}-{seed}", {"optimizer.lr": lr, "seed": seed}, "a", "finished", 2, loss)
        for (lr, seed), loss in losses.items()
    ]
    table.show([*rows, Status("x", {"optimizer.lr": "1e-3", "seed": "2"}, "a", "pruned", 1, 9.0)])
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "optimizer.lr 3e-4 2 6.2000 0.2828 6.0000" in said
    assert "optimizer.lr 1e-3 2 5.1000 0.1414 5.0000" in said
    assert "over seeds optimizer.lr=1e-3 2 5.1000 0.1414 5.0000" in said
    assert not any(line.startswith("seed 0 ") for line in said)


def test_many_values_of_a_search_are_put_together(tmp_path: Path) -> None:
    rows = [Status(str(n), {"optimizer.lr": str(n / 10)}, "a", "finished", 2, float(n)) for n in range(12)]
    table.write(tmp_path, rows)
    found = effects(rows_in(tmp_path))
    assert [(one.value, one.losses) for one in found][0] == ("0.0 to 0.2", [0.0, 1.0, 2.0]) and len(found) == 4
    (tmp_path / "sweep.json").write_text('[{"state": "finished", "overrides": 3}, 5]', encoding="utf-8")
    assert effects(rows_in(tmp_path)) == []
