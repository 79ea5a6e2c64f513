import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

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


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 200))
def test_the_rest_of_an_epoch_is_what_an_uninterrupted_one_would_have_had(
    batches: int, batch_size: int, cursor: int
) -> None:
    whole = [
        TrainingOrder(batches * batch_size, batch_size, 3, lambda epoch=epoch: epoch * batches)
        for epoch in range(300 // batches + 1)
    ]
    uninterrupted = [batch for order in whole for batch in order]
    resumed = TrainingOrder(batches * batch_size, batch_size, 3, lambda: cursor)
    rest = list(resumed)
    assert rest == uninterrupted[cursor : cursor + len(rest)]
    assert (cursor + len(rest)) % batches == 0


def test_ranks_share_an_order_without_overlap() -> None:
    ranks = [list(TrainingOrder(50, 3, 0, lambda: 0, rank, world=4)) for rank in range(4)]
    alone = list(TrainingOrder(50, 12, 0, lambda: 0))
    assert len(alone) == 4
    for batch, together in enumerate(alone):
        assert sorted(together) == sorted(window for rank in ranks for window in rank[batch])


def test_lightning_finds_no_set_epoch_to_call() -> None:
    assert not hasattr(TrainingOrder(8, 2, 0, lambda: 0), "set_epoch")
