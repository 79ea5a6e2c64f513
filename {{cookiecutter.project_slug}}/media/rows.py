"""Rows of whole documents with their media: T tokens, and M slots a kind.

Each placeholder on disk becomes as many positions as its encoder puts out for the medium. Documents follow one another
in their order, each into the row of the one before where it fits (next-fit), so that nothing is ever cut: a row is a
function of the prepared folder, T, M and the outputs of a slot alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from harness.data.layout import read_ends
from harness.data.numbers import read
from lm.batch import NO_LABEL
from lm.data.prepare import Prepared
from media.processors import Processor

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Slots:
    """`count` media of a kind in a row. A whole medium has `outputs`; one that fills a part, its share of them."""

    count: int
    outputs: int
    processor: Processor

    def positions(self, heard: Integers) -> Integers:
        """Return how many positions media take of which so much is heard."""
        return -(-heard * self.outputs // self.processor.whole)


def planned_slots(count: int | None, outputs: int, context: int, processor: Processor) -> Slots:
    """Return `count` slots, or as many as whole media fit into `context` tokens. No row has room for more pictures than
    that, so there are no slots for them; sounds may be shorter."""
    most = max(1, context // outputs)
    return Slots(min(count or most, most) if processor.whole == 1 else count or most, outputs, processor)


class Stored:
    """The media of one kind in one split, and how many positions of a row each takes."""

    def __init__(self, prepared: Prepared, split: str, kind: str, slots: Slots) -> None:
        self.slots = slots
        self.file = prepared.folder / f"{split}.{kind}.bin"
        sizes = _array(prepared.folder / f"{split}.{kind}.sizes.bin", "<i8").reshape(-1, 3)
        counts = _array(prepared.folder / f"{split}.{kind}.counts.bin", "<u2").astype(np.int64)
        self.until = np.cumsum(sizes[:, 0])  # bytes up to the end of each
        self.positions = slots.positions(sizes[:, 1])
        self.places = sizes[:, 2]  # among the tokens of its document
        self.first = np.concatenate(([0], np.cumsum(counts)))  # medium of each document, and their number

    @property
    def counts(self) -> Integers:
        """Media of each document."""
        return np.diff(self.first)

    @property
    def added(self) -> Integers:
        """Positions that each document has besides its tokens, one of which stands for each medium."""
        before = np.concatenate(([0], np.cumsum(self.positions - 1)))
        return before[self.first[1:]] - before[self.first[:-1]]

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        """Return the encoder's input."""
        processor = self.slots.processor
        start, end = int(self.until[index - 1]) if index else 0, int(self.until[index])
        stored = np.fromfile(
            self.file, processor.dtype, (end - start) // np.dtype(processor.dtype).itemsize, offset=start
        )
        return processor.restored(stored)


class MediaRows(Dataset[dict[str, Tensor]]):
    """`packed` false gives each document a row; `apart` lets those of a row not see one another. `left_out` are the
    numbers of documents that no row can hold."""

    def __init__(
        self, prepared: Prepared, split: str, context: int, slots: Mapping[str, Slots], *, packed: bool, apart: bool
    ) -> None:
        self.prepared, self.split, self.context, self.apart = prepared, split, context, apart
        self.stored = {kind: Stored(prepared, split, kind, own) for kind, own in slots.items()}
        tokens = np.diff(read_ends(prepared.ends(split)), prepend=0)
        self.lengths: Integers = sum((stored.added for stored in self.stored.values()), start=tokens)
        needs = np.stack([self.lengths, *(stored.counts for stored in self.stored.values())], axis=1)
        self.room = np.array([context, *(own.count for own in slots.values())])
        fits = (needs <= self.room).all(axis=1)
        self.kept, self.left_out = np.flatnonzero(fits), np.flatnonzero(~fits)
        self.borders = next_fit(needs[fits], self.room) if packed else np.arange(len(self.kept) + 1)

    def __len__(self) -> int:
        return len(self.borders) - 1

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return `input_ids`, `labels`, and of each kind the media and `…_at`, as media/__init__.py describes them."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.row(self.kept[self.borders[index] : self.borders[index + 1]].tolist())

    def row(self, documents: list[int]) -> dict[str, Tensor]:
        """Return a row of these documents, by their numbers in the split."""
        ends = read_ends(self.prepared.ends(self.split))
        stretches = [(int(ends[number - 1]) if number else 0, int(ends[number])) for number in documents]
        ids = read(self.prepared.numbers(self.split), self.prepared.dtype, stretches)
        mask = self.prepared.loss_mask(self.split)
        counted = np.ones(len(ids), bool) if mask is None else read(mask, "bool", stretches)
        begins = np.cumsum([0, *(end - start for start, end in stretches[:-1])])
        repeats, media = np.ones(len(ids), np.int64), {}
        for kind, stored in self.stored.items():
            mine = np.concatenate([np.arange(*stored.first[number : number + 2]) for number in documents])
            places = stored.places[mine] + np.repeat(begins, stored.counts[documents])
            repeats[places] = stored.positions[mine]
            media[kind] = mine, places
        first = np.cumsum(repeats) - repeats  # position of each token
        missing = self.context - int(repeats.sum())
        ids, counted = np.repeat(ids, repeats), np.repeat(counted, repeats)
        row = {
            "input_ids": np.pad(ids, (0, missing)),
            "labels": np.pad(np.where(counted, ids, NO_LABEL), (0, missing), constant_values=NO_LABEL),
        }
        for kind, (mine, places) in media.items():
            row |= self._slots(kind, mine, first[places])
        if self.apart:
            sizes = [*self.lengths[documents].tolist(), *([missing] if missing else [])]
            row["position_ids"] = np.concatenate([np.arange(size) for size in sizes])
            row["labels"] = np.where(row["position_ids"] == 0, NO_LABEL, row["labels"])
        return {name: torch.from_numpy(values) for name, values in row.items()}

    def _slots(self, kind: str, mine: Integers, first: Integers) -> dict[str, npt.NDArray[Any]]:
        """Return the media `mine` of a row in their slots, each taken by the positions from its `first` on."""
        stored, at = self.stored[kind], np.full(self.context, -1, np.int64)
        slots = stored.slots
        media = np.zeros((slots.count, *slots.processor.shape), slots.processor.dtype)
        for slot, (medium, begin) in enumerate(zip(mine.tolist(), first.tolist(), strict=True)):
            count = int(stored.positions[medium])
            at[begin : begin + count] = slot * slots.outputs + np.arange(count)
            media[slot] = stored[medium]
        return {kind: media, f"{kind}_at": at}

    def filled(self) -> dict[str, float]:
        """Return the share of positions that are no padding (`tokens`), and of each kind's slots that have a medium."""
        slots = {kind: stored.counts[self.kept].sum() / stored.slots.count for kind, stored in self.stored.items()}
        taken = {"tokens": self.lengths[self.kept].sum() / self.context, **slots}
        return {name: float(count / max(1, len(self))) for name, count in taken.items()}

    def name(self, document: int) -> str:
        """Return what the source called a document."""
        with (self.prepared.folder / f"{self.split}.documents.jsonl").open(encoding="utf-8") as lines:
            return str(json.loads(next(islice(lines, document, None)))["name"])


def next_fit(needs: Integers, room: Integers) -> Integers:
    """Return where rows begin, and their end: the documents of row i are borders[i] up to borders[i + 1]. `needs`
    (N, K) are what each document takes of `room` (K,), and none takes more."""
    borders, left = [0], room.tolist()
    for number, need in enumerate(needs.tolist()):
        left = [have - take for have, take in zip(left, need, strict=True)]
        if min(left) < 0:
            borders.append(number)
            left = [have - take for have, take in zip(room.tolist(), need, strict=True)]
    return np.array([*borders, len(needs)] if len(needs) else [0], np.int64)


def _array(file: Path, dtype: str) -> npt.NDArray[Any]:
    return np.fromfile(file, dtype) if file.is_file() else np.zeros(0, dtype)
