"""A slow machine is slow, not wrong."""

import re
from pathlib import Path

import pytest

from conftest import ROOT

LEAST = 1000  # seconds
FILES = [*ROOT.glob("tests/**/*.py"), ROOT / "pytest.ini", ROOT / "tests/harness/pytest.ini"]
LIMIT = re.compile(r"\b(?:timeout|PATIENCE)(?::\s*float)?\s*[=(]\s*(\d+)")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_time_limit_stops_what_hangs_and_nothing_else(file: Path) -> None:
    limits = [int(limit) for limit in LIMIT.findall(file.read_text(encoding="utf-8"))]
    assert all(limit >= LEAST for limit in limits), limits
