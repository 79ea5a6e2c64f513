"""What a batch of a language model is, said once.

    input_ids  (B, T) int64  the tokens
    labels     (B, T) int64  the same tokens where the loss counts them, else NO_LABEL; the loss shifts them
    more keys                go to the model as they are (attention_mask, position_ids, pixel_values, …), row first

B rows, T positions, V vocabulary. The loader makes batches, `model_inputs` hands them to the model, and what the
harness wants to know of them (how large, what is in them, how to show one) is `TokenBatch`.
"""

from typing import Any, NoReturn

from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.batch import Batch
from harness.errors import UserError
from harness.sequences import NO_LABEL, SequenceBatch

__all__ = ["NO_LABEL", "TokenBatch", "logits_of", "model_inputs"]


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Return the logits (B, T, V) of a batch. transformers would build a key-value cache, which nothing here reads."""
    options = {"use_cache": False} if isinstance(model, PreTrainedModel) else {}
    output = model(**model_inputs(batch), **options)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


def model_inputs(batch: Batch) -> dict[str, Any]:
    """Return the arguments of the model's forward pass: all keys but the labels, whose loss is ours."""
    return {name: value for name, value in batch.items() if name != "labels"}


class TokenBatch(SequenceBatch):
    """`vocab_size` is the model's; `show` is how many predictions an event has beside their labels."""

    unit = "tokens"

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, show: int = 16) -> None:
        super().__init__(vocab_size, show)
        self.tokenizer = tokenizer

    def show(self, batch: Batch) -> list[str]:
        return [self.tokenizer.decode(ids, skip_special_tokens=False) for ids in batch["input_ids"].tolist()]

    def explain(self, numbers: list[float]) -> dict[str, Any]:
        facts = super().explain(numbers)
        for side in ("predicted", "expected"):
            facts[side]["text"] = self.tokenizer.decode(facts[side]["ids"])
        return facts

    def refuse(self, name: str, row: int, position: int, number: int) -> NoReturn:
        allowed = f"0 to {self.classes - 1}{', or -100 for no label' * (name == 'labels')}"
        raise UserError(
            f"{name}[{row}, {position}] is {number}, but the model's vocabulary has {self.classes} tokens ({allowed}).",
            cure="The data were tokenized for another model: set model.config.vocab_size, or prepare them again.",
        )
