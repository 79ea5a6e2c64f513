"""Multiple-choice questions, answered with the ending that the model finds most likely: while training, and after."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from tokenizers import Tokenizer
from torch import Tensor

from harness.callbacks.at_validation import AtValidation
from harness.data.choices import Question, Score, graded, read_questions
from harness.errors import UserError
from lm.batch import NO_LABEL

log = logging.getLogger(__name__)

Forward = Callable[[dict[str, Tensor]], Tensor]  # from a batch (lm/batch.py) to its logits (B, T, V)


class Choices(AtValidation):
    """Answers the questions of the file `path` at each validation: val/choices_acc and val/choices_acc_norm."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.questions = read_questions(Path(path))

    def measure(self, trainer: Trainer, module: Any) -> dict[str, float]:
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning
        how = {"context": data.context, "batch_size": data.batch_size}
        score = answered(module, module.tokenizer, self.questions, module.device, **how)
        log.info("Step %d: %s", trainer.global_step, score)
        return {"choices_acc": score.accuracy, "choices_acc_norm": score.accuracy_norm}


@torch.no_grad()
def answered(
    forward: Forward,
    tokenizer: Tokenizer,
    questions: list[Question],
    device: torch.device,
    *,
    context: int,
    batch_size: int = 8,
) -> Score:
    """Return how many questions are answered right. Raises UserError where the model's output is not finite."""
    pairs = [encoded(tokenizer, question.ctx, ending) for question in questions for ending in question.endings]
    sums: list[float] = []
    for start in range(0, len(pairs), batch_size):
        sums += log_likelihoods(forward, pairs[start:][:batch_size], device, context)
    return graded(questions, sums, cut=sum(len(ids) > context for ids, _ in pairs))


def encoded(tokenizer: Tokenizer, ctx: str, ending: str) -> tuple[list[int], int]:
    """Return the tokens of a question with one ending, and how many of them are the ending's. Where a token would reach
    across, what the context alone has fewer tokens counts for the ending."""
    ctx = ctx.rstrip()
    whole, before = (tokenizer.encode(text, add_special_tokens=False).ids for text in (f"{ctx} {ending}", ctx))
    return whole, len(whole) - len(before)


def log_likelihoods(
    forward: Forward, pairs: list[tuple[list[int], int]], device: torch.device, context: int
) -> list[float]:
    """Return for each of `pairs` (tokens, how many at its end count) the sum of their log-likelihoods in nats."""
    rows = [(ids[-context:], count) for ids, count in pairs]
    length = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)  # padded at the right, where nothing looks
    labels = torch.full_like(ids, NO_LABEL)
    for row, (tokens, count) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, max(1, len(tokens) - count) : len(tokens)] = torch.tensor(tokens)[max(1, len(tokens) - count) :]
    batch = {"input_ids": ids.to(device), "labels": labels.to(device)}
    logits = forward(batch)[:, :-1].float()  # (B, T-1, V)
    targets = batch["labels"][:, 1:]
    sums = -F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=NO_LABEL, reduction="none").sum(1)
    if not sums.isfinite().all():
        raise UserError("The model's output is not finite.", cure="docs/nan.md says how it comes about.")
    return sums.tolist()
