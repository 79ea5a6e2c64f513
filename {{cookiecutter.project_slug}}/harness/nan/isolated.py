"""One micro-batch by itself: what it adds to the gradients is taken back where it is not finite."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.nan.guard import total_norm


@contextmanager
def isolated(parameters: Iterable[nn.Parameter], loss: Tensor) -> Iterator[list[Tensor]]:
    """Take back, on the device, what the block adds to the gradients where they or `loss` are not finite. Yields a list
    that then holds one bool tensor: were they?"""
    learning, said = [p for p in parameters if p.requires_grad], list[Tensor]()
    before = [None if p.grad is None else p.grad.clone() for p in learning]
    yield said
    good = total_norm(learning).isfinite() & loss.detach().isfinite()
    for parameter, old in zip(learning, before, strict=True):
        if parameter.grad is not None:
            parameter.grad = torch.where(good, parameter.grad, 0.0 if old is None else old)
    said.append(good)
