"""Several sets in one order, by weight: which set and which row of it a position has, as a pure function of seed and
position. Nothing is drawn at random, so the weights hold at every position, and nothing but the cursor is needed to
resume."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig, OmegaConf

from harness.config.check import check
from harness.config.compose import compose
from harness.config.names import choices, nearest
from harness.data.order import shuffled
from harness.errors import UserError

LONGEST = 100_000  # positions after which a pattern has to repeat itself


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


def weights_of(sets: Mapping[str, Mapping[str, Any]]) -> list[Fraction]:
    """Return each set's `weight` as a share of all. Raises UserError for what is not a number above 0."""
    given = {name: options.get("weight") for name, options in sets.items()}
    for name, weight in given.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise UserError(f"data.sets.{name}.weight={weight} is not a number above 0.", cure="Say weight: 0.5, say.")
    parts = [Fraction(str(weight)) for weight in given.values()]
    shares = [part / sum(parts) for part in parts]
    if math.lcm(*(share.denominator for share in shares)) > LONGEST:
        raise UserError(
            f"The weights {', '.join(map(str, given.values()))} hold exactly only over more than {LONGEST:,} windows.",
            cure="Take fewer digits: 0.5, 0.3 and 0.2, or 5, 3 and 2.",
        )
    return shares


def configs_of(sets: Mapping[str, Mapping[str, Any]], own: Sequence[str]) -> dict[str, DictConfig]:
    """Return the config of each set: the data config that it names with `data` (by default as it is called itself), and
    its options on top. `own` are options that only a set has, not the mixture. Raises UserError."""
    if not sets:
        raise UserError(
            "data=mixture needs to know which sets.",
            cure="Type 'data.sets={code:{data:stdlib,weight:0.7},prose:{data:text,path:PATH,weight:0.3}}'.",
        )
    return {name: _config(name, dict(options), own) for name, options in sets.items()}


def _config(name: str, options: dict[str, Any], own: Sequence[str]) -> DictConfig:
    data = str(options.pop("data", name))
    options.pop("weight", None)
    if data not in choices("data") or data == "mixture":
        known = [choice for choice in choices("data") if choice not in ("mixture", "base")]
        raise UserError(f"data.sets.{name}: there is no data={data}.{nearest(data, known)}", cure="See conf/data/.")
    for key in options:
        if key not in own:
            raise UserError(
                f"data.sets.{name}.{key}: a set of a mixture has no such option.{nearest(key, [*own])}",
                cure=f"It has {', '.join(own)}; the rest is the mixture's: data.{key}=…",
            )
    cfg = compose([f"data={data}"])
    cfg = OmegaConf.merge(cfg, {"data": options})  # type: ignore[assignment]
    try:
        check(cfg)
    except UserError as error:
        raise UserError(f"data.sets.{name}: {error}") from error
    return cfg.data  # type: ignore[no-any-return]
