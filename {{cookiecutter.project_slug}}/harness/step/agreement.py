"""How ranks agree that one of them has run out of memory, and how their gradients meet from then on.

DistributedDataParallel exchanges gradients bucket by bucket while the backward pass still computes. A rank whose memory
ends in the middle leaves the others waiting in an exchange that it will not begin. So it takes part with zeros, as
torch's own `Join` does for a rank without data, and then all say on the host whether they came through: one number a
step, and no device is waited for. If one did not, all do the window again in pieces. A pass that may break off should
not have an exchange in it, so gradients are averaged after it from then on: slower, for nothing overlaps any more.
"""

from collections.abc import Iterable
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel


class MemoryAgreement:
    """Of all ranks of a Trainer; every method but `among` is called by all of them at the same place."""

    def __init__(self, strategy: Any, module: LightningModule) -> None:
        self._strategy, self._module = strategy, module
        self._exchanged = 0  # buckets of this window that have been
        # Of its own, for NCCL knows no host.
        self._host = distributed.new_group(backend="gloo")
        strategy.model.register_comm_hook(None, self._exchange)

    @classmethod
    def among(cls, trainer: Trainer) -> Self | None:
        """Return the agreement of a training by plain DistributedDataParallel, None for any other."""
        strategy: Any = trainer.strategy
        ddp, module = strategy.model, trainer.lightning_module
        if trainer.world_size == 1 or not isinstance(ddp, DistributedDataParallel) or module is None:
            return None
        if ddp.find_unused_parameters or ddp.static_graph or strategy._ddp_comm_hook is not None:
            return None  # other exchanges than one of each bucket
        return cls(strategy, module)

    def one_failed(self, failed: bool) -> bool:
        """Say whether any rank has run out of memory in this window, whose last backward pass is over or broke off."""
        ddp = self._strategy.model
        if failed and isinstance(ddp, DistributedDataParallel):
            for bucket in ddp.reducer._get_zeros_like_grad_buckets()[self._exchanged :]:
                ddp.reducer._run_comm_hook(bucket).wait()
        self._exchanged = 0
        answer = torch.tensor(int(failed))
        distributed.all_reduce(answer, distributed.ReduceOp.MAX, group=self._host)
        return bool(answer)

    def exchange_afterwards(self) -> None:
        """Take DistributedDataParallel away: what it has begun in a pass that broke off, it cannot begin again."""
        self._strategy.model = self._module

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Let every rank have the mean of all ranks' gradients."""
        gradients = []
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients.append(parameter.grad)
        for work in [distributed.all_reduce(gradient, async_op=True) for gradient in gradients]:
            work.wait()
        torch._foreach_div_(gradients, distributed.get_world_size())

    def _exchange(self, _: None, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
        self._exchanged += 1
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]  # None: all ranks
