"""The floors of lm/, as pyproject.toml draws them under [tool.importlinter]."""

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports
from places import PROJECT

PYPROJECT = PROJECT / "pyproject.toml"


def test_every_import_goes_down_a_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    # It configures logging, which switches off every logger of ours for the tests that follow.
    monkeypatch.setattr("importlinter.cli.logging_config.dictConfig", lambda config: None)
    assert lint_imports(config_filename=str(PYPROJECT), no_cache=True) == EXIT_STATUS_SUCCESS
