"""Best-fit packing: whole documents placed into rows so that little is padded (Ding et al., "Fewer Truncations Improve
Language Modeling", 2024). Arithmetic on the ends of documents alone."""

from bisect import bisect_left, insort
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Stretch = tuple[int, int]  # start and end


def pieces_of(ends: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """Return (start, end) of each document, of one longer than a row those of its rows and its rest: (N, 2)."""
    starts = np.concatenate(([0], ends[:-1])) if len(ends) else ends
    counts = np.maximum(1, -(-(ends - starts - 1) // (length - 1)))  # rows that a document takes alone
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = np.repeat(starts, counts) + nth * (length - 1)
    return np.stack((begin, np.minimum(begin + length, np.repeat(ends, counts))), axis=1)


def placed(pieces: npt.NDArray[np.int64], length: int) -> Iterator[list[Stretch]]:
    """Yield rows of at most `length` numbers that hold the pieces, by decreasing size, each where it leaves least."""
    rows: list[list[Stretch]] = []
    with_room: dict[int, list[int]] = {}  # rows by how much still fits
    rooms: list[int] = []  # the keys of it that have a row, ascending
    for which in np.argsort(pieces[:, 0] - pieces[:, 1], kind="stable").tolist():
        start, end = pieces[which].tolist()
        place = bisect_left(rooms, end - start)
        if place == len(rooms):
            room, row = length, len(rows)
            rows.append([])
        else:
            room = rooms[place]
            row = with_room[room].pop()
            if not with_room[room]:
                rooms.pop(place)
        rows[row].append((start, end))
        if left := room - (end - start):
            if not with_room.setdefault(left, []):
                insort(rooms, left)
            with_room[left].append(row)
    yield from rows
