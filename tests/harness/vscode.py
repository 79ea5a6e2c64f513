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

from harness.run.environment import read_dotenv

Settings = dict[str, Any]

# A string is matched first and kept, so that the // of an address is no comment.
COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
LAST_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])')
VARIABLE = re.compile(r"\$\{([^}]+)\}")


def strip_jsonc(text: str) -> str:
    """Turn VS Code's JSON into Python's: comments and last commas are allowed there only."""
    for pattern in (COMMENT, LAST_COMMA):
        text = pattern.sub(lambda match: match[1] or "", text)
    return text


class Workspace:
    """A project folder, as VS Code has it open. `variables` are answers to `${input:…}`, `${file}` and the like."""

    def __init__(self, root: Path, **variables: str) -> None:
        self.root = root
        self.variables = {"workspaceFolder": str(root), "command:python.interpreterPath": sys.executable, **variables}
        launch, tasks = self.load("launch.json"), self.load("tasks.json")
        self.configurations = {config["name"]: config for config in launch["configurations"]}
        self.tasks = {task["label"]: task for task in tasks["tasks"]}
        # Neither file sees the inputs of the other, nor their answers.
        self.launch_answers, self.task_answers = _defaults(launch), _defaults(tasks)

    def load(self, name: str) -> Settings:
        """Return one of the files in .vscode/."""
        return dict(json.loads(strip_jsonc((self.root / ".vscode" / name).read_text(encoding="utf-8"))))

    def configuration(self, name: str, **variables: str) -> Settings:
        """Return what VS Code hands to debugpy, after running the pre-launch task."""
        config = self.resolve(self.configurations[name], self.launch_answers | variables)
        if task := config.pop("preLaunchTask", None):
            self.run_task(task)
        file = config.pop("envFile", str(self.root / ".env"))
        config["env"] = read_dotenv(Path(file), {}) | config.get("env", {})
        return {"python": [sys.executable], "cwd": str(self.root), "console": "integratedTerminal", **config}

    def run_task(self, label: str, **variables: str) -> str:
        """Run a task, after those that it depends on, and return what it printed. A failure is an AssertionError."""
        task = self.resolve(self.tasks[label], self.task_answers | variables)
        needs, printed = task.get("dependsOn", []), ""
        for needed in [needs] if isinstance(needs, str) else needs:
            printed += self.run_task(needed, **variables)
        if "command" not in task:
            return printed
        assert task["type"] == "process", f"{label} would go through a shell"
        command, environ = [task["command"], *task.get("args", [])], os.environ | task.get("options", {}).get("env", {})
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8"}
        done = subprocess.run(command, check=False, cwd=self.root, env=environ, **output)
        assert done.returncode == 0, f"task {label!r} failed:\n{done.stdout}"
        return printed + done.stdout

    def resolve(self, value: Any, answers: Mapping[str, str]) -> Any:
        """Replace ${…} everywhere in a configuration. A variable that nobody has named raises KeyError."""
        if isinstance(value, dict):
            return {key: self.resolve(item, answers) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, answers) for item in value]
        known = {**self.variables, **answers}
        return VARIABLE.sub(lambda match: known[match[1]], value) if isinstance(value, str) else value


def _defaults(file: Settings) -> dict[str, str]:
    return {f"input:{asked['id']}": asked["default"] for asked in file.get("inputs", [])}
