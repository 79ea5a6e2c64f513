"""Two debug presets that add one feature each to a third, so that a difference has one cause."""

from collections.abc import Callable
from pathlib import Path

import pytest
from faults import Losses, with_callback

from harness.config.compose import CONF, compose
from harness.config.identity import difference

PRESETS = ("14m_clean", "14m_gradient_checkpoint", "14m_mixed_precision")


def test_they_are_about_the_14m_model() -> None:
    assert {compose([f"+debug={name}"]).model.name for name in PRESETS} == {"14m"}


@pytest.mark.parametrize("name", PRESETS)
def test_each_is_a_difference_of_two_to_four_lines(name: str) -> None:
    lines = (CONF / "debug" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert 2 <= len([line for line in lines if not line.startswith(("#", "defaults"))]) <= 4


def test_each_changes_one_thing() -> None:
    clean, recomputed, mixed = (compose([f"+debug={name}"]) for name in PRESETS)
    assert [cfg.model.gradient_checkpointing for cfg in (clean, recomputed, mixed)] == [False, True, False]
    assert difference(clean, recomputed) == []  # it is the same experiment
    assert difference(clean, mixed) == ["trainer.precision: 32-true -> bf16-mixed"]


@pytest.mark.slow
def test_their_losses_agree(train: Callable[..., Path]) -> None:
    losses = {}
    for name in PRESETS:
        train(f"+debug={name}", "run.name=" + name, with_callback(Losses, name="losses"), "logger=none",
              *(["trainer.precision=32-true"] if name != PRESETS[2] else ["trainer.precision=bf16-mixed"]))  # fmt: skip
        losses[name] = Losses.last.losses
    clean, recomputed, mixed = losses.values()
    assert len(clean) == 6 and recomputed == clean
    assert mixed != clean and mixed == pytest.approx(clean, rel=0.01)
