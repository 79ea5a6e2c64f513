"""Does it look, does it listen? The loss of held-out documents with their own media, and with another document's.

Where swapping changes nothing, the model does not use what it is shown (perceptual score: Gat, Schwartz and Schwing,
2021). Each kind by itself: a dead one hides behind the mean.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.batch import Batch
from lm.batch import NO_LABEL

Forward = Callable[[Batch], Tensor]  # from a batch (lm/batch.py) to its logits (B, T, V)


class Answered(NamedTuple):
    """own, other: mean loss of a document in nats, with its own media and with another document's. right: the share of
    documents whose answer the model would give word for word, choosing the most likely token each time."""

    documents: int
    own: float
    other: float
    right: float

    def __str__(self) -> str:
        return (
            f"{self.own:.3f} nats a document with its own, {self.other:.3f} with another document's; "
            f"{self.right:.0%} of {self.documents:,} answers right word for word"
        )


@torch.no_grad()
def answered(
    forward: Forward, rows: Sequence[dict[str, Tensor]], kind: str, device: torch.device, *, batch_size: int = 8
) -> Answered:
    """Score rows of one document each, as `MediaData.held_out(kind)` has them; at least two."""
    away = len(rows) // 2  # neighbours may well show the same thing
    sums = torch.zeros(3)
    for start in range(0, len(rows), batch_size):
        numbers = range(start, min(start + batch_size, len(rows)))
        batch = {name: torch.stack([rows[i][name] for i in numbers]).to(device) for name in rows[0]}
        others = torch.stack([rows[(i + away) % len(rows)][kind] for i in numbers]).to(device)
        own, right = _scored(forward, batch)
        other, _ = _scored(forward, {**batch, kind: others})
        sums += torch.stack([own.sum(), other.sum(), right.sum()]).float().cpu()
    own_mean, other_mean, share = (sums / len(rows)).tolist()
    return Answered(len(rows), own_mean, other_mean, share)


def _scored(forward: Forward, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the loss of each row in nats and whether its labels are the most likely tokens, (B,) each. The answer that
    the model would give is right exactly if each of its tokens is the most likely one after the right ones before."""
    logits, targets = forward(batch)[:, :-1].float(), batch["labels"][:, 1:]
    losses = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=NO_LABEL, reduction="none")
    return losses.sum(dim=1), ((logits.argmax(dim=-1) == targets) | (targets == NO_LABEL)).all(dim=1)
