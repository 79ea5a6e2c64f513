"""The data of a language model: documents prepared once into token files, seen as windows of the model's context."""

from collections.abc import Sized
from pathlib import Path
from typing import Any, Literal, cast

from tokenizers import Tokenizer
from torch import Tensor

from harness.batch import Batch
from harness.data import layout
from harness.data.exact import ExactData
from harness.data.layout import APART, Packing
from harness.errors import UserError
from harness.sequences import collate
from lm.data.prepare import Prepared, Recipe, prepare
from lm.data.sources import Source
from lm.data.tokenizer import TokenizerChoice
from lm.data.windows import Rows

__all__ = ["LmData", "collate", "windows"]


class LmData(ExactData):
    """Batches as lm/batch.py describes them, (B, T), from a source of documents.

    packing: documents follow one another in a window (true), there without seeing one another (document), or placed
    whole so that little is padded (best_fit); false gives each a row, cut or padded. limit, val_fraction,
    validation, tokenizer: see prepare.py. prepared: the folder of prepared folders.
    """

    prepared: Prepared
    tokenizer: Tokenizer

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int | Literal["auto"],
        num_workers: int = 0,
        packing: Packing = True,
        limit: int | float | None = None,
        val_fraction: float = 0.05,
        validation: Source | None = None,
        tokenizer: TokenizerChoice | None = None,
        prepared: str = "prepared",
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        self.source = source
        self.packing = packing
        self.limit = limit
        self.val_fraction = val_fraction
        self.validation = validation
        self.choice = tokenizer
        self.folder = Path(prepared)

    def connect(self, *, vocab_size: int, context: int, seed: int, **_: Any) -> None:  # type: ignore[override]
        """Prepare the data, or find them prepared, and refuse what is too little for one batch."""
        self.seed = seed
        recipe = Recipe(vocab_size, self.val_fraction, seed, self.limit)
        how = {"choice": self.choice, "validation": self.validation}
        self.open(prepare(self.source, recipe, self.folder, **how), context)  # type: ignore[arg-type]
        if len(cast(Sized, self.train_set)) < self.batch_size:
            raise UserError(
                f"The training text has {self.prepared.meta['train']['tokens']:,} tokens, "
                f"fewer than one batch of {self.batch_size} x {context}.",
                cure="Use more text, or lower data.batch_size.",
            )

    def open(self, prepared: Prepared, context: int) -> None:
        """See a prepared folder as windows of `context` tokens."""
        self.take(prepared, context)
        self.train_set = windows(prepared, "train", context, packing=self.packing)
        if self.packing in APART:
            layout.refuse_unended(prepared, "train", self.special_ids["eos_token_id"])
        held_out = prepared.meta["val"]["tokens"] > 0
        self.val_set = windows(prepared, "val", context, packing=self.packing) if held_out else None

    def take(self, prepared: Prepared, context: int) -> None:
        """Know what a model, a checkpoint and a person will ask for."""
        self.prepared, self.tokenizer, self.context = prepared, prepared.tokenizer, context
        self.special_ids, self.tokenizer_files = prepared.special_ids, prepared.tokenizer_files

    @property
    def described(self) -> dict[str, Any]:
        """The prepared folder and its numbers."""
        return {"fingerprint": self.prepared.folder.name, **self.prepared.meta}

    def collate(self, rows: list[dict[str, Tensor]]) -> Batch:
        return collate(rows, self.batch_size)


def windows(prepared: Prepared, split: str, context: int, *, packing: Packing = True) -> Rows:
    """Return one split as rows of `context` tokens, and say what is cut and padded.

    Where windows go across documents, training drops the last tokens that fill none; validation pads and keeps them.
    """
    chosen = layout.choose(packing, prepared, split, context, keep_last=split == "val")
    return Rows(prepared.numbers(split), prepared.dtype, chosen, loss_mask=prepared.loss_mask(split))
