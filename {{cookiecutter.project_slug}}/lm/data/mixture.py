"""Several data sets at once, by weight, with one tokenizer for all."""

from collections.abc import Mapping
from typing import Any

from harness.data import layout
from harness.data.layout import APART
from harness.data.mixture import described_sets, mix
from harness.data.sets import weights_of
from lm.data.datamodule import LmData, windows
from lm.data.prepare import Prepared, Recipe
from lm.data.sets import prepare_sets
from lm.data.tokenizer import TokenizerChoice


class MixtureData(LmData):
    """Rows of each of `sets` by its weight, in epochs of its own; validation has a loss for each.

    sets: {name: {data: …, weight: …, and options of that data config}}. The rest is as for one set.
    """

    def __init__(self, sets: Mapping[str, Mapping[str, Any]], **arguments: Any) -> None:
        super().__init__(None, **arguments)  # type: ignore[arg-type]  # the sets have sources
        self.sets = sets

    def connect(self, *, vocab_size: int, context: int, seed: int, **_: Any) -> None:  # type: ignore[override]
        self.seed = seed
        recipe = Recipe(vocab_size, self.val_fraction, seed, self.limit)
        folder, self.parts = prepare_sets(self.sets, recipe, self.folder, self.choice or TokenizerChoice())
        self.take(Prepared(folder, {"sets": {name: part.meta for name, part in self.parts.items()}}), context)
        held_out = {name: part for name, part in self.parts.items() if part.meta["val"]["tokens"]}
        train, val = (
            {name: windows(part, split, context, packing=self.packing) for name, part in parts.items()}
            for split, parts in (("train", self.parts), ("val", held_out))
        )
        if self.packing in APART:
            for part in self.parts.values():
                layout.refuse_unended(part, "train", self.special_ids["eos_token_id"])
        mix(self, train, val, weights_of(self.sets))

    @property
    def described(self) -> dict[str, Any]:
        return described_sets(self.parts, self.sets, ("documents", "tokens"))
