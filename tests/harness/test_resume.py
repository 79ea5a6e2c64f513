"""A run that was interrupted anywhere and started again equals one that was not, bit for bit."""

import contextlib
import logging
from pathlib import Path

import pytest
from exactness import assert_same, newest

from hooks import PowerCut

FAULT = pytest.mark.fault
STEPS = 14
# 5 micro-batches an epoch, so that 14 steps see epoch 2; dropout draws from the global generator.
BASE = ("trainer.log_every_n_steps=1", "checkpoint.every_n_steps=2", "data.limit=11", "data.batch_size=20",
        "+model.config.attention_dropout=0.2", "model.attention=eager", "logger=csv")  # fmt: skip
COSINE = (*BASE, f"trainer.max_steps={STEPS}", "trainer.val_check_interval=4")
CUTS = ("3,batch_end", "4,validation", "5,batch_start", "6,batch_end", "10,batch_start", "13,batch_end")


def cut_at(place: str) -> str:
    step, hook = place.split(",")
    return f"+callbacks.cut={{_target_:hooks.CutAt,step:{step},hook:{hook}}}"


def cut_everywhere(train, *overrides: str, cuts: tuple[str, ...] = CUTS) -> Path:
    for place in cuts:
        with contextlib.suppress(PowerCut):
            train(*overrides, "run.name=cut", cut_at(place))
    return train(*overrides, "run.name=cut")


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=FAULT)])
def test_power_cuts_anywhere_leave_no_trace(train, accumulate: int) -> None:
    base = (*COSINE, f"trainer.accumulate_grad_batches={accumulate}")
    reference = train(*base, "run.name=reference")
    assert newest(reference).step == STEPS
    assert_same(cut_everywhere(train, *base), reference)


@pytest.mark.parametrize(
    ("how_long", "steps"),
    [
        # data longer than max_steps, shorter than one epoch asks for, shorter than all epochs, and their edges
        pytest.param("trainer.max_steps=3", 3, id="fewer steps than one epoch has"),
        pytest.param("trainer.max_steps=-1 +trainer.max_epochs=1", 5, id="exactly one epoch", marks=FAULT),
        pytest.param("trainer.max_steps=-1 +trainer.max_epochs=3", 15, id="three epochs", marks=FAULT),
        pytest.param("trainer.max_steps=7 +trainer.max_epochs=3", 7, id="steps end before epochs", marks=FAULT),
        pytest.param("trainer.max_steps=9 +trainer.limit_train_batches=2", 9, id="epochs cut short", marks=FAULT),
        pytest.param(
            "trainer.max_steps=-1 +trainer.max_epochs=3 trainer.accumulate_grad_batches=2",
            6,  # 5 batches are 2 steps, and one that is left: a step is never of fewer
            id="an epoch ends within an accumulation window",
            marks=FAULT,
        ),
    ],
)
def test_every_way_to_run_out_is_exact(train, how_long: str, steps: int) -> None:
    base = (*BASE, *how_long.split(), "trainer.val_check_interval=2")
    reference = train(*base, "run.name=reference")
    assert newest(reference).step == steps
    assert_same(cut_everywhere(train, *base, cuts=("2,batch_end", "5,batch_start", "6,batch_end")), reference)


@pytest.mark.parametrize("first", [pytest.param(4, marks=FAULT), 5, pytest.param(7, marks=FAULT)])
def test_raising_max_steps_goes_on_as_if_it_had_always_been_so(train, first: int) -> None:
    base = (*BASE, "scheduler=constant", "trainer.val_check_interval=3")
    reference = train(*base, "run.name=reference", "trainer.max_steps=11")
    train(*base, "run.name=longer", f"trainer.max_steps={first}")
    assert_same(train(*base, "run.name=longer", "trainer.max_steps=11"), reference)


def test_a_complete_run_says_so_and_is_not_trained_again(train, caplog) -> None:
    overrides = (*BASE, "run.name=done", "trainer.max_steps=2")
    folder = train(*overrides)
    before = newest(folder), (folder / "metrics.csv").read_bytes()
    with caplog.at_level(logging.INFO):
        train(*overrides)
    assert "done is complete: 2 steps. To train it longer, raise trainer.max_steps." in caplog.text
    assert (newest(folder), (folder / "metrics.csv").read_bytes()) == before


@FAULT
def test_loader_workers_change_nothing(train) -> None:
    reference = train(*COSINE, "run.name=reference")
    for place, workers in (("4,batch_end", 2), ("9,batch_start", 1)):
        with contextlib.suppress(PowerCut):
            train(*COSINE, "run.name=cut", f"data.num_workers={workers}", cut_at(place))
    assert_same(train(*COSINE, "run.name=cut"), reference)


@FAULT
def test_gradient_checkpointing_may_change_in_between(train) -> None:
    """It computes the same numbers again, so even the bits agree."""
    reference = train(*COSINE, "run.name=reference")
    with contextlib.suppress(PowerCut):
        train(*COSINE, "run.name=cut", "model.gradient_checkpointing=true", cut_at("5,batch_start"))
    assert_same(train(*COSINE, "run.name=cut"), reference)


@pytest.mark.slow
def test_resuming_far_into_a_run_does_not_read_what_was_before(train, monkeypatch) -> None:
    from lm.data.windows import Rows

    base = (*BASE, "scheduler=constant", "trainer.val_check_interval=1000000", "run.name=far")
    train(*base, "trainer.max_steps=12")
    read = []
    rows = Rows.__getitem__
    monkeypatch.setattr(Rows, "__getitem__", lambda self, index: read.append(index) or rows(self, index))
    train(*base, "trainer.max_steps=13", "trainer.limit_val_batches=0")
    assert len(read) == 20  # one micro-batch
