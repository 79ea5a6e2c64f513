"""Several data sets at once, by weight, with one tokenizer for all."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sized
from typing import Any, cast

from torch.utils.data import ConcatDataset

from harness.data.mixture import Schedule, weights_of
from harness.errors import UserError
from lm.data.datamodule import APART, LmData, refuse_unended, windows
from lm.data.prepare import Prepared, Recipe
from lm.data.sets import prepare_sets

log = logging.getLogger(__name__)


class MixtureData(LmData):
    """Rows of each of `sets` by its weight, in epochs of its own; validation has a loss for each.

    sets: {name: {data: …, weight: …, and options of that data config}}. The rest is as for one set.
    """

    def __init__(self, sets: Mapping[str, Mapping[str, Any]], **arguments: Any) -> None:
        super().__init__(None, **arguments)  # type: ignore[arg-type]  # the sets have sources
        self.sets = sets

    def connect(self, *, vocab_size: int, context: int, seed: int, **_: Any) -> None:  # type: ignore[override]
        self.seed, self.context = seed, context
        recipe = Recipe(vocab_size, self.val_fraction, seed, self.limit)
        folder, prepared = prepare_sets(self.sets, recipe, self.folder, self.choice)
        self.prepared = Prepared(folder, {"sets": {name: part.meta for name, part in prepared.items()}})
        self.tokenizer, self.parts = self.prepared.tokenizer, prepared
        train = {name: windows(part, "train", context, packing=self.packing) for name, part in prepared.items()}
        if empty := [name for name, rows in train.items() if not len(rows)]:
            raise UserError(
                f"The training text of {', '.join(empty)} fills not one window of {context} tokens.",
                cure="Use more text, or leave it out of data.sets.",
            )
        if self.packing in APART:
            for part in prepared.values():
                refuse_unended(part, "train")
        self.train_set = ConcatDataset(train.values())
        sizes = [len(rows) for rows in train.values()]
        shares = weights_of(self.sets)
        self.order = Schedule(sizes, shares, seed)
        for name, size, share, times in zip(train, sizes, shares, self.order.epochs(sum(sizes)), strict=True):
            numbers = f"{size:,}", f"{float(share):.1%}", f"{times:.1f}", f"{sum(sizes):,}"
            log.info("%s: %s windows, %s of the mixture; seen %s times in %s windows.", name, *numbers)
        held_out = {name: part for name, part in prepared.items() if part.meta["val"]["tokens"]}
        val = {name: windows(part, "val", context, packing=self.packing) for name, part in held_out.items()}
        self.val_set = ConcatDataset(val.values()) if val else None
        self.val_parts = {name: len(cast(Sized, rows)) for name, rows in val.items()} or None

    @property
    def described(self) -> dict[str, Any]:
        """A fingerprint of all sets and their weights, and the sums of their numbers."""
        parts = [[name, str(self.sets[name]["weight"]), part.folder.name] for name, part in self.parts.items()]
        sums = {
            split: {key: sum(part.meta[split][key] for part in self.parts.values()) for key in ("documents", "tokens")}
            for split in ("train", "val")
        }
        return {"fingerprint": hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16], **sums}
