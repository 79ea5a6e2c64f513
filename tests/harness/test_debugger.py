"""What debug.py and the debugger do around a run, shown with a target without torch, on every supported Python."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dap import Breakpoint, Debugger, line_of
from workplace import copy_of_project, packages_without_torch, pythons

# In place of lm.fit: writes where the caches and outputs are, as a child sees them, and fails if it is asked to.
TARGET = '''
import multiprocessing
import os
import pathlib


def in_child(cache):
    """A spawned child imports the main program again, before it comes here."""
    assert (pathlib.Path(cache) / "precious").read_text() == "kept"


def main(cfg):
    cache = pathlib.Path(os.environ["HF_DATASETS_CACHE"])
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "precious").write_text("kept")
    child = multiprocessing.get_context("spawn").Process(target=in_child, args=(str(cache),))
    child.start()
    child.join()
    assert child.exitcode == 0 and (cache / "precious").exists()
    for name in ("HARNESS_DEBUG_FOLDER", "HF_HOME", "HF_TOKEN_PATH", "HF_HUB_CACHE", "TOKENIZERS_PARALLELISM"):
        print(name, os.environ.get(name))
    print("root", cfg.run.root)
    if cfg.seed == 13:
        divided = cfg.seed / 0
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_of_project(tmp_path_factory.mktemp("debugger"))
    (folder / "target.py").write_text(TARGET, encoding="utf-8")
    for script in ("train.py", "debug.py"):
        text = (folder / script).read_text(encoding="utf-8")
        (folder / script).write_text(text.replace("lm.fit:train", "target:main"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages_without_torch(tmp_path_factory.mktemp("packages") / "site")


@pytest.fixture(autouse=True)
def a_shell_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("HF_", "LM_DEBUG", "PYTHONPATH", "HYDRA_"))]:
        monkeypatch.delenv(name)


def run(project: Path, script: str, *arguments: str) -> dict[str, str]:
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, check=False, cwd=project, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    printed = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    return {**printed, "stderr": done.stderr}


def test_debug_py_clears_before_and_neither_imports_nor_spawned_children_clear_again(project: Path) -> None:
    """Cleared by a module that is imported, the cache is gone under its owner's feet as soon as a child is spawned."""
    first = run(project, "debug.py")
    old = Path(first["HARNESS_DEBUG_FOLDER"], "outputs", "old")
    old.mkdir(parents=True)
    assert run(project, "debug.py")["HARNESS_DEBUG_FOLDER"] == first["HARNESS_DEBUG_FOLDER"]
    assert not old.exists()


@pytest.mark.slow
def test_debug_clean_false_and_train_py_keep_everything(project: Path) -> None:
    old = Path(run(project, "debug.py")["HARNESS_DEBUG_FOLDER"], "outputs", "old")
    old.mkdir(parents=True)
    run(project, "debug.py", "debug.clean=false")
    run(project, "train.py", "+debug=mps")
    run(project, "debug.py", "+debug=resume")
    assert old.is_dir()


def test_the_environment_is_set_and_downloads_stay_where_they_are(project: Path) -> None:
    seen = run(project, "debug.py", "env.TOKENIZERS_PARALLELISM=true")
    assert seen["root"] == f"{seen['HARNESS_DEBUG_FOLDER']}/outputs"
    assert (seen["HF_HOME"], seen["HF_HUB_CACHE"], seen["TOKENIZERS_PARALLELISM"]) == ("None", "None", "true")


def test_isolate_moves_all_caches_and_keeps_the_login(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/shared/huggingface")
    monkeypatch.setenv("HF_HUB_CACHE", "/shared/hub")
    seen = run(project, "debug.py", "debug.isolate=true")
    assert Path(seen["HF_HOME"]) == Path(seen["HARNESS_DEBUG_FOLDER"], "hf")
    assert (seen["HF_HUB_CACHE"], Path(seen["HF_TOKEN_PATH"])) == ("None", Path("/shared/huggingface/token"))


def test_a_broken_link_in_the_cache_is_said_and_the_run_works(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "models--a--b/snapshots/1/tokenizer_config.json"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../blobs/gone")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert f"{link} points to a file that is gone" in run(project, "debug.py")["stderr"]


def test_dotenv_is_read_and_loses_to_the_shell(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / ".env").write_text("HF_HOME=/from/dotenv\nHF_TOKEN_PATH=/from/dotenv/token\n", encoding="utf-8")
    monkeypatch.setenv("HF_TOKEN_PATH", "/from/shell")
    try:
        seen = run(project, "debug.py")
    finally:
        (project / ".env").unlink()
    assert (seen["HF_HOME"], seen["HF_TOKEN_PATH"]) == ("/from/dotenv", "/from/shell")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_a_breakpoint_in_lm_and_an_uncaught_exception_stop_at_their_lines(
    project: Path, packages: Path, version: str
) -> None:
    """Hydra lies between. It looks for a debugger where Python 3.12 has none, and would hide the exception."""
    if version not in pythons():
        pytest.skip(f"no Python {version} here")
    cli, target = project / "harness/hydra_main.py", project / "target.py"
    config = {
        "type": "debugpy", "request": "launch",
        "program": str(project / "train.py"), "args": ["+debug=cpu", "seed=13"],
        "python": [pythons()[version]], "cwd": str(project), "console": "integratedTerminal",
        "env": {"HYDRA_FULL_ERROR": "1", "PYTHONPATH": str(packages)},
    }  # fmt: skip
    point = Breakpoint(cli, line_of(cli, "return load(target)(cfg)"))
    with Debugger(config, breakpoints=[point], exceptions=["uncaught"]) as debugger:
        stop = debugger.wait_for_stop()
        assert (stop.place, stop.evaluate("cfg.trainer.accelerator")) == ((cli, point.line), "'cpu'")
        stop.resume()
        stop = debugger.wait_for_stop()
        assert (stop.reason, stop.place) == ("exception", (target, line_of(target, "divided = ")))
        stop.resume()
        assert debugger.wait_for_exit() == 1
    assert re.search(r"ZeroDivisionError", debugger.output)
