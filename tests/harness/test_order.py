import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checkpoint import read
from harness.data.order import Shuffle, TrainingOrder


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6))
def test_every_window_comes_once_an_epoch(size: int, seed: int, epoch: int) -> None:
    assert sorted(Shuffle(size, seed, epoch)(range(size))) == list(range(size))


@given(size=st.integers(2, 10**15), position=st.integers(0, 10**15))
def test_a_position_far_out_is_computed_alone(size: int, position: int) -> None:
    window = Shuffle(size, seed=0, epoch=0)([position % size])
    assert 0 <= window[0] < size


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(Shuffle(100, seed, epoch)(range(100))) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_an_order_is_spread_evenly() -> None:
    # 64 bins of the place to which a run of 64 neighbours goes, over 400 epochs: chi-squared, 63 degrees, far below
    # 150.
    bins = np.concatenate([Shuffle(4096, 0, epoch)(range(64)) // 64 for epoch in range(400)])
    counts = np.bincount(bins, minlength=64)
    assert ((counts - 400) ** 2 / 400).sum() < 150


def stream(size: int, batch_size: int, windows: int) -> list[int]:
    """The first windows of the endless stream, by walking epoch after epoch."""
    seen: list[int] = []
    while len(seen) < windows:
        cursor = len(seen)
        seen += [w for batch in TrainingOrder(size, batch_size, 3, lambda cursor=cursor: cursor) for w in batch]
    return seen[:windows]


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(1, 7), st.integers(0, 200))
def test_the_rest_of_an_epoch_is_what_an_uninterrupted_one_would_have_had(
    size: int, batch_size: int, done: int
) -> None:
    cursor = done * batch_size
    order = TrainingOrder(size, batch_size, 3, lambda: cursor)
    rest = [window for batch in order for window in batch]
    assert rest == stream(size, batch_size, cursor + len(rest))[cursor:]
    assert (done + len(rest) // batch_size) % len(order) == 0


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 7))
def test_another_batch_size_goes_through_the_same_windows(size: int, one: int, other: int) -> None:
    assert stream(size, one, 100) == stream(size, other, 100)


def test_every_window_comes_before_any_comes_twice() -> None:
    assert sorted(stream(10, 3, 30)) == sorted(3 * list(range(10)))


def test_an_epoch_is_a_whole_number_of_accumulation_windows() -> None:
    assert len(TrainingOrder(11, 2, 0, lambda: 0, accumulate=2)) == 4
    assert len(TrainingOrder(3, 2, 0, lambda: 0, accumulate=4)) == 4
    assert len(TrainingOrder(40, 2, 0, lambda: 0, limit=5)) == 5
    assert len(TrainingOrder(40, 2, 0, lambda: 0, limit=0.5)) == 10


def test_ranks_share_an_order_without_overlap() -> None:
    ranks = [list(TrainingOrder(50, 3, 0, lambda: 0, rank=rank, world=4)) for rank in range(4)]
    alone = list(TrainingOrder(50, 12, 0, lambda: 0))
    assert len(alone) == 4
    for batch, together in enumerate(alone):
        assert sorted(together) == sorted(window for rank in ranks for window in rank[batch])


def test_lightning_finds_no_set_epoch_to_call() -> None:
    assert not hasattr(TrainingOrder(8, 2, 0, lambda: 0), "set_epoch")


def test_a_share_of_an_epoch_is_taken_once(train) -> None:
    whole, half = (
        train(
            f"run.name={name}", "+trainer.max_epochs=1", "trainer.max_steps=-1", f"+trainer.limit_train_batches={share}"
        )
        for name, share in (("whole", 1.0), ("half", 0.5))
    )
    steps = [read.checkpoints(run / "checkpoints")[-1].step for run in (whole, half)]
    assert steps[1] == steps[0] // 2 > 1
