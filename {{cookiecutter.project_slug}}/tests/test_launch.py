"""Every launch configuration, driven through the debugger itself, as VS Code drives it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from dap import Breakpoint, Debugger, line_of
from vscode import Workspace

PROJECT = Path(__file__).resolve().parents[1]
NOT_COPIED = shutil.ignore_patterns(
    "__pycache__", ".*_cache", ".venv", "runs", "prepared", "temp_debug", "wandb", ".env"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a space in its path: what debug runs make and clear is not the developer's own."""
    folder = tmp_path_factory.mktemp("my projects") / "my lm"
    shutil.copytree(PROJECT, folder, ignore=NOT_COPIED, symlinks=True)
    return folder


@pytest.fixture
def workspace(project: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("LM_DEBUG_FOLDER", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Workspace(project)


class Place(NamedTuple):
    """Where a configuration must stop, and what a watch shows there."""

    file: str
    text: str
    expression: str
    value: str


STEP = Place("lm/module.py", "self.training_loss(batch)", "tuple(batch['input_ids'].shape)", "(1, 256)")
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
    "Debug: data, decoded with labels": Place("lm/data/show.py", "zip(tokens[", "len(tokens)", "256"),
    "Debug: resume": STEP._replace(expression="self.trainer.global_step", value="2"),
    "Debug: generate": Place("lm/text.py", "for piece in", "max_tokens", "20"),
    "Debug: current test file": Place("lm/env.py", "if match:", "match[1]", "'A'"),
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
    with debugger(workspace, name, point, file=str(workspace.root / "tests/test_env.py")) as session:
        stop = session.wait_for_stop()
        assert stop.place == (point.file, point.line), session.output
        assert stop.evaluate(place.expression) == place.value
        session.clear_breakpoints()
        stop.resume()
        assert session.wait_for_exit() == 0, session.output


@pytest.mark.slow
def test_both_ddp_ranks_stop(workspace: Workspace) -> None:
    with debugger(workspace, "Debug: two DDP ranks", breakpoint_at(workspace, TINY, "batch_index == 0")) as session:
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
        said, _ = program.communicate(timeout=60)
        assert program.returncode == 0, said


@contextmanager
def killed_after(program: "subprocess.Popen[bytes]") -> Iterator[None]:
    try:
        yield
    finally:
        program.kill()
