"""On the meta device a tensor has a shape and no values, so whatever reads one fails: the host would have to wait."""

import pytest
import torch

from harness.nan.guard import Guard, StepGate, total_norm
from harness.nan.precision import LossScale
from harness.step.loss_window import LossWindow
from lm.module import loss_sums


@pytest.mark.parametrize("skip_above", [100.0, "adaptive"])
def test_deciding_about_a_step_reads_nothing_from_the_device(skip_above: float | str) -> None:
    parameters = [torch.nn.Parameter(torch.empty(shape, device="meta")) for shape in ((8, 8), (8,))]
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)
    gate, guard, window, scale = StepGate(optimizer), Guard(1.0, skip_above), LossWindow(10), LossScale()
    for _ in range(3):
        logits = torch.empty(2, 6, 8, device="meta", requires_grad=True)
        loss = window.add(*loss_sums(logits, torch.empty(2, 6, dtype=torch.long, device="meta")))
        (loss * scale.to(loss.device)).backward()
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        with gate:
            mean = window.close(micro_batches=1)
            verdict = guard.decide(total_norm(parameters), mean.factor / scale.scale)
            gate.set(verdict)
            scale.update(~verdict.norm.isfinite())
            report = torch.stack([verdict.norm, verdict.limit, verdict.skip.float(), mean.loss])
    assert report.is_meta


def test_this_test_would_notice() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        bool(torch.empty((), device="meta") > 1)
