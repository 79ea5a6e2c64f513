import pytest
import torch
from torch.nn import functional

from harness.step.loss_window import LossWindow
from lm.batch import NO_LABEL
from lm.module import loss_sums as summed_loss

B, T, V = 4, 6, 11


def batch(seed: int, labels_per_row: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (B, T, V), and labels of which only the last n of a row count."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(V, (B, T), generator=generator)
    for row, count in zip(labels, labels_per_row, strict=True):
        row[: T - count] = NO_LABEL
    return torch.randn(B, T, V, generator=generator), labels


BATCHES = [batch(0, [5, 1, 3, 0]), batch(1, [0, 0, 0, 2]), batch(2, [5, 5, 5, 5])]


def test_labels_are_counted_after_the_shift():
    logits, labels = batch(0, [6, 6, 1, 0])  # the first label of a full row has no position that predicts it
    total, count = summed_loss(logits, labels)
    assert count == 5 + 5 + 1 + 0
    expected = functional.cross_entropy(logits[:, :-1].reshape(-1, V), labels[:, 1:].reshape(-1), reduction="sum")
    torch.testing.assert_close(total, expected)


def test_without_a_label_loss_and_gradient_are_zero():
    logits, labels = batch(0, [0, 0, 0, 0])
    logits.requires_grad_()
    window = LossWindow(labels_per_batch=20)
    window.add(*summed_loss(logits, labels)).backward()
    loss, count, factor = window.close(micro_batches=1)
    assert loss == 0 and count == 0 and torch.isfinite(factor)
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_logits_lose_nothing_in_the_loss():
    logits, labels = BATCHES[2]
    half = logits.bfloat16()
    assert torch.equal(summed_loss(half, labels)[0], summed_loss(half.float(), labels)[0])


@pytest.mark.parametrize("nominal", [1, 20, 4096])
def test_gradients_of_uneven_micro_batches_equal_those_of_one_big_batch(nominal):
    weight = torch.randn(V, V, generator=torch.Generator().manual_seed(9))
    accumulated, whole = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    window = LossWindow(nominal)
    for logits, labels in BATCHES:
        loss = window.add(*summed_loss(logits @ accumulated, labels))
        (loss / 4).backward()  # a window of 4 that the epoch's end cut to 3: the loop divides by 4 all the same
    mean, count, factor = window.close(micro_batches=4)

    logits = torch.cat([x for x, _ in BATCHES])
    labels = torch.cat([y for _, y in BATCHES])
    expected = functional.cross_entropy((logits @ whole)[:, :-1].reshape(-1, V), labels[:, 1:].reshape(-1))
    expected.backward()
    assert count == 9 + 2 + 20
    torch.testing.assert_close(mean, expected.detach())
    torch.testing.assert_close(accumulated.grad * factor, whole.grad)


def test_the_factor_is_exactly_one_when_every_label_counts():
    logits, labels = BATCHES[2]
    window = LossWindow(labels_per_batch=20)
    for _ in range(2):
        window.add(*summed_loss(logits, labels))
    assert window.close(micro_batches=2)[2] == 1.0


def test_a_window_ends_with_its_step():
    window = LossWindow(20)
    window.add(torch.tensor(100.0), torch.tensor(20.0))
    window.close(1)
    window.add(torch.tensor(40.0), torch.tensor(20.0))
    assert window.close(1)[0] == 2.0
