"""The limits of size are held, and passing one is said."""

from pathlib import Path

import pytest

from count_lines import main


def project(folder: Path, **lines: int) -> Path:
    """Make a project whose packages have one module of so many lines each."""
    for name in ("lm", "harness", "tests"):
        (folder / name).mkdir()
        (folder / name / "module.py").write_text("x = 1\n" * lines.get(name, 1), encoding="utf-8")
    return folder


def test_a_small_project_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(project(tmp_path, lm=250, harness=250)) == 0
    assert "harness/    250" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["lm", "harness"])
def test_a_long_module_is_named(package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(project(tmp_path, **{package: 251})) == 1
    assert capsys.readouterr().err == f"{package}/module.py has 251 lines: the limit is 250.\n"


def test_too_many_tests_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(project(tmp_path, tests=1501)) == 1
    assert capsys.readouterr().err == "tests/ has 1,501 lines: the limit is 1,500.\n"
