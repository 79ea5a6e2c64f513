"""The editors' files: only fields that the debugger knows, and only names that exist."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any

import pytest
from places import PROJECT
from vscode import Workspace

from harness.config.compose import CONF, compose

WORKSPACE = Workspace(PROJECT, file=str(PROJECT / "tests/test_model.py"), **{"command:pickProcess": "1"})
PRESETS = {file.stem for file in (CONF / "debug").glob("*.yaml")}

# What the extension ms-python.debugpy (2026.7) and VS Code itself accept; anything else is underlined and ignored.
COMMON = {
    "name": str, "type": str, "request": str, "presentation": dict, "preLaunchTask": str, "postDebugTask": str,
    "justMyCode": bool, "subProcess": bool, "showReturnValue": bool, "redirectOutput": bool, "pathMappings": list,
    "windows": dict, "linux": dict, "osx": dict,
}  # fmt: skip
LAUNCH = COMMON | {
    "module": str, "program": str, "code": str, "python": str, "pythonArgs": list, "args": list, "cwd": str,
    "env": dict, "envFile": str, "console": str, "stopOnEntry": bool, "purpose": list, "autoReload": dict,
    "breakOnSystemExit": bool,
}  # fmt: skip
ATTACH = COMMON | {"connect": dict, "listen": dict, "processId": (int, str)}
CONSOLES = {"internalConsole", "integratedTerminal", "externalTerminal"}
TASK = {
    "label": str, "type": str, "command": str, "args": list, "dependsOn": (str, list), "dependsOrder": str,
    "group": (str, dict), "options": dict, "presentation": dict, "isBackground": bool, "problemMatcher": (str, list),
}  # fmt: skip


def configurations(request: str) -> list[dict[str, Any]]:
    return [config for config in WORKSPACE.configurations.values() if config["request"] == request]


def typed(words: list[str]) -> list[str]:
    """Return the presets that a command line names."""
    return [name for word in words if word.startswith("+debug=") for name in word[7:].strip("[]").split(",")]


@pytest.mark.parametrize("config", configurations("launch"), ids=lambda config: config["name"])
def test_a_launch_configuration_has_only_fields_that_exist(config: dict[str, Any]) -> None:
    assert config["type"] == "debugpy"
    assert {name: type(value) for name, value in config.items() if not isinstance(value, LAUNCH[name])} == {}
    assert len({"module", "program", "code"} & set(config)) == 1
    assert config["console"] in CONSOLES
    assert all(isinstance(value, str) for value in (*config["args"], *config["env"].values()))
    assert set(config.get("purpose", [])) <= {"debug-test", "debug-in-terminal"}
    assert config["env"]["HYDRA_FULL_ERROR"] == "1"


@pytest.mark.parametrize("config", configurations("attach"), ids=lambda config: config["name"])
def test_an_attach_configuration_has_only_fields_that_exist(config: dict[str, Any]) -> None:
    assert config["type"] == "debugpy"
    assert {name: type(value) for name, value in config.items() if not isinstance(value, ATTACH[name])} == {}
    assert len({"connect", "listen", "processId"} & set(config)) == 1
    assert config.get("connect", {"host": "127.0.0.1"})["host"] == "127.0.0.1"  # whoever reaches the port can run code


@pytest.mark.parametrize("task", WORKSPACE.tasks.values(), ids=lambda task: task["label"])
def test_a_task_has_only_fields_that_exist_and_no_shell(task: dict[str, Any]) -> None:
    assert {name: type(value) for name, value in task.items() if not isinstance(value, TASK[name])} == {}
    assert "problemMatcher" in task  # else VS Code asks for one each time
    if "command" in task:
        assert (task["type"], task["command"]) == ("process", "${command:python.interpreterPath}")
    needs = task.get("dependsOn", [])
    assert set([needs] if isinstance(needs, str) else needs) <= set(WORKSPACE.tasks)
    assert "command" in task or task["dependsOrder"] == "sequence"


def test_names_are_unique() -> None:
    assert len(WORKSPACE.tasks) == len(WORKSPACE.load("tasks.json")["tasks"])
    assert len(WORKSPACE.configurations) == len(WORKSPACE.load("launch.json")["configurations"])


def test_every_path_module_task_and_input_that_is_named_exists() -> None:
    entries = WORKSPACE.resolve([*WORKSPACE.configurations.values()], WORKSPACE.launch_answers)
    entries += WORKSPACE.resolve([*WORKSPACE.tasks.values()], WORKSPACE.task_answers)
    for entry in entries:  # an input that the file does not declare was a KeyError
        for text in re.findall(re.escape(str(PROJECT)) + r"[^\"]*", json.dumps(entry)):
            assert Path(text).exists() or Path(text).name == "runs", text
        if module := entry.get("module"):
            place = PROJECT / module.replace(".", "/")
            installed = module in ("pytest", "torch.distributed.run")
            assert installed or place.with_suffix(".py").exists() or (place / "__main__.py").exists()
        assert entry.get("preLaunchTask") in {None, *WORKSPACE.tasks}


@pytest.mark.parametrize("config", configurations("launch"), ids=lambda config: config["name"])
def test_the_arguments_of_a_training_configuration_compose(config: dict[str, Any]) -> None:
    if config.get("program", "").endswith("train.py"):
        jobs = [[word.split(",")[0] for word in config["args"] if word != "-m"]]
        assert all(compose(job).debug.folder for job in jobs)


def test_every_preset_has_a_configuration_in_both_editors() -> None:
    vscode = {name for config in configurations("launch") for name in typed(config["args"])}
    assert vscode == PRESETS
    pycharm = {name for file in PROJECT.glob(".run/*.run.xml") for name in typed(_option(file, "PARAMETERS").split())}
    assert pycharm == PRESETS


def test_both_editors_start_the_same_runs() -> None:
    """Apart from clearing: PyCharm has no tasks, so debug.py, which clears by itself, stands for train.py."""
    pycharm = {tuple(shlex.split(_option(file, "PARAMETERS"))) for file in PROJECT.glob(".run/debug*.run.xml")}
    answers = {"${input:run}": "devtools/temp_debug/1/outputs/first", "${input:nan}": "runs", "run.name=first": ""}
    words = [config["args"] for config in configurations("launch") if config.get("module") != "pytest"]
    assert pycharm == {tuple(filter(None, (answers.get(word, word) for word in line))) for line in words}


@pytest.mark.parametrize("file", sorted(PROJECT.glob(".run/*.run.xml")), ids=lambda file: file.stem)
def test_a_pycharm_configuration_names_a_script_that_exists(file: Path) -> None:
    script = _option(file, "SCRIPT_NAME")
    by_module = [option.get("name") == "MODULE_MODE" for option in xml.parse(file).iter("option")]
    assert (
        importlib.util.find_spec(script)
        if any(by_module)
        else Path(script.replace("$PROJECT_DIR$", str(PROJECT))).is_file()
    )
    variables = {variable.get("name"): variable.get("value") for variable in xml.parse(file).iter("env")}
    assert variables == {"HYDRA_FULL_ERROR": "1"}


def test_git_ignores_the_debug_folder_and_not_the_editors_files(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    shutil.copy(PROJECT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "-q"], check=True, cwd=tmp_path)
    asked = [".vscode/launch.json", ".run/debug cpu.run.xml", "devtools/temp_debug/1/outputs/x", ".env"]
    done = subprocess.run(
        ["git", "check-ignore", *asked], check=False, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.stdout.splitlines() == asked[2:]


def _option(file: Path, name: str) -> str:
    return next(option.get("value", "") for option in xml.parse(file).iter("option") if option.get("name") == name)
