"""The order of training: which windows a micro-batch holds, as a pure function of (seed, epoch, position).

window    a stretch of tokens as long as the model's context
position  the index of a window in an epoch's order
cursor    micro-batches trained since the beginning, over all epochs; the one number that says where a run is

Nothing is stored but the cursor, so resuming at step 1,000,000 costs what resuming at step 10 costs.
"""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

ROUNDS = 6


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


class TrainingOrder(Sampler[list[int]]):
    """A batch sampler: one iteration is the rest of the epoch in which the cursor stands.

    All ranks walk one order: rank r of w takes rows r, r + w, … of each global batch. The last windows of an epoch that
    do not fill a global batch are left out, others in each epoch. It has no `set_epoch`, so Lightning leaves it alone.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, cursor: Callable[[], int], rank: int = 0, world: int = 1
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.cursor = cursor
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        """Micro-batches in a whole epoch, wherever the cursor stands."""
        return self.size // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, first = divmod(self.cursor(), len(self))
        for batch in range(first, len(self)):
            yield self.windows(epoch, batch)

    def windows(self, epoch: int, batch: int) -> list[int]:
        """Return this rank's windows of one micro-batch."""
        start = batch * self.batch_size * self.world + self.rank
        positions = np.arange(start, start + self.batch_size * self.world, self.world)
        return list(map(int, Shuffle(self.size, self.seed, epoch)(positions)))
