"""Several sets in one order, by weight: which set and which row of it a position has, as a pure function of seed and
position. Nothing is drawn at random, so the weights hold at every position, and nothing but the cursor is needed to
resume."""

import logging
import math
from collections.abc import Mapping, Sequence, Sized
from fractions import Fraction
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, Dataset

from harness.data.exact import ExactData
from harness.data.numbers import Numbers
from harness.data.order import shuffled
from harness.data.split import SPLITS
from harness.errors import UserError
from harness.run.artifact import fingerprint

log = logging.getLogger(__name__)


class Schedule:
    """Rows of sets of `sizes` that lie one after another, by weight. Each set has a shuffle and epochs of its own."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[Fraction], seed: int) -> None:
        self.sizes, self.weights = sizes, weights
        self.offsets = np.cumsum([0, *sizes])[:-1]
        self.orders = [shuffled(size, seed) for size in sizes]
        self.pattern = pattern(weights)
        which = self.pattern[:, None] == np.arange(len(weights))
        self.before = np.cumsum(which, axis=0) - which  # of each set, in the pattern, before each place

    def __call__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the rows at `positions`."""
        rounds, places = np.divmod(positions, len(self.pattern))
        rows = np.empty_like(positions)
        for number, order in enumerate(self.orders):
            here = self.pattern[places] == number
            a_round = int((self.pattern == number).sum())
            rows[here] = self.offsets[number] + order(rounds[here] * a_round + self.before[places[here], number])
        return rows

    def epochs(self, positions: int) -> list[float]:
        """Return how often each set has been seen after so many positions."""
        return [float(weight * positions / size) for weight, size in zip(self.weights, self.sizes, strict=True)]


def pattern(weights: Sequence[Fraction]) -> npt.NDArray[np.int64]:
    """Return which set each position has, until it repeats. After any number of positions each set has had that number
    times its weight, give or take less than one (Tijdeman, "The chairman assignment problem", 1980)."""
    length = math.lcm(*(weight.denominator for weight in weights))
    slack = 1 - Fraction(1, 2 * max(2, len(weights)) - 2)
    shares = [int(weight * length) for weight in weights]
    counts, chosen = [0] * len(shares), []
    for position in range(1, length + 1):
        due = [share * position - count * length for share, count in zip(shares, counts, strict=True)]
        late = [number for number, amount in enumerate(due) if amount >= (1 - slack) * length]
        number = min(late, key=lambda number: (slack * length - due[number]) / shares[number])
        counts[number] += 1
        chosen.append(number)
    return np.array(chosen, dtype=np.int64)


def mix(
    data: ExactData, train: Mapping[str, Dataset[Any]], val: Mapping[str, Dataset[Any]], weights: Sequence[Fraction]
) -> None:
    """Let a data module train on several sets by weight, and validate on each by itself. Raises UserError."""
    sizes = [len(cast(Sized, rows)) for rows in train.values()]
    if not all(sizes):
        empty = ", ".join(name for name, size in zip(train, sizes, strict=True) if not size)
        cure = "Use more text, or leave it out of data.sets."
        raise UserError(f"The training text of {empty} fills not one window.", cure=cure)
    data.train_set, data.order = ConcatDataset(train.values()), (order := Schedule(sizes, weights, data.seed))
    for name, size, weight, times in zip(train, sizes, weights, order.epochs(sum(sizes)), strict=True):
        numbers = f"{size:,}", f"{float(weight):.1%}", f"{times:.1f}", f"{sum(sizes):,}"
        log.info("%s: %s windows, %s of the mixture; seen %s times in %s windows.", name, *numbers)
    data.val_set = ConcatDataset(val.values()) if val else None
    data.val_parts = {name: len(cast(Sized, rows)) for name, rows in val.items()} or None


def described_sets(
    parts: Mapping[str, Numbers], sets: Mapping[str, Mapping[str, Any]], counts: Sequence[str]
) -> dict[str, Any]:
    """Return a fingerprint of all sets and their weights, and the sums of their `counts` in each split."""
    content = [[name, str(sets[name]["weight"]), part.folder.name] for name, part in parts.items()]
    sums = {split: {key: sum(part.meta[split][key] for part in parts.values()) for key in counts} for split in SPLITS}
    return {"fingerprint": fingerprint(content), **sums}
