"""The floors of lm/ and harness/, as pyproject.toml draws them under [tool.importlinter]."""

import pytest
from conftest import PROJECT
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

HOW = (
    "pyproject.toml says under [tool.importlinter] which module may import which. A new module of yours gets its place "
    'in `layers` there: a line of its own, or beside a neighbour that it does not import, as in "batch | mine".'
)


def test_every_import_goes_down_a_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    # It configures logging, which switches off every logger of ours for the tests that follow.
    monkeypatch.setattr("importlinter.cli.logging_config.dictConfig", lambda config: None)
    assert lint_imports(config_filename=str(PROJECT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS, HOW
