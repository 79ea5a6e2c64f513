"""Series of numbers that a report draws and judges, in memory that does not grow with the log."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any


class Curve:
    """A series of numbers over steps, in at most `most` bins of equal width: when they are full, the width doubles.

    So a log of any length gives a curve that a page can draw, and what a bin hides stays visible as its range.
    """

    def __init__(self, most: int = 1500) -> None:
        self.most, self.width = most, 1
        self.bins: dict[int, list[float]] = {}  # number, sum of steps, sum, lowest, highest
        self.first = self.last = math.nan

    def add(self, step: int, value: float) -> None:
        place = step // self.width
        found = self.bins.get(place)
        if found is None:
            self._begin(place, step, value)
        else:
            found[0] += 1
            found[1] += step
            found[2] += value
            if value < found[3]:
                found[3] = value
            elif value > found[4]:
                found[4] = value
        self.last = value

    def _begin(self, place: int, step: int, value: float) -> None:
        if not self.bins:
            self.first = value
        self.bins[place] = [1, step, value, value, value]
        if len(self.bins) > self.most:
            self.width *= 2
            narrow, self.bins = self.bins, {}
            for place, (number, steps, total, low, high) in narrow.items():
                to = self.bins.setdefault(place // 2, [0, 0, 0.0, low, high])
                to[:] = to[0] + number, to[1] + steps, to[2] + total, min(to[3], low), max(to[4], high)

    @property
    def lowest(self) -> float:
        return min((found[3] for found in self.bins.values()), default=math.nan)

    @property
    def highest(self) -> float:
        return max((found[4] for found in self.bins.values()), default=math.nan)

    @property
    def mean(self) -> float:
        number = sum(found[0] for found in self.bins.values())
        return sum(found[2] for found in self.bins.values()) / number if number else math.nan

    def points(self) -> Iterator[tuple[float, float, float, float]]:
        """Yield (step, mean, lowest, highest) in the order of steps."""
        for _, (number, steps, total, low, high) in sorted(self.bins.items()):
            yield steps / number, total / number, low, high


class Thinned:
    """A list of at most `most` items, evenly chosen from however many were added, and the last one."""

    def __init__(self, most: int) -> None:
        self.most, self.stride, self.count = most, 1, 0
        self._items: list[Any] = []
        self._last: Any = None

    def add(self, item: Any) -> None:
        if self.count % self.stride == 0:
            self._items.append(item)
            if len(self._items) > self.most:
                self._items, self.stride = self._items[::2], self.stride * 2
        self._last = item
        self.count += 1

    def __iter__(self) -> Iterator[Any]:
        yield from self._items
        if self.count and self._items[-1] is not self._last:
            yield self._last


@dataclass
class Ends:
    """The first and the last values of a series, and all of its mean."""

    early: list[float] = field(default_factory=list)
    late: deque[float] = field(default_factory=lambda: deque(maxlen=10))
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        if len(self.early) < 20:
            self.early.append(value)
        self.late.append(value)
        self.total += value
        self.count += 1

    def trend(self) -> dict[str, float]:
        """Return the means of the first and the last 10 values (of a short series, of its halves); else nothing."""
        number = min(10, len(self.early) // 2)
        if not number:
            return {}
        return {"first": fmean(self.early[:number]), "last": fmean([*self.late][-number:])}

    def summary(self) -> dict[str, float]:
        return {"first": self.early[0], "last": self.late[-1], "mean": self.total / self.count}


class Jumps:
    """Says whether a value stands far above the 20 before it: `least` more than their median, and beyond their
    spread."""

    WINDOW, ENOUGH, SIGMAS = 20, 10, 6.0

    def __init__(self, least: float) -> None:
        self.least = least
        self._before: deque[float] = deque(maxlen=self.WINDOW)

    def add(self, value: float) -> bool:
        found = False
        if len(self._before) >= self.ENOUGH:
            usual = median(self._before)
            spread = 1.4826 * median(abs(other - usual) for other in self._before)  # a standard deviation, robustly
            found = value - usual > max(self.least, self.SIGMAS * spread)
        self._before.append(value)
        return found
