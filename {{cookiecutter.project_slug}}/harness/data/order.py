"""The order of training: which windows a micro-batch holds, as a pure function of (seed, epoch, position).

window    a stretch of tokens as long as the model's context
position  the index of a window in an epoch's order
cursor    windows trained since the beginning, by all ranks, over all epochs; the one number that says where a run is

Nothing is stored but the cursor, so resuming at step 1,000,000 costs what resuming at step 10 costs.
"""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

ROUNDS = 6
AHEAD = 1024  # windows that are looked up at once: one by one they take a tenth of a fast step


class Shuffle:
    """A pseudo-random permutation of range(size) that is computed, not stored.

    A Feistel network permutes the next power of four; what falls outside the range is permuted again until it falls
    inside (cycle walking), which takes fewer than four rounds on average. Black & Rogaway, "Ciphers with Arbitrary
    Finite Domains", 2002. It takes the same time for 10 windows and for 10 billion, and no memory.
    """

    def __init__(self, size: int, seed: int, epoch: int) -> None:
        self.size = size
        self._half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        digest = hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=8 * ROUNDS).digest()
        self._keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def __call__(self, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the windows at `positions`, an array of integers in [0, size)."""
        values = np.asarray(positions, dtype=np.uint64)
        values = self._permute(values)
        while (outside := values >= np.uint64(self.size)).any():
            values[outside] = self._permute(values[outside])
        return values.astype(np.int64)

    def _permute(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        mask = (np.uint64(1) << self._half_bits) - np.uint64(1)
        left, right = values >> self._half_bits, values & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << self._half_bits) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele et al., 2014): every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


Order = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]  # from positions to windows


def shuffled(size: int, seed: int) -> Order:
    """Return the order of all windows, epoch by epoch: position p is `Shuffle(size, seed, p // size)(p % size)`."""

    def windows(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        epochs, places = positions // size, positions % size
        found = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = Shuffle(size, seed, int(epoch))(places[here])
        return found

    return windows


class TrainingOrder(Sampler[list[int]]):
    """A batch sampler over one endless stream of positions: epoch after epoch of shuffled windows, none left out.

    `order` says which window a position has (by default `shuffled`), whoever trains it: rank r of w takes the positions
    r, r + w, … of each global batch. So another number of ranks or another batch size goes on with the same windows in
    the same order. What Lightning calls an epoch is as many whole accumulation windows as fit into `size`; one
    iteration is the rest of that. It has no `set_epoch`, so Lightning leaves it alone.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        cursor: Callable[[], int],
        *,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        limit: float | None = None,
        order: Order | None = None,
    ) -> None:
        self.order = order or shuffled(size, seed)
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.cursor = cursor
        self.rank = rank
        self.world = world
        self.batches = batches_per_epoch(size, batch_size * world, accumulate, limit)

    def __len__(self) -> int:
        """Micro-batches of a rank in a whole epoch, wherever the cursor stands."""
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        start, global_batch = self.cursor(), self.batch_size * self.world
        done = start // global_batch % self.batches
        left, ahead = self.batches - done, max(1, AHEAD // self.batch_size)
        for first in range(0, left, ahead):
            yield from self.windows(start + first * global_batch, min(ahead, left - first))

    def windows(self, start: int, batches: int) -> list[list[int]]:
        """Return this rank's windows of so many global batches from position `start` of the stream on."""
        end = start + batches * self.batch_size * self.world
        found = self.order(np.arange(start + self.rank, end, self.world))
        return found.reshape(batches, self.batch_size).tolist()


def batches_per_epoch(size: int, global_batch: int, accumulate: int = 1, limit: float | None = None) -> int:
    """Return how many global batches an epoch of `size` windows has: whole accumulation windows, at least one.

    limit: Lightning's `limit_train_batches`, a number of batches or a fraction of them.
    """
    batches = max(1, size // (global_batch * accumulate)) * accumulate
    if limit is None or (isinstance(limit, float) and limit >= 1):
        return batches
    return max(1, min(batches, limit) if isinstance(limit, int) else int(batches * limit))
