"""These suites test the template folder, even where a project made from it is installed."""

import subprocess
import sys
from pathlib import Path

import pytest
from places import PROJECT

import harness
import lm

WHERE = "import harness, lm; print(harness.__file__, lm.__file__, sep='\\n')"


@pytest.mark.parametrize("package", [lm, harness], ids=["lm", "harness"])
def test_the_packages_are_those_of_the_template_folder(package: object) -> None:
    assert Path(str(package.__file__)).resolve().parents[1] == PROJECT


def test_so_they_are_in_processes_that_tests_start(tmp_path: Path) -> None:
    shadow = tmp_path / "lm"  # in the working directory of the process, where a made project would be
    shadow.mkdir()
    (shadow / "__init__.py").touch()
    script = tmp_path / "where" / "where.py"
    script.parent.mkdir()
    script.write_text(WHERE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert {Path(line).resolve().parents[1] for line in done.stdout.splitlines()} == {PROJECT}
