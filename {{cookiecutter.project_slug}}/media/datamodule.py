"""The data of a language model with encoders in front: documents and their media prepared once, seen as rows."""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from harness.batch import Batch
from harness.errors import UserError
from harness.run import artifact
from lm.data.datamodule import LmData, collate
from lm.data.prepare import Prepared
from lm.data.show import pieces_of
from media.encoders import plan
from media.facts import left_out, read, said
from media.kinds import NAMES
from media.rows import MediaRows, planned_slots
from media.shown import answer
from media.source import WithMedia, idle_encoder

log = logging.getLogger(__name__)

MOST_SAID = 64  # tokens of a sample


class MediaData(LmData):
    """Batches as media/__init__.py describes them, from a source with media.

    encoders: {kind: …}, as in conf/encoders/; `slots` of each is how many media of a kind a row has room for, and null
    as many as its tokens have. Documents are never cut: `packing` puts whole ones into a row (true; document keeps them
    from seeing one another there), or gives each a row (false). The rest is as for text.
    """

    source: WithMedia
    train_set: MediaRows
    val_set: MediaRows | None
    made_before = math.inf

    def __init__(self, source: WithMedia, *, encoders: Mapping[str, Any], **arguments: Any) -> None:
        super().__init__(source, **arguments)
        self.encoders = encoders
        if self.packing == "best_fit":
            raise UserError(
                "data.packing=best_fit places text alone: a row with media has slots besides.",
                cure="Take data.packing=document, which keeps the documents of a row apart, too.",
            )

    def connect(self, **known: Any) -> None:
        self.made_before = artifact.seconds_making
        super().connect(**known)

    def open(self, prepared: Prepared, context: int) -> None:
        self.take(prepared, context)
        if artifact.seconds_making > self.made_before:  # it was prepared now
            for sentence in said(read(prepared.folder), self.source.processors):
                log.info("%s", sentence)
            if lost := left_out(prepared.folder):
                log.warning("%s", lost)
        self.slots = {
            kind: planned_slots(how.get("slots"), plan(kind, how).outputs, context, self.source.processors[kind])
            for kind, how in self.source.encoders.items()
        }
        self.train_set = self.rows("train")
        self.val_set = self.rows("val") if prepared.meta["val"]["tokens"] else None

    def rows(self, split: str, *, packed: bool | None = None) -> MediaRows:
        """Return a split as rows; `packed` false gives each document its own, whatever `packing` says. Raises UserError
        for a document that no row can hold, unless such are left out."""
        packed = bool(self.packing) if packed is None else packed
        apart = self.packing == "document"
        rows = MediaRows(self.prepared, split, self.context, self.slots, packed=packed, apart=apart)
        for kind, stored in rows.stored.items():
            if split == "train" and self.limit is None and not stored.counts.any():
                raise idle_encoder(kind)
        if count := len(rows.left_out):
            first = int(rows.left_out[0])
            media = (
                f"{own.counts[first]} of {rows.stored[kind].slots.count} {kind} slots"
                for kind, own in rows.stored.items()
            )
            why = f"{rows.name(first)} needs {rows.lengths[first]} of {self.context} tokens and {' and '.join(media)}"
            if getattr(self.source.source, "on_bad", None) != "skip":
                raise UserError(
                    f"{count:,} of {len(rows.lengths):,} documents do not fit into a row: {why}.",
                    cure="Raise model.config.max_position_embeddings, encoders.KIND.slots or .stack, or leave such "
                    "documents out with data.on_bad=skip.",
                )
            log.warning(
                "%s: %s of %s documents do not fit into a row and are left out: %s.",
                split,
                f"{count:,}",
                f"{len(rows.lengths):,}",
                why,
            )
        return rows

    def held_out(self, kind: str) -> Iterator[dict[str, Tensor]]:
        """Yield each held-out document that has media of a kind as a row by itself, in their order."""
        rows = self.rows("val", packed=False) if self.val_set is not None else None
        for index in range(len(rows) if rows is not None else 0):
            if rows is not None and rows.stored[kind].counts[rows.kept[index]]:
                yield rows[index]

    def pieces_of(self, tokenizer: Tokenizer, row: Batch) -> tuple[list[tuple[str, bool, str]], str]:
        """Show a medium as one mark with its tokens."""
        pieces, end = pieces_of(tokenizer, row)
        shown: list[Any] = [*pieces]
        for kind, own in self.slots.items():
            slots = (row[f"{kind}_at"] // own.outputs).tolist()  # -1 where there is no medium
            for slot, count in sorted(Counter(slots).items()):
                if slot >= 0:
                    first = slots.index(slot)
                    mark = f"[{NAMES[kind][0]}: {count} tokens]", False, ""
                    shown[first : first + count] = [mark, *[None] * (count - 1)]
        return [piece for piece in shown if piece], end

    def sample(self, model: Any) -> str:
        """Return what the model says of a held-out document of each kind, beside the truth."""
        lines = []
        for kind in self.slots:
            for row in islice(self.held_out(kind), 1):
                truth, made = answer(model, self.tokenizer, row, max_tokens=MOST_SAID)
                lines.append(f"{kind} of {truth.strip()!r}: {made.strip()}")
        return "\n".join(lines)

    @property
    def described(self) -> dict[str, Any]:
        """The prepared folder, its numbers, and what decides the rows that the cursor counts."""
        slots = {kind: {"count": own.count, "outputs": own.outputs} for kind, own in self.slots.items()}
        plan = {"context": self.context, "packing": self.packing, **slots}
        return {
            **super().described,
            "fingerprint": artifact.fingerprint([self.prepared.folder.name, plan]),
            "rows": plan,
        }

    def collate(self, rows: list[dict[str, Tensor]]) -> Batch:
        """Stack rows; those that a last batch lacks take no output of any slot."""
        batch = collate(rows, self.batch_size)
        for kind in self.slots:
            batch[f"{kind}_at"][len(rows) :] = -1
        return batch
