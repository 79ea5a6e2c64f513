"""Every launch configuration, driven through the debugger itself, as VS Code drives it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from dap import Breakpoint, Debugger, line_of
from places import PATIENCE
from vscode import Workspace
from workplace import copy_of_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What debug runs make and clear in the copy is not the developer's own."""
    return copy_of_project(tmp_path_factory.mktemp("launch"))


@pytest.fixture
def workspace(project: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("HARNESS_DEBUG_FOLDER", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Workspace(project)


class Place(NamedTuple):
    """Where a configuration must stop, and what a watch shows there."""

    file: str
    text: str
    expression: str
    value: str


STEP = Place("lm/module.py", "logits, total, labels = self.tr", "tuple(batch['input_ids'].shape)", "(1, 256)")
NAN = Place("lm/module.py", "self.observe(logits)", "self.trainer.global_step", "2")
TINY = STEP._replace(value="(1, 64)")
STOPS = {
    "Debug: default": STEP,
    "Debug: cpu": STEP,
    "Debug: mps": STEP,
    "Debug: cuda": STEP,
    "Debug: fast, one step": STEP,
    "Debug: overfit one batch": TINY,
    "Debug: limit, an epoch on 1% of the data": TINY._replace(value="(8, 64)"),
    "Debug: profile": STEP._replace(value="(8, 256)"),
    "Debug: 14m clean": STEP,
    "Debug: 14m, gradient checkpointing added": STEP,
    "Debug: 14m, bf16 added to that": STEP,
    "Debug: data, decoded with labels": Place("lm/data/show.py", "pieces = []", "len(row['labels'])", "256"),
    "Debug: chat data": Place("lm/data/chat.py", "return Document(name", "normalized(row)[-1]['role']", "'assistant'"),
    "Debug: nan, stop where it appears": STEP,
    "Debug: resume": STEP._replace(expression="self.trainer.global_step", value="2"),
    "Debug: generate": Place("lm/inference/generate.py", "tell(prompt", "how['max_tokens']", "20"),
    "Debug: current test file": Place("tests/test_model.py", "labels[0, 5:] =", "tuple(labels.shape)", "(2, 16)"),
}


def debugger(workspace: Workspace, name: str, *places: Breakpoint, **variables: str) -> Debugger:
    return Debugger(workspace.configuration(name, **variables), breakpoints=places, exceptions=["uncaught"])


def breakpoint_at(workspace: Workspace, place: Place, condition: str | None = None) -> Breakpoint:
    file = workspace.root / place.file
    return Breakpoint(file, line_of(file, place.text), condition)


@pytest.mark.slow
@pytest.mark.parametrize("name", STOPS)
def test_a_configuration_stops_shows_a_variable_and_ends_well(workspace: Workspace, name: str) -> None:
    place = STOPS[name]
    point = breakpoint_at(workspace, place)
    with debugger(workspace, name, point, file=str(workspace.root / "tests/test_model.py")) as session:
        stop = session.wait_for_stop()
        assert stop.place == (point.file, point.line), session.output
        assert stop.evaluate(place.expression) == place.value
        session.clear_breakpoints()
        stop.resume()
        assert session.wait_for_exit() == 0, session.output


def test_every_launch_configuration_is_driven_by_a_test(workspace: Workspace) -> None:
    by_a_test_of_its_own = {
        "Debug: two DDP ranks",
        "Debug: two ranks by torchrun",
        "Debug: sweep",
        "Debug: library, step into transformers",
        "Debug: replay last NaN",
        "Attach: process on this machine", "Attach: debugpy that listens, here or through ssh",
    }  # fmt: skip
    assert set(workspace.configurations) == set(STOPS) | by_a_test_of_its_own


@pytest.mark.slow
def test_a_condition_on_a_nan_loss_stops_at_the_right_step(workspace: Workspace) -> None:
    config = spoiled(workspace.configuration("Debug: cpu"), step=3)
    point = breakpoint_at(workspace, NAN, "total.isnan()")
    with Debugger(config, breakpoints=[point], exceptions=["uncaught"]) as session:
        stop = session.wait_for_stop()
        assert (stop.place, stop.evaluate(NAN.expression)) == ((point.file, point.line), NAN.value), session.output
        stop.resume()
        assert session.wait_for_exit() == 0, session.output


@pytest.mark.slow
def test_the_nan_preset_stops_by_itself(workspace: Workspace) -> None:
    config = spoiled(workspace.configuration("Debug: nan, stop where it appears"), step=3)
    with Debugger(config, exceptions=["uncaught"]) as session:
        stop = session.wait_for_stop()
        assert stop.place[0] == workspace.root / "harness/callbacks/stop_on_nan.py", session.output
        assert (stop.evaluate("loss.item()"), stop.evaluate("trainer.global_step")) == ("nan", "2")
        assert stop.evaluate("batch['input_ids'].shape[0]") == "1"


@pytest.mark.slow
def test_the_replay_of_a_nan_stops_at_it(workspace: Workspace) -> None:
    train = spoiled(workspace.configuration("Debug: cpu"), step=3)
    command = [sys.executable, train["program"], *train["args"], "run.name=spoiled", "run.root=runs"]
    subprocess.run(command, check=True, cwd=workspace.root, env=os.environ | train["env"], capture_output=True)
    config = workspace.configuration("Debug: replay last NaN", **{"input:nan": "runs/spoiled"})
    config["env"] |= train["env"]
    config["args"] += ["--trust", "faults"]  # which no project has
    with Debugger(config, exceptions=["uncaught"]) as session:
        stop = session.wait_for_stop()
        assert stop.place[0] == workspace.root / "harness/nan/finder.py", (
            session.output
        )  # where the module was found, its inputs below
        stop.resume()
        assert session.wait_for_exit() == 0, session.output


def spoiled(config: dict[str, Any], step: int) -> dict[str, Any]:
    """Return a configuration whose run has a NaN loss at one step. The guard skips it: autograd's detection is off."""
    fault = f"+callbacks.fault={{_target_: faults.Fault, kind: loss, steps: [{step}]}}"
    args = [*config["args"], "model=tiny", "trainer.detect_anomaly=false", fault]
    return config | {"args": args, "env": config["env"] | {"PYTHONPATH": str(Path(__file__).parent)}}


@pytest.mark.slow
def test_two_debug_runs_at_once_leave_each_other_alone(workspace: Workspace) -> None:
    command = [sys.executable, "debug.py", "+debug=fast", "model=tiny"]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8"}
    both = [subprocess.Popen(command, cwd=workspace.root, **output) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    folders = {re.search(r"temp_debug/(\d+)/outputs", text)[1] for text in said}
    assert len(folders) == 2
    for number in folders:
        assert list((workspace.root / "devtools/temp_debug" / number).glob("outputs/*/checkpoints/step-00000001"))


@pytest.mark.slow
def test_attaching_to_a_process_that_runs(workspace: Workspace, tmp_path: Path) -> None:
    if shutil.which("gdb") is None and sys.version_info < (3, 14):
        pytest.skip("without gdb, no debugger can be put into a running process")
    script = tmp_path / "waits.py"
    script.write_text(
        "import time\nturn = 0\nwhile turn < 3000:\n    turn += 1\n    time.sleep(0.1)\n", encoding="utf-8"
    )
    with subprocess.Popen([sys.executable, script]) as program, killed_after(program):
        config = workspace.configuration("Attach: process on this machine", **{"command:pickProcess": str(program.pid)})
        with Debugger(config, breakpoints=[Breakpoint(script, 4)]) as session:
            assert int(session.wait_for_stop().evaluate("turn")) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Debug: two DDP ranks", "Debug: two ranks by torchrun"])
def test_both_ddp_ranks_stop(workspace: Workspace, name: str) -> None:
    with debugger(workspace, name, breakpoint_at(workspace, TINY, "batch_index == 0")) as session:
        stops = [session.wait_for_stop(), session.wait_for_stop()]
        assert {stop.evaluate("self.trainer.global_rank") for stop in stops} == {"0", "1"}
        session.clear_breakpoints()
        for stop in stops:
            stop.resume()
        assert session.wait_for_exit() == 0, session.output


@pytest.mark.slow
def test_both_jobs_of_a_sweep_stop(workspace: Workspace) -> None:
    seen = []
    with debugger(workspace, "Debug: sweep", breakpoint_at(workspace, TINY)) as session:
        for _ in range(2):
            stop = session.wait_for_stop()
            seen.append(stop.evaluate("self.trainer.optimizers[0].defaults['lr']"))
            stop.resume()
        assert session.wait_for_exit() == 0, session.output
    assert seen == ["0.001", "0.0003"]


@pytest.mark.slow
def test_the_library_preset_stops_inside_transformers(workspace: Workspace) -> None:
    from transformers.models.llama import modeling_llama

    file = Path(modeling_llama.__file__)
    point = Breakpoint(file, line_of(file, "query_states = self.q_proj(hidden_states)"))
    with debugger(workspace, "Debug: library, step into transformers", point) as session:
        stop = session.wait_for_stop()
        assert stop.place == (point.file, point.line), session.output
        assert stop.evaluate("hidden_states.shape[-1]") == "512"
        session.clear_breakpoints()
        stop.resume()
        assert session.wait_for_exit() == 0, session.output


@pytest.mark.slow
def test_attaching_to_a_program_that_listens(workspace: Workspace) -> None:
    config = workspace.configuration("Attach: debugpy that listens, here or through ssh")
    point = breakpoint_at(workspace, TINY)
    listen = ["-m", "debugpy", "--listen", f"127.0.0.1:{config['connect']['port']}", "--wait-for-client"]
    command = [sys.executable, *listen, "train.py", "+debug=fast", "model=tiny"]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=workspace.root, **output) as program, killed_after(program):
        with Debugger(config, breakpoints=[point]) as session:
            stop = session.wait_for_stop()
            assert (stop.place, stop.evaluate(TINY.expression)) == ((point.file, point.line), TINY.value)
            session.clear_breakpoints()
            stop.resume()
            session.wait_for_end()
        said, _ = program.communicate(timeout=PATIENCE)
        assert program.returncode == 0, said


@contextmanager
def killed_after(program: "subprocess.Popen[bytes]") -> Iterator[None]:
    try:
        yield
    finally:
        program.kill()
