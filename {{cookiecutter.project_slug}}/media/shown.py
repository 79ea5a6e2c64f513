"""A model that is shown the media of one row: to lm.inference.generate it is a model of text alone."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
