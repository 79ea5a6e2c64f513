"""Every combination of answers gives a project that is complete and legal everywhere."""

import ast
import itertools
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from conftest import ANSWERS, FOLDER, QUESTIONS, ROOT, Bake, imported, run
from copy_template import known_files

RENDERED = {"LICENSE", "README.md", "pyproject.toml"}
LICENCES = {
    "MIT": ("MIT License", 'THE SOFTWARE IS PROVIDED "AS IS"', "MIT"),
    "Apache-2.0": (" " * 33 + "Apache License", "END OF TERMS AND CONDITIONS", "Apache-2.0"),
    "BSD-3-Clause": ("BSD 3-Clause License", "Neither the name of the copyright holder", "BSD-3-Clause"),
    "proprietary": ("Copyright (c) Ada. All rights reserved.", "prior written permission", "LicenseRef-Proprietary"),
}


def template_files() -> list[str]:
    """Return the names of the project folder's files as they lie in the template."""
    return [name.as_posix() for name in known_files() if name.parts[0] == FOLDER]


def test_six_questions_each_with_a_text() -> None:
    assert len(QUESTIONS) == 6 and "project_slug" in QUESTIONS
    assert set(ANSWERS["__prompts__"]) == set(QUESTIONS)


@pytest.mark.parametrize(("name", "slug"), [("My LM", "my-lm"), ("Über  GPT 2!", "uber-gpt-2"), ("x", "x")])
def test_the_slug_comes_from_the_name(bake: Bake, name: str, slug: str) -> None:
    baked = bake(project_name=name)
    assert baked.folder.name == slug
    assert tomllib.loads(baked.text("pyproject.toml"))["project"]["name"] == slug


def test_the_slug_can_be_chosen(bake: Bake) -> None:
    assert bake(project_name="My LM", project_slug="Other_2.0").folder.name == "Other_2.0"


def test_an_unknown_answer_is_refused_by_these_tests(bake: Bake) -> None:
    with pytest.raises(KeyError, match="project_nmae"):
        bake(project_nmae="x")


def test_every_combination_of_choices(bake: Bake, tmp_path: Path) -> None:
    for number, (licence, git) in enumerate(itertools.product(ANSWERS["license"], [True, False])):
        baked = bake(into=tmp_path / str(number), license=licence, git_init=git)
        assert (baked.folder / ".git").exists() == git
        assert tomllib.loads(baked.text("pyproject.toml"))["project"]["requires-python"] == ">=3.11"


@pytest.mark.parametrize("licence", LICENCES)
def test_the_licence_is_the_full_text(bake: Bake, licence: str) -> None:
    baked = bake(license=licence, author="Ada")
    first, inside, spdx = LICENCES[licence]
    text = baked.text("LICENSE")
    assert text.splitlines()[0] == first
    assert inside in text and "Copyright" in text and "Ada" in text
    assert text.endswith("\n") and not text.endswith("\n\n")
    assert tomllib.loads(baked.text("pyproject.toml"))["project"]["license"] == spdx


def test_the_mit_text_is_the_one_of_the_template_itself(bake: Bake) -> None:
    ours = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert bake(author="Ada").text("LICENSE") == re.sub(r"Copyright \(c\) .*", "Copyright (c) Ada", ours)


def test_quotes_backslashes_and_emoji_survive_in_toml(bake: Bake) -> None:
    awkward = "He said \"no\", C:\\new, 'x', 模型 🙂 <b> & #"
    project = tomllib.loads(bake(description=awkward, author=awkward).text("pyproject.toml"))["project"]
    assert project["description"] == awkward
    assert project["authors"] == [{"name": awkward}]


def test_nothing_of_the_template_is_left_over(bake: Bake) -> None:
    for name, content in bake().tree().items():
        assert not re.search(rb"cookiecutter\s*\.|\{\{\s*cookiecutter", content), name
        if name in RENDERED:  # a chat template, which is copied as it is, has such tags of its own
            assert not re.search(rb"\{%-?\s*(if|elif|else|endif)", content), name


def test_files_without_jinja_are_copied_byte_for_byte(bake: Bake) -> None:
    tree = bake().tree()
    names = {name.removeprefix(f"{FOLDER}/") for name in template_files()}
    assert set(tree) == names
    for name in names - RENDERED:
        assert tree[name] == (ROOT / FOLDER / name).read_bytes(), name


def test_python_and_conf_hold_no_jinja() -> None:
    for name in template_files():
        if Path(name).name not in RENDERED:
            assert b"cookiecutter." not in (ROOT / name).read_bytes(), name


def test_all_python_compiles() -> None:
    for name in filter(lambda name: name.endswith(".py"), template_files()):
        ast.parse((ROOT / name).read_text(encoding="utf-8"), filename=name, feature_version=(3, 11))


def test_conf_at_the_root_is_the_projects_own() -> None:
    assert (ROOT / "conf").is_symlink()
    assert (ROOT / "conf").readlink() == Path(FOLDER) / "conf"


def test_names_are_legal_on_windows(bake: Bake) -> None:
    names = list(bake().tree())
    for name in [*names, *template_files()]:
        for part in Path(name).parts:
            assert not re.search(r'[<>:"|?*\\\x00-\x1f]|[. ]$', part), name
            assert not re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", part, re.IGNORECASE), name
        assert len(name) < 120, name  # Windows allows 260 letters for the whole path
    assert len({name.lower() for name in names}) == len(names)


def test_nothing_that_a_run_made_is_copied(bake: Bake, template: Path) -> None:
    made = [f"{FOLDER}/{name}" for name in ("runs/x/run.json", "prepared/x/train.bin", "devtools/temp_debug/1/x")]
    made += [f"{FOLDER}/harness/__pycache__/cli.pyc", f"{FOLDER}/.pytest_cache/x", f"{FOLDER}/.env"]
    assert run("git", "check-ignore", *made, cwd=ROOT).stdout.splitlines() == made
    assert not set(made) & {name.as_posix() for name in known_files()}
    parts = {part for name in bake().tree() for part in Path(name).parts}
    assert not parts & {"runs", "prepared", "temp_debug", "__pycache__", ".pytest_cache", ".env"}


def test_no_file_depends_on_an_executable_bit_or_a_link() -> None:
    modes = run("git", "ls-files", "--stage", FOLDER, cwd=ROOT).stdout.splitlines()
    assert {line.split()[0] for line in modes} == {"100644"}


def test_the_pyproject_of_the_template_folder_is_valid_as_it_stands() -> None:
    raw = tomllib.loads((ROOT / FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    assert raw["project"]["requires-python"] == ">=3.11"


def test_every_requirement_is_pinned_inside_its_range(bake: Bake) -> None:
    baked = bake()
    lines = (line for line in baked.text("constraints.txt").splitlines() if line and not line.startswith("#"))
    pins = {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}
    assert pins["torch"] == "2.13.0"
    project = tomllib.loads(baked.text("pyproject.toml"))["project"]
    suites = (ROOT / "tests/harness/requirements.txt").read_text(encoding="utf-8").splitlines()
    theirs = [line for line in suites if not line.startswith("#")]
    for text in itertools.chain(project["dependencies"], *project["optional-dependencies"].values(), theirs):
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[requirement.name]), text


def test_every_import_is_a_requirement(bake: Bake) -> None:
    project = tomllib.loads(bake().text("pyproject.toml"))["project"]
    asked = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    known = {Requirement(text).name.replace("-", "_") for text in asked} | {
        "hydra",
        "yaml",  # of pyyaml
        "PIL",  # of pillow
        "lm",
        "media",
        "harness",
        "devtools",
        *sys.stdlib_module_names,
    }
    for name in template_files():
        if name.endswith(".py") and "/tests/" not in name:
            assert imported(ROOT / name) <= known, name
