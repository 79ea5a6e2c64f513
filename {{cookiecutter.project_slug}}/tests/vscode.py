"""What the editor does with .vscode/ before the debugger is asked: comments, variables, inputs, envFile and tasks.

debugpy sees none of these, so a test that hands it a configuration must do them as VS Code does.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm.env import read_dotenv

ROOT = Path(__file__).parents[1]
Settings = dict[str, Any]

# A string is matched first and kept, so that the // of an address is no comment.
COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
LAST_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])')
VARIABLE = re.compile(r"\$\{([^}]+)\}")


def load(name: str) -> Settings:
    """Return one of the files in .vscode/ as JSON: comments and last commas are allowed there, and not in Python."""
    text = (ROOT / ".vscode" / name).read_text(encoding="utf-8")
    for pattern in (COMMENT, LAST_COMMA):
        text = pattern.sub(lambda match: match[1] or "", text)
    return dict(json.loads(text))


def configurations() -> dict[str, Settings]:
    """Return the launch configurations by name."""
    return {config["name"]: config for config in load("launch.json")["configurations"]}


def resolve(value: Any, variables: Mapping[str, str]) -> Any:
    """Replace ${…} everywhere in a configuration. A variable that nobody has named raises KeyError."""
    known = {
        "workspaceFolder": str(ROOT),
        "command:python.interpreterPath": sys.executable,
        **{f"env:{name}": value for name, value in os.environ.items()},
        **{f"input:{given['id']}": given["default"] for given in _inputs() if "default" in given},
        **variables,
    }
    if isinstance(value, dict):
        return {key: resolve(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(item, variables) for item in value]
    return VARIABLE.sub(lambda match: known[match[1]], value) if isinstance(value, str) else value


def launch(name: str, **variables: str) -> Settings:
    """Return what VS Code hands to debugpy for a configuration, after running its pre-launch task as VS Code does."""
    config = resolve(configurations()[name], variables)
    if task := config.pop("preLaunchTask", None):
        run_task(task, variables)
    file = config.pop("envFile", str(ROOT / ".env"))
    config["env"] = read_dotenv(Path(file), {}) | config.get("env", {})
    return {"python": [sys.executable], "cwd": str(ROOT), "console": "integratedTerminal", **config}


def run_task(label: str, variables: Mapping[str, str]) -> None:
    """Run a task and, before it, those that it depends on. Raises CalledProcessError where VS Code would ask what to do."""
    task = next(task for task in load("tasks.json")["tasks"] if task["label"] == label)
    needs = task.get("dependsOn", [])
    for needed in [needs] if isinstance(needs, str) else needs:
        run_task(needed, variables)
    if "command" in task:
        assert task["type"] == "process", f"{label} would go through a shell"
        command = resolve([task["command"], *task.get("args", [])], variables)
        options = resolve(task.get("options", {}), variables)
        environ = os.environ | options.get("env", {})
        done = subprocess.run(
            command,
            check=False,
            cwd=options.get("cwd", ROOT),
            env=environ,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, f"task {label!r} failed:\n{done.stdout}{done.stderr}"


def _inputs() -> list[Settings]:
    return [*load("launch.json").get("inputs", []), *load("tasks.json").get("inputs", [])]
