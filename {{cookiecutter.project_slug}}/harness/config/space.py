"""What a search chooses from, in the words of Hydra's sweepers: `a=x,y`, `choice`, `range`, `interval`, `tag(log, …)`.

As in Hydra's own sweeper for Optuna, the stop of a `range` belongs to it, and `int(interval(1, 8))` has whole numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from harness.config.compose import parsed
from harness.errors import UserError


@dataclass(frozen=True)
class Choice:
    values: tuple[str, ...]  # as typed

    @property
    def extremes(self) -> tuple[str, ...]:
        return self.values


@dataclass(frozen=True)
class Span:
    """Numbers from `low` to `high`, both of which belong to it; whole ones if all three are whole."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def extremes(self) -> tuple[str, ...]:
        return (str(self.low), str(self.high))


Space = dict[str, Choice | Span]  # by key, without `+`


def space(overrides: Sequence[str]) -> Space:
    """Return what the swept ones of the overrides choose from. Raises UserError."""
    found = {item.key_or_group: _dimension(item) for item in parsed(overrides) if item.is_sweep_override()}
    if not found:
        example = "'optimizer.lr=tag(log, interval(1e-4, 1e-2))' model=tiny,14m"
        raise UserError("The search has nothing to choose from.", cure=f"Add what it may change, such as {example}.")
    return found


def examples(overrides: Sequence[str], space: Space) -> list[list[str]]:
    """Return jobs that have between them every choice and both ends of every span: the least that has to be right."""
    rows = zip_longest(*(one.extremes for one in space.values()))
    first = {key: one.extremes[0] for key, one in space.items()}
    return [
        chosen(overrides, {key: value or first[key] for key, value in zip(space, row, strict=True)}) for row in rows
    ]


def chosen(overrides: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return the overrides with these values in place of what is swept."""
    return [
        f"{item.get_key_element()}={values[item.key_or_group]}" if item.is_sweep_override() else item.input_line or ""
        for item in parsed(overrides)
    ]


def _dimension(item: Override) -> Choice | Span:
    value = item.value()
    if isinstance(value, IntervalSweep):
        return _span(item, value.start, value.end, None, log="log" in value.tags)
    if isinstance(value, RangeSweep) and not value.shuffle:
        return _span(item, value.start, value.stop, value.step, log="log" in value.tags)
    if item.is_choice_sweep():
        return Choice(tuple(item.sweep_string_iterator()))
    raise UserError(f"A search cannot choose from {item.input_line}.", cure="It takes choice, range and interval.")


def _span(item: Override, low: float | None, high: float | None, step: float | None, *, log: bool) -> Span:
    if low is None or high is None or low > high or (log and low <= 0):
        what = f"{item.input_line} has no number to choose"
        raise UserError(f"{what}.", cure="The first is the lower end, and above 0 where the scale is logarithmic.")
    return Span(low, high, None if log else step, log)
