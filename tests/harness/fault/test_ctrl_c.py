"""Ctrl-C wherever it comes: one sentence, the right exit code, and advice that is true."""

import copy
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import pytest
from places import PROJECT
from processes import Process, Started

from harness.checkpoint import read
from harness.errors import Stopped, UserError

RUN = ("trainer.max_steps=50", "+callbacks.slow={_target_:hooks.Slow,seconds:0.2}", "callbacks.samples=null")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    "error", [Stopped("SIGINT", code=130), UserError("A.", cure="B.", code=3), UserError("A.")], ids=str
)
def test_an_exception_for_people_can_be_copied_and_sent(error: UserError, again) -> None:
    other = again(error)
    assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))


@pytest.mark.slow
def test_ctrl_c_in_the_second_job_of_a_sweep(small, tmp_path: Path) -> None:
    reached = tmp_path / "reached"
    pause = f"+callbacks.pause={{_target_:hooks.PauseAt,hook:step,step:1,reached:{reached}-${{seed}},seconds:60}}"
    process = Process(tmp_path, ["-m", *small, *RUN, "seed=0,1", "trainer.max_steps=4", pause.replace(":60}", ":1}")])
    process.until(Path(f"{reached}-1").exists)
    process.send(signal.SIGINT)
    assert process.ended() == 130, process.output
    assert "Stopped by SIGINT." in process.output and "Traceback" not in process.output


COMMANDS = {
    "train.py": ["train.py"],
    "debug.py": ["debug.py"],
    "generate.py": ["generate.py", "x"],
    "evaluate.py": ["evaluate.py", "x"],
    "lm": ["-m", "lm", "report", "x"],
}


@pytest.mark.parametrize(
    ("command", "library"),
    [
        ("train.py", "yaml"),
        ("train.py", "pydantic"),
        pytest.param("train.py", "hydra", marks=pytest.mark.slow),
        ("debug.py", "annotated_types"),
        ("generate.py", "omegaconf"),
        pytest.param("generate.py", "torch", marks=pytest.mark.slow),
        ("evaluate.py", "hydra"),
        ("lm", "omegaconf"),
    ],
)
def test_ctrl_c_while_libraries_are_imported(tmp_path: Path, command: str, library: str) -> None:
    # One that swallows what it is not asked to, as some do.
    code = "open('reached', 'xb')\ntry:\n    __import__('time').sleep(60)\nexcept BaseException:\n    pass\n"
    (tmp_path / f"{library}.py").write_text(code, encoding="utf-8")
    process = Started(tmp_path, COMMANDS[command], PYTHONPATH=os.pathsep.join(map(str, (tmp_path, PROJECT))))
    process.until((tmp_path / "reached").exists)
    process.send(signal.SIGINT)
    assert process.ended() == 130, process.output
    assert process.output == "Stopped by Ctrl-C.\n"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_at_any_moment_of_a_start(tmp_path: Path, command: str) -> None:
    for moment in range(0, 1000, 25):  # milliseconds
        process = Started(tmp_path, COMMANDS[command], PYTHONPATH=str(PROJECT))
        time.sleep(moment / 1000)
        process.send(signal.SIGINT)
        process.ended()
        # Python's own start, before a line of ours, has a traceback of its own.
        assert "/harness/" not in process.output, (moment, process.output)


@pytest.mark.slow
def test_after_resume_never_the_advice_names_the_run(small, tmp_path: Path) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    process = Process(tmp_path, [*small, *RUN, "run.name=x", "resume=never", "checkpoint.every_n_steps=1"])
    folder = tmp_path / "runs" / "x-2"
    process.until(lambda: bool(read.checkpoints(folder / "checkpoints")))
    process.send(signal.SIGINT)
    assert process.ended() == 130, process.output
    assert "The same command with run.name=x-2 in place of resume=never goes on from here." in process.output
    step = read.checkpoints(folder / "checkpoints")[-1].step
    again = Process(tmp_path, [*small, *RUN, "run.name=x-2", f"trainer.max_steps={step + 1}"])
    assert again.ended() == 0, again.output
    assert f"Going on from runs/x-2/checkpoints/step-{step:08d}" in again.output.replace(str(tmp_path) + "/", "")
