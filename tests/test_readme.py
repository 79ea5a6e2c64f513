"""The commands of both README files, run in their order, in a temporary folder and with small models."""

import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from conftest import FOLDER, ROOT, Bake, run

SMALL = (
    "data.limit=60 data.val_fraction=0.2 data.batch_size=2 trainer.max_steps=3 scheduler.warmup_steps=1 "
    "model.config.hidden_size=64 model.config.intermediate_size=128 model.config.num_hidden_layers=1 "
    "model.config.num_attention_heads=2 model.config.vocab_size=512 model.config.max_position_embeddings=64"
)
ELSEWHERE = {  # commands that `make test` has run before it comes here
    "make test": "this is it",
    "pip install cookiecutter": "requirements-dev.txt",
    "pip install cruft": "requirements-dev.txt",
    "pip install -e . -c constraints.txt": "make bake",
    'pip install -e ".[dev]" -c constraints.txt': "make bake",
    "pytest": "make test-project",
    "ruff check .": "make lint",
    "mypy": "make typecheck",
}
HOME_OF_THE_TEMPLATE = "gh:org/cookiecutter-lightning-lm"


def commands(readme: Path) -> list[list[str]]:
    """Return the commands of every bash block."""
    blocks = re.findall(r"^```bash\n(.*?)^```", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [block.splitlines() for block in blocks]


@pytest.mark.parametrize("readme", [ROOT / "README.md", ROOT / FOLDER / "README.md"], ids=["template", "project"])
def test_a_readme_is_short_and_shows_before_it_explains(readme: Path) -> None:
    lines = readme.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150
    assert lines.index("```bash") < 10


def test_the_first_two_commands_are_demo_and_test() -> None:
    assert commands(ROOT / "README.md")[0] == ["make demo", "make test"]


def test_every_file_that_a_readme_names_is_there(bake: Bake) -> None:
    for folder in (ROOT, bake().folder):
        text = (folder / "README.md").read_text(encoding="utf-8")
        for name in re.findall(r"`([\w{}./-]+\.(?:py|yaml|toml|json|txt|md))`", text):
            assert list(folder.rglob(name)), f"{name} in {folder.name}/README.md"


def test_no_excuse_for_a_command_that_is_gone() -> None:
    known = {line for readme in (ROOT, ROOT / FOLDER) for block in commands(readme / "README.md") for line in block}
    assert set(ELSEWHERE) <= known


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment in which `make test-project` has installed a project comes first on the path."""
    if "PROJECT_VENV" not in os.environ:
        pytest.skip("Without PROJECT_VENV there is no installed project; `make test-project` makes one.")
    first = [f"{os.environ['PROJECT_VENV']}/bin", f"{os.environ['TEMPLATE_VENV']}/bin"]
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "VIRTUAL_ENV"))}
    return ours | {"PATH": os.pathsep.join([*first, os.environ["PATH"]]), "COLUMNS": "200"}


def shell(command: str, cwd: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        shell=True,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def serve(command: str, cwd: Path, environment: dict[str, str]) -> None:
    """Start a server, wait for the address it prints, and stop it."""
    with subprocess.Popen(
        shlex.split(command), cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert server.stdout is not None
            lines = iter(server.stdout.readline, "")
            assert any("http://" in line for line in lines), command
        finally:
            server.terminate()


@pytest.mark.project
def test_the_commands_of_the_project(bake: Bake, environment: dict[str, str]) -> None:
    baked = bake()
    for command in [line for block in commands(baked.folder / "README.md") for line in block]:
        if command in ELSEWHERE:
            continue
        started = time.monotonic()
        if command.startswith("tensorboard"):
            serve(f"{command} --port 0", baked.folder, environment)
        else:
            trains = command.startswith(("python train.py", "python debug.py"))
            shell(f"{command} {SMALL}" if trains else command, baked.folder, environment)
        print(f"{time.monotonic() - started:6.1f} s  {command}")
    runs = [path.name for path in (baked.folder / "runs").iterdir() if path.is_dir()]
    assert "first" in runs and len(runs) >= 4


@pytest.mark.project
def test_the_commands_of_the_template(template: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    released = tmp_path / "template.git"
    run("git", "clone", "--quiet", template.as_uri(), released, cwd=tmp_path)
    for version in ("v0.1.0", "v0.2.0"):
        with (released / FOLDER / ".env.example").open("a", encoding="utf-8") as file:
            file.write(f"# {version}\n")
        run("git", "commit", "--quiet", "--all", f"--message={version}", cwd=released)
        run("git", "tag", version, cwd=released)
    made = {"DEMO": tmp_path / "demo", "DEMO_VENV": os.environ["PROJECT_VENV"], "TRAIN": SMALL}
    made |= {"VENV": os.environ["TEMPLATE_VENV"], "BUILD": tmp_path / "build"}
    completed = {  # what a user answers or would not type
        "make demo": " ".join(f"{name}='{value}'" for name, value in made.items()),
        "cookiecutter": "--no-input",
        "cruft create": "--no-input",
        "cruft update": "--skip-apply-ask",
        "python train.py": SMALL,
    }
    for number, block in enumerate(commands(ROOT / "README.md")):
        folder = tmp_path / str(number)
        folder.mkdir()
        for command in block:
            if command.startswith("cd "):
                folder /= command.removeprefix("cd ")
            elif command not in ELSEWHERE:
                rest = [addition for start, addition in completed.items() if command.startswith(start)]
                line = " ".join([command.replace(HOME_OF_THE_TEMPLATE, released.as_uri()), *rest])
                shell(line, ROOT if command.startswith("make") else folder, environment)
    assert (tmp_path / "demo" / "runs").is_dir()
    updated = tmp_path / "2" / "my-lm" / ".env.example"
    assert updated.read_text(encoding="utf-8").endswith("# v0.1.0\n# v0.2.0\n")
