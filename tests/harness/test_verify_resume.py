"""`python -m lm verify-resume` tells exact from not exact."""

import pytest

pytestmark = pytest.mark.slow


def test_it_proves_the_smallest_run(command, small) -> None:
    done = command("verify-resume", *small, "+model.config.attention_dropout=0.1", "model.attention=eager")
    assert done.returncode == 0, done.stderr
    assert "Exact: killed and resumed, it has the same weights" in done.stdout


def test_it_names_what_differs_first(command, small) -> None:
    done = command("verify-resume", *small, "+callbacks.leak={_target_:leaky.Leaky}")
    assert done.returncode == 1
    assert "Not exact: weights/" in done.stderr
    assert "Two runs at a stretch are equal, so it is resuming" in done.stderr
