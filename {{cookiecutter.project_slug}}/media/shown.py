"""A model that is shown the media of one row: to lm.inference.generate it is a model of text alone."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.console import pieces
from lm.batch import NO_LABEL
from lm.data.tokenizer import end_of_text
from lm.inference.generate import sample
from media.kinds import KINDS


class Shown(nn.Module):
    """Reads rows that begin with the tokens of `row`, and remembers what it has read of the last one."""

    def __init__(self, model: nn.Module, row: dict[str, Tensor]) -> None:
        super().__init__()
        self.model = model
        self.media = {kind: row[kind][None] for kind in KINDS if kind in row}
        self.at = {kind: row[f"{kind}_at"][None] for kind in self.media}
        self.read, self.cache = torch.empty(1, 0), None

    @property
    def config(self) -> Any:
        return self.model.config

    def forward(self, input_ids: Tensor) -> Any:
        """Return what the model does with what is new in `input_ids` (1, T)."""
        known = self.read.shape[1]
        if self.cache is None or not torch.equal(input_ids[:, :known], self.read):
            known, self.cache = 0, None
        inputs: dict[str, Any] = {"input_ids": input_ids[:, known:], "past_key_values": self.cache, "use_cache": True}
        if not known:  # media stand in the prompt alone, which is read first
            length, device = input_ids.shape[1], input_ids.device
            for kind, media in self.media.items():
                at = F.pad(self.at[kind], (0, max(0, length - self.at[kind].shape[1])), value=-1)[:, :length]
                inputs |= {kind: media.to(device), f"{kind}_at": at.to(device)}
        output = self.model(**inputs)
        self.read, self.cache = input_ids, output.past_key_values
        return output


def answer(model: Any, tokenizer: Any, row: dict[str, Tensor], *, max_tokens: int) -> tuple[str, str]:
    """Return the answer of a row of one document, and what the model says instead, taking the most likely token."""
    counted = (row["labels"] != NO_LABEL).nonzero().flatten().tolist()
    start = counted[0] if counted else len(row["labels"])
    truth = tokenizer.decode(row["labels"][counted].tolist())
    shown, context = Shown(model, row), len(row["input_ids"])
    prompt, training = row["input_ids"][:start].tolist(), [part for part in model.modules() if part.training]
    model.eval()
    try:
        room = {"max_tokens": min(max_tokens, context - start), "context": context + 1, "temperature": 0.0}
        ids = sample(shown, prompt, stop=end_of_text(tokenizer, model), **room)
        return truth, "".join(pieces(tokenizer.decode, ids))
    finally:
        for part in training:
            part.training = True
