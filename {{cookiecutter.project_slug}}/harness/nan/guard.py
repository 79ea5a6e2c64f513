"""Clip the gradients and skip a bad optimizer step, decided and applied on the device: the host never waits.

    gate = StepGate(optimizer)
    with gate:                                      # around optimizer.step(closure)
        ...                                         # the closure: forward, backward, and then
        decision = guard.decide(total_norm(...))
        gate.set(decision)

A fused optimizer takes both decisions through `grad_scale` and `found_inf`, the two attributes that torch's own loss
scaler uses: weights, moments and step counters of a skipped step stay as they were, at no cost. Any other optimizer
is stepped and put back by `torch.where`, never by a product: 0 * nan is nan.
"""

import copy
import logging
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.optim import Optimizer

from harness.distributed import norm_of_all, own_part

log = logging.getLogger(__name__)

# A limit of infinity would let an infinite norm pass, since inf <= inf.
LARGEST = torch.finfo(torch.float32).max
# Adaptive limit: how many steps it must have seen, over how many it remembers, and the narrowest spread it believes.
# With the floor a norm may always be exp(6 * 0.25) = 4.5 times the usual one.
WARMUP, MEMORY, SMALLEST_SIGMA = 20, 128, 0.25


def total_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the 2-norm over all gradients as one float32 scalar on their device; non-finite if any gradient is."""
    return norm_of_all([p.grad for p in parameters if p.grad is not None]).float()


@dataclass(frozen=True)
class StepDecision:
    """What one optimizer step does, as scalars on the device."""

    norm: Tensor  # of the true gradient, before clipping
    limit: Tensor  # the largest norm that is not skipped
    skip: Tensor  # bool
    grad_scale: Tensor  # what the stored gradients are divided by


class Guard:
    """Judge each step by the norm of its gradient.

    max_grad_norm: longer gradients are shortened to this; None or 0 for no clipping.
    skip_above: a step whose norm before clipping is larger, or not finite, is skipped, and so is one whose loss is not
        finite. A number; None or 0 for no limit but finiteness; or "adaptive":
        `sigmas` standard deviations of the log-norm above its running mean, over finite steps that were not skipped.
    """

    def __init__(
        self, max_grad_norm: float | None = None, skip_above: float | str | None = None, sigmas: float = 6.0
    ) -> None:
        self.max_grad_norm = max_grad_norm or math.inf
        self.adaptive = skip_above == "adaptive"
        self.fixed_limit = LARGEST if self.adaptive else min(float(skip_above or math.inf), LARGEST)
        self.sigmas = sigmas
        self.statistics = torch.zeros(3)  # steps counted, mean and variance of log-norm
        self._fixed: Tensor | None = None

    @torch.no_grad()
    def decide(self, norm: Tensor, factor: Tensor | float = 1.0, loss: Tensor | None = None) -> StepDecision:
        """Judge one step. The true gradient is `factor` times the stored one, whose norm is given."""
        true_norm = norm * factor
        limit = self._limit(true_norm.device)
        skip = ~(true_norm <= limit)  # this way round, nan is skipped too
        if loss is not None:  # a loss can be NaN while its gradient is finite: torch.where, a constant, a clamp
            skip = skip | ~loss.isfinite().to(skip.device)
        if self.adaptive:
            self._learn(true_norm, ~skip & (true_norm > 0))
        grad_scale = (true_norm / self.max_grad_norm).clamp(min=1.0) / factor
        return StepDecision(true_norm, limit, skip, grad_scale)

    def _limit(self, device: torch.device) -> Tensor:
        if not self.adaptive:
            if self._fixed is None or self._fixed.device != device:
                self._fixed = torch.full((), self.fixed_limit, device=device)
            return self._fixed
        self.statistics = self.statistics.to(device, non_blocking=True)
        count, mean, variance = self.statistics
        limit = torch.exp(mean + self.sigmas * variance.sqrt().clamp(min=SMALLEST_SIGMA)).clamp(max=LARGEST)
        return torch.where(count >= WARMUP, limit, LARGEST)

    def _learn(self, norm: Tensor, believe: Tensor) -> None:
        """Welford's running mean and variance, which forgets exponentially once it has seen MEMORY steps."""
        count, mean, variance = self.statistics
        weight = 1 / (count + 1).clamp(max=MEMORY)
        delta = norm.log() - mean
        learnt = torch.stack([count + 1, mean + weight * delta, (1 - weight) * (variance + weight * delta**2)])
        self.statistics = torch.where(believe, learnt, self.statistics)

    def state_dict(self) -> dict[str, list[float]]:
        return {"statistics": self.statistics.tolist()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        self.statistics = torch.tensor(state["statistics"])


class StepGate:
    """Let one optimizer step pass, scaled, or hold it back. Use one gate for the life of an optimizer.

    An optimizer without a fused kernel is copied (parameters and state) before each step, and one that keeps
    counters on the host makes it wait for the decision. Fused AdamW, the default, pays neither.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.fused = kernel_obeys(optimizer)
        if not self.fused:
            size = sum(p.numel() * p.element_size() for p in self._parameters()) / 1e6
            name = type(optimizer).__name__
            log.info(
                "%s cannot skip a step by itself: weights (%.3g MB) and moments are copied before each.", name, size
            )
        self._skip: Tensor | None = None
        self._before: list[tuple[Tensor, Tensor | None, dict[str, Any]]] = []

    def __enter__(self) -> Self:
        self._skip = None
        states, parameters = self.optimizer.state, self._parameters()
        if not self.fused:
            self._before = [(p, p.detach().clone(), _copy(states.get(p, {}))) for p in parameters]
        elif len(states) < len(parameters) or not all(states.values()):
            # Only state that this step will create: torch's fused SGD leaves a held back momentum uninitialised.
            self._before = [(p, None, {}) for p in parameters if not states.get(p)]
        return self

    @torch.no_grad()
    def set(self, decision: StepDecision) -> None:
        """Call between backward and the optimizer's own step."""
        self._skip = decision.skip
        if self.fused:
            # Dividing by one would write every gradient anew. Only a CPU can be asked without waiting for it.
            if decision.grad_scale.device.type != "cpu" or decision.grad_scale != 1:
                self.optimizer.grad_scale = decision.grad_scale  # type: ignore[attr-defined]
            self.optimizer.found_inf = decision.skip.float()  # type: ignore[attr-defined]
        else:
            gradients = [own_part(p.grad) for p in self._parameters() if p.grad is not None]
            torch._foreach_div_(gradients, decision.grad_scale)

    def __exit__(
        self, error: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        before, self._before = self._before, []
        for name in ("grad_scale", "found_inf"):
            self.optimizer.__dict__.pop(name, None)
        if error is not None or self._skip is None:
            return
        for parameter, old, old_state in before:
            if old is not None:
                _put_back(parameter, old, self._skip)
            _put_back_state(self.optimizer.state.get(parameter, {}), old_state, self._skip)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}


@torch.no_grad()
def _put_back(new: Tensor, old: Tensor, skip: Tensor) -> None:
    new, old = own_part(new), own_part(old)
    new.copy_(torch.where(skip.to(new.device), old, new))


def _put_back_state(state: dict[str, Any], old: dict[str, Any], skip: Tensor) -> None:
    for name, value in state.items():
        if isinstance(value, Tensor):
            # State that this very step created starts from zeros, as in every optimizer of torch.
            _put_back(value, old.get(name, torch.zeros_like(value)), skip)
        elif value is not old.get(name, 0) and bool(skip):
            state[name] = old.get(name, 0)


def kernel_obeys(optimizer: Optimizer) -> bool:
    """Try on one number whether the fused kernel divides by `grad_scale` and holds still on `found_inf`.

    Asking beats a version table: on MPS the kernel took both and ignored them until pytorch#186360.
    """
    groups = optimizer.param_groups
    if not all(group.get("fused") for group in groups):
        return False
    like = groups[0]["params"][0]

    def stepped(*plan: tuple[float, float, float]) -> Tensor:
        parameter = torch.ones(1, device=like.device, dtype=like.dtype, requires_grad=True)
        probe = copy.copy(optimizer)  # without its step hooks, which are not ours to call
        probe.state = defaultdict(dict)
        probe.param_groups = [{**groups[0], "params": [parameter], "lr": 0.1}]  # in warm-up its own lr may be 0
        for gradient, grad_scale, found_inf in plan:
            parameter.grad = torch.full_like(parameter, gradient)
            probe.grad_scale = torch.full((), grad_scale, dtype=torch.float32, device=like.device)  # type: ignore[attr-defined]
            probe.found_inf = torch.full((), found_inf, dtype=torch.float32, device=like.device)  # type: ignore[attr-defined]
            probe.step()
        return parameter.detach()

    # Two different scales, since Adam's step does not change when every gradient is scaled alike.
    divides = torch.equal(stepped((1, 4, 0), (1, 1, 0)), stepped((0.25, 1, 0), (1, 1, 0)))
    return divides and torch.equal(stepped((1, 1, 0), (math.nan, 1, 1)), stepped((1, 1, 0)))
