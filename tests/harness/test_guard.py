import math

import pytest
import torch
from torch import Tensor

from harness.nan.guard import Guard, StepGate, kernel_obeys, total_norm

OPTIMIZERS = {
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "fused SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
}


def parameters() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(3))]


def step(gate: StepGate, guard: Guard, gradients: list[Tensor], factor: float = 1.0) -> bool:
    """One guarded step; says whether it was skipped."""
    params = [p for group in gate.optimizer.param_groups for p in group["params"]]
    with gate:
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = gradient.clone()
        verdict = guard.decide(total_norm(params), factor)
        gate.set(verdict)
        gate.optimizer.step()
    return bool(verdict.skip)


def everything(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = [v for p in params for v in optimizer.state.get(p, {}).values() if isinstance(v, Tensor)]
    return [t.detach().clone() for t in [*params, *state]]


def gradients(seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 3, generator=generator) * scale, torch.randn(3, generator=generator) * scale]


def poisoned(value: float, *, one_element: bool) -> list[Tensor]:
    first, second = gradients(7)
    if one_element:
        second[1] = value
        return [first, second]
    return [torch.full_like(first, value), torch.full_like(second, value)]


@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e6])
@pytest.mark.parametrize("one_element", [True, False])
def test_a_skipped_step_leaves_weights_moments_and_counters_as_they_were(build, value, one_element):
    gate = StepGate(build(parameters()))
    guard = Guard(max_grad_norm=1.0, skip_above=100.0)
    assert not step(gate, guard, gradients(1))
    before = everything(gate.optimizer)
    assert step(gate, guard, poisoned(value, one_element=one_element))
    for old, new in zip(before, everything(gate.optimizer), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_run_whose_first_step_was_poisoned_goes_on_like_one_without_it(build):
    plain, hurt = StepGate(build(parameters())), StepGate(build(parameters()))
    assert step(hurt, Guard(1.0, 100.0), poisoned(math.nan, one_element=False))
    for seed in range(3):
        step(plain, Guard(1.0, 100.0), gradients(seed))
        step(hurt, Guard(1.0, 100.0), gradients(seed))
    for a, b in zip(everything(plain.optimizer), everything(hurt.optimizer), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_clipping_equals_torchs_own(build, scale):
    ours, theirs = build(parameters()), build(parameters())
    for seed in range(5):
        step(StepGate(ours), Guard(1.0, 100.0), gradients(seed, scale))
        params = [p for group in theirs.param_groups for p in group["params"]]
        for p, gradient in zip(params, gradients(seed, scale), strict=True):
            p.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        theirs.step()
    torch.testing.assert_close(everything(ours), everything(theirs), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [0, 0.0, None])
@pytest.mark.parametrize("norm", [1e-3, 1e3])
def test_without_a_largest_norm_nothing_is_clipped(limit, norm):
    decision = Guard(limit).decide(torch.tensor(norm))
    assert decision.grad_scale == 1 and not decision.skip


@pytest.mark.parametrize(("scale", "factor", "divided"), [(0.01, 1.0, False), (10.0, 1.0, True), (0.01, 2.0, True)])
def test_a_gradient_that_needs_no_change_is_not_written_anew(scale: float, factor: float, divided: bool) -> None:
    optimizer = torch.optim.AdamW(parameters(), fused=True)
    seen = []
    optimizer.register_step_pre_hook(lambda opt, *_: seen.append(hasattr(opt, "grad_scale")))
    assert not step(StepGate(optimizer), Guard(1.0, 100.0), gradients(1, scale), factor)
    assert seen == [divided]


def test_the_factor_is_part_of_the_norm_and_of_the_update():
    ours, theirs = (torch.optim.SGD(parameters(), lr=0.1, fused=True) for _ in range(2))
    step(StepGate(ours), Guard(max_grad_norm=1e9, skip_above=1e9), gradients(1), factor=3.0)
    step(StepGate(theirs), Guard(max_grad_norm=1e9, skip_above=1e9), gradients(1, 3.0))
    torch.testing.assert_close(everything(ours), everything(theirs))
    verdict = Guard(1.0, 100.0).decide(torch.tensor(40.0), 3.0)
    assert verdict.norm == 120 and verdict.skip


def test_only_a_fused_kernel_that_obeys_is_trusted():
    class Deaf(torch.optim.AdamW):
        """Takes both attributes and ignores them, as torch did on MPS before pytorch#186360."""

        def step(self, closure=None):
            del self.grad_scale, self.found_inf
            return super().step(closure)

    assert kernel_obeys(torch.optim.AdamW(parameters(), fused=True))
    assert not kernel_obeys(torch.optim.AdamW(parameters(), fused=False))
    assert not kernel_obeys(Deaf(parameters(), fused=True))
    optimizer = Deaf(parameters(), fused=False)
    optimizer.param_groups[0]["fused"] = True
    assert not kernel_obeys(optimizer)


def test_asking_the_kernel_touches_nothing():
    optimizer = torch.optim.AdamW(parameters(), fused=True)
    before = everything(optimizer)
    kernel_obeys(optimizer)
    assert not optimizer.state
    assert all(torch.equal(a, b) for a, b in zip(before, everything(optimizer), strict=True))


def test_an_error_in_the_step_leaves_no_verdict_behind():
    optimizer = torch.optim.AdamW(parameters(), fused=True)
    gate = StepGate(optimizer)
    with pytest.raises(ZeroDivisionError), gate:
        gate.set(Guard().decide(torch.tensor(math.nan)))
        raise ZeroDivisionError
    assert not hasattr(optimizer, "found_inf") and not hasattr(optimizer, "grad_scale")


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_without_a_limit_a_non_finite_norm_is_still_skipped(norm):
    assert Guard().decide(torch.tensor(norm)).skip
    assert not Guard().decide(torch.tensor(3e38)).skip


def decide_all(guard: Guard, norms: list[float]) -> list[bool]:
    return [bool(guard.decide(torch.tensor(norm)).skip) for norm in norms]


def usual_norms(count: int) -> list[float]:
    """Log-normal with sigma 0.3 around 2."""
    return (2 * torch.exp(0.3 * torch.randn(count, generator=torch.Generator().manual_seed(0)))).tolist()


def test_the_adaptive_limit_lets_the_usual_pass_and_stops_a_spike():
    guard = Guard(skip_above="adaptive")
    assert not any(decide_all(guard, usual_norms(500)))
    # exp(6 * 0.3) * 2 = 12.1
    assert decide_all(guard, [8.0, 30.0, 8.0]) == [False, True, False]


def test_the_adaptive_limit_is_not_moved_by_what_was_skipped():
    """One nan in the window of the best known rule made it skip 128 of the next 130 healthy steps."""
    hurt, plain = Guard(skip_above="adaptive"), Guard(skip_above="adaptive")
    norms = usual_norms(200)
    for guard, storm in ((hurt, [math.nan, math.inf, 1e30] * 50), (plain, [])):
        decide_all(guard, norms[:100])
        decide_all(guard, storm)
        assert not any(decide_all(guard, norms[100:]))
    assert torch.equal(hurt.statistics, plain.statistics)


def test_the_adaptive_limit_follows_a_norm_that_drifts():
    norms = [100 * 0.998**i for i in range(2000)]  # down to 1.8
    guard = Guard(skip_above="adaptive")
    assert not any(decide_all(guard, norms))
    assert decide_all(guard, [100.0]) == [True]


def test_the_adaptive_limit_survives_a_resume():
    first, second = Guard(skip_above="adaptive"), Guard(skip_above="adaptive")
    decide_all(first, usual_norms(50))
    second.load_state_dict(first.state_dict())
    a, b = (guard.decide(torch.tensor(3.0)) for guard in (first, second))
    assert torch.equal(a.limit, b.limit) and torch.equal(first.statistics, second.statistics)
