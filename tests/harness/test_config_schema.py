"""The JSON schema that makes an editor complete and complain in conf/."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from devtools.config_schema import FOLDER, schemas
from omegaconf import OmegaConf
from places import PROJECT
from vscode import Workspace

WIRED = Workspace(PROJECT).load("settings.json")["yaml.schemas"]
FILES = {file: name for name, patterns in WIRED.items() for pattern in patterns for file in PROJECT.glob(pattern)}


def complaints(name: str, content: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(schemas()[name]).iter_errors(content)]


def test_the_files_are_those_that_the_schema_makes_now() -> None:
    on_disk = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in FOLDER.glob("*.json")}
    assert on_disk == json.loads(json.dumps(schemas())), "run python devtools/config_schema.py"


def test_every_schema_is_wired_to_files_that_exist() -> None:
    assert {Path(name).stem for name in WIRED} == set(schemas())
    assert set(WIRED) == set(FILES.values())


@pytest.mark.parametrize("file", sorted(FILES), ids=lambda file: file.relative_to(PROJECT).as_posix())
def test_our_own_files_are_without_complaint(file: Path) -> None:
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)  # to PyYAML, 1e-3 is a text
    assert complaints(Path(FILES[file]).stem, content) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train", {"trainer": {"max_stepz": 5}}),
        ("train", {"resume": "always"}),
        ("train", {"seed": "zero"}),
        ("train", {"checkpoint": {"keep_last": 0}}),
        ("data", {"val_fraction": 0.9}),
        ("model", {"attention": "fast"}),
        ("optimizer", {"lr": "1e-3 per step"}),
    ],
)
def test_a_mistake_is_complained_of(name: str, content: Any) -> None:
    assert len(complaints(name, content)) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train", {"seed": 0, "trainer": {"max_steps": "${oc.env:STEPS}"}, "checkpoint": {"max_gb": None}}),
        ("optimizer", {"_target_": "my.Muon", "lr": 1e-3, "momentum": 0.95}),
        ("scheduler", {"_target_": "my.schedule", "power": 2}),
    ],
)
def test_interpolations_nulls_and_a_librarys_own_arguments_are_fine(name: str, content: Any) -> None:
    assert complaints(name, content) == []
