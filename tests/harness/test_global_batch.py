"""`data.global_batch`: an optimizer step of a fixed size, however many devices share it."""

import pytest
import torch
from exactness import logged
from hypothesis import given, settings
from hypothesis import strategies as st
from step_record import STEP_RECORD, Step, recorded

from harness import batch_size
from harness.config.check import check
from harness.config.global_batch import accumulation
from harness.config.identity import default_name
from harness.data.order import TrainingOrder
from harness.errors import UserError
from harness.run import folder as run_folder

LAYOUTS = [(1, 1), (1, 6), (2, 3), (3, 2), (4, 1), (6, 2), (12, 1)]  # ranks, rows; of 12 windows a step


def steps(size: int, ranks: int, rows: int, *, first: int, until: int) -> list[list[int]]:
    """Return the windows of optimizer steps, 12 each, as ranks that begin at step `first` would train them."""
    micro_batches = 12 // (ranks * rows)
    found: list[list[int]] = []
    while len(found) < until - first:
        cursor = (first + len(found)) * 12
        orders = [
            TrainingOrder(size, rows, 3, lambda at=cursor: at, rank=rank, world=ranks, accumulate=micro_batches)
            for rank in range(ranks)
        ]
        epoch = [[window for rank in batch for window in rank] for batch in zip(*orders, strict=True)]
        windows = [epoch[at : at + micro_batches] for at in range(0, len(epoch), micro_batches)]
        found += [sorted(window for batch in step for window in batch) for step in windows]
    return found[: until - first]


@settings(max_examples=40)
@given(st.integers(1, 100), st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.integers(0, 30))
def test_a_step_has_the_same_windows_however_it_is_spread(
    size: int, one: tuple[int, int], other: tuple[int, int], change: int
) -> None:
    straight = steps(size, *one, first=0, until=change + 9)
    assert steps(size, *other, first=change, until=change + 9) == straight[change:]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.global_batch=100"], r"not a whole number of rows of 16\. The nearest: 96 and 112 are\."),
        (["data.global_batch=7"], r"not a whole number of rows of 16\. The nearest: 16 is\."),
        (["data.global_batch=256", "trainer.devices=3"], r"16 rows a step, which 3 ranks cannot share.* 2 or 4 can"),
        (["data.global_batch=192", "data.batch_size=5"], r"12 rows a step.* data\.batch_size=4 or 6 can be"),
        (["data.global_batch=64", "data.batch_size=8"], r"4 rows a step.* data\.batch_size=4 can be"),
        (["data.global_batch=256", "trainer.accumulate_grad_batches=3"], r"with data\.global_batch=256 it is 4"),
        (["data.global_batch=256", "trainer.limit_train_batches=3"], r"limit_train_batches counts micro-batches"),
    ],
)
def test_what_cannot_be_spread_is_refused_with_what_can(compose, overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check(compose(*overrides))


def test_accumulation_follows(compose) -> None:
    cfg = compose("data.global_batch=256")  # 16 rows, and a micro-batch has 4
    assert [accumulation(cfg, ranks=ranks, row=16) for ranks in (1, 2, 4)] == [4, 2, 1]


def test_how_a_step_is_spread_is_not_the_experiment(compose) -> None:
    spread = ("trainer.devices=4", "trainer.strategy=ddp", "data.batch_size=1", "trainer.num_nodes=2")
    fixed = "data.global_batch=256"
    assert default_name(compose(fixed)) == default_name(compose(fixed, *spread)) != default_name(compose())
    assert default_name(compose(fixed)) != default_name(compose("data.global_batch=512"))
    for change in spread:  # without it each of them makes another step
        assert default_name(compose(change)) != default_name(compose())


def test_another_micro_batch_goes_on_with_the_same_run(train, caplog) -> None:
    caplog.set_level("INFO")
    base = ("data.global_batch=256", "trainer.val_check_interval=2", "data.limit=11", "scheduler=constant", STEP_RECORD)
    straight = train(*base, "run.name=straight", "trainer.max_steps=9")
    assert "256 tokens a step: 1 rank x 4 rows x 4 micro-batches of 16" in caplog.text
    train(*base, "run.name=changed", "trainer.max_steps=3")
    changed = train(*base, "run.name=changed", "trainer.max_steps=9", "data.batch_size=8")
    assert [step.windows for step in recorded(changed)] == [step.windows for step in recorded(straight)]
    assert_close(recorded(changed), recorded(straight))
    validated = [[row["step"] for row in logged(run) if row["val/loss"]] for run in (changed, straight)]
    assert validated[0] == validated[1] == ["2", "4", "6", "8", "9"]


def assert_close(ours: list[Step], theirs: list[Step]) -> None:
    assert len(ours) == len(theirs)
    assert [step.loss for step in ours] == pytest.approx([step.loss for step in theirs], rel=0, abs=1e-5)


@pytest.mark.parametrize(
    ("seconds", "most", "found"),
    [
        ({1: 1.0, 2: 1.2, 4: 1.4, 8: None}, 64, 4),  # no memory for 8
        ({1: 1.0, 2: 1.2, 4: 2.0, 8: 4.0}, 64, 4),  # 8 are no faster, a row
        ({1: 1.0, 2: 1.2, 4: 1.4, 8: 1.6}, 6, 4),
        ({1: 30.0}, 64, 1),  # two steps of 2 would take longer than anybody waits
    ],
)
def test_rows_double_until_it_gains_nothing(monkeypatch, seconds: dict[int, float], most: int, found: int) -> None:
    monkeypatch.setattr(batch_size, "_timed", lambda _, rows: seconds[rows])
    assert batch_size.rows_that_fit(lambda _: None, "cpu", most) == found


def test_a_single_row_that_does_not_fit_is_said() -> None:
    def full(_: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(UserError, match="single row"):
        batch_size.rows_that_fit(full, "cpu", 8)


def test_the_batch_size_that_was_found_is_kept(train, caplog, monkeypatch) -> None:
    caplog.set_level("INFO")
    base = ("data.global_batch=192", "trainer.max_steps=3", STEP_RECORD, "scheduler=constant")  # 12 rows
    tried = train(*base, "data.batch_size=auto")
    found = run_folder.read(tried)["batch_size"]
    spread = next(rows for rows in range(found, 0, -1) if 12 % rows == 0)
    assert f"192 tokens a step: 1 rank x {spread} row" in caplog.text
    named = train(*base, f"data.batch_size={spread}", "run.name=named")
    assert recorded(named) == recorded(tried)  # what was tried has left no trace
    monkeypatch.setattr("harness.batch_size.rows_that_fit", None)
    assert train("data.batch_size=auto", *base, "trainer.max_steps=5") == tried
    assert len(recorded(tried)) == 5
