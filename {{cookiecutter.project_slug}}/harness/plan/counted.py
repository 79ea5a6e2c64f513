"""One step of tensors without content: what it would keep in memory and compute, on hardware that need not be here.

torch's FakeTensorMode runs the experiment's own model, loss, autocast and optimizer on tensors that have a shape, a
type and no memory. What they would take is added up as they come and go. They pretend to be on a CPU; a GPU's kernels
may keep less (attention with dropout) or more (workspace).
"""

import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from harness.data.exact import ExactData
from harness.hardware import assuming, best_device, devices
from harness.module import GuardedModule
from harness.plan.amounts import Found

TYPES = {"16": torch.float16, "bf16": torch.bfloat16, "32": torch.float32, "64": torch.float64}


@contextmanager
def without_content(cfg: DictConfig) -> Iterator[None]:
    """Let every tensor be one without content, nothing be compiled, and the device that `cfg` asks for be here."""
    asked = {"gpu": "cuda"}.get(str(cfg.trainer.accelerator), str(cfg.trainer.accelerator))
    with ExitStack() as stack:
        if (device := best_device() if asked == "auto" else asked) in devices():
            stack.enter_context(assuming(device))  # nor is it measured
        kind, _, how = str(cfg.trainer.get("precision")).partition("-")
        if how == "true":  # a mixed one, and auto, keep weights in float32
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(TYPES[kind])
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


class Counting:
    """Stands where Lightning's Trainer would, and takes its arguments; `fit` counts a step and raises what it found."""

    def __init__(self, callbacks: Any = (), accelerator: str = "auto", **arguments: Any) -> None:
        self.callbacks = list(callbacks)
        self.loggers: list[Any] = []
        self.strategy = arguments.get("strategy")
        self.device = {"gpu": "cuda"}.get(accelerator, accelerator)
        self.precision = str(arguments.get("precision", "16-mixed"))  # else a plugin of ours has it
        self.accumulate = int(arguments.get("accumulate_grad_batches") or 1)
        self.limit_val_batches: Any = None

    def fit(self, module: GuardedModule, data: ExactData, **options: Any) -> None:
        kind, _, how = self.precision.partition("-")
        autocast = torch.autocast("cpu", TYPES.get(kind, torch.bfloat16), enabled=how == "mixed")
        sizes, operations = count(module, batch_of(data), self.accumulate, autocast)
        raise Found(
            module, data, self.callbacks, self.device, self.precision,
            memory=sizes,
            checkpoint_bytes=sizes["weights"] + sizes["moments"],
            parameters=sum(p.numel() for p in module.parameters()),
            trainable=sum(p.numel() for p in module.parameters() if p.requires_grad),
            operations=operations,
        )  # fmt: skip


def count(module: GuardedModule, batch: Any, accumulate: int, autocast: Any) -> tuple[dict[str, int], float]:
    """Return bytes at the peak of an optimizer step, by part, and the floating-point operations of one."""
    optimizers = [leaf for leaf in tree_iter(module.configure_optimizers()) if isinstance(leaf, Optimizer)]
    weights = sum(map(bytes_of, states(module)))
    module.train()
    # Below what the harness wraps around it, which needs a Trainer.
    step: Callable[..., Tensor] = inspect.unwrap(type(module).training_step)
    operations = FlopCounterMode(display=False)
    with Tally() as tally:
        # The second step has the moments that the first one made, and no counter that holds on to what it counts.
        for counting in (operations, nullcontext()):
            tally.peak = tally.now
            for optimizer in optimizers:
                optimizer.zero_grad()
            with counting:
                for micro_batch in range(min(accumulate, 2)):  # from the second on, gradients are there already
                    with autocast:
                        loss = step(module, batch, micro_batch)
                    loss.backward()
                    del loss
            gradients = sum(bytes_of(p.grad) for p in module.parameters() if p.grad is not None)
            for optimizer in optimizers:
                before = tally.peak
                optimizer.step()
                if any(group.get("fused") for group in optimizer.param_groups):
                    tally.peak = before  # in place; without content it is done in copies
    moments = sum(bytes_of(value) for o in optimizers for state in o.state.values() for value in state.values())
    rest = tally.peak - gradients - moments
    sizes = {"weights": weights, "gradients": gradients, "moments": moments, "activations": max(0, rest)}
    return sizes, operations.get_total_flops() / min(accumulate, 2) * accumulate


class Tally(TorchDispatchMode):
    """Adds up the memory of tensors that are made while it is entered, until they are gone. `peak` is the most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        known = {id(leaf.untyped_storage()) for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_iter(made):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in known:  # else it is a view of an argument
                self._add(leaf.untyped_storage())
        return made

    def _add(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size


def batch_of(data: ExactData) -> Any:
    """Return a batch as the loader would give it, without content."""
    with unset_fake_temporarily():
        batch = data.collate([data.train_set[index] for index in range(data.batch_size)])
    return tree_map_only(Tensor, torch.empty_like, batch)


def states(module: nn.Module) -> list[Tensor]:
    """Return parameters and buffers, tied ones once."""
    return [*module.parameters(), *module.buffers()]


def bytes_of(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0
