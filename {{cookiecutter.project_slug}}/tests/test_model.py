"""The model, its loss and its gradient, from the config that would train it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.config.compose import compose
from lm.batch import NO_LABEL
from lm.models.build import build_model, model_config
from lm.module import loss_sums


def model_of(small: list[str], *overrides: str) -> nn.Module:
    model = compose([*small, *overrides]).model
    torch.manual_seed(0)
    return build_model(model, model_config(model))


@pytest.fixture
def ids() -> Tensor:
    """Two rows of 16 tokens."""
    return torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(0))


def test_the_logits_have_a_number_for_each_token(small: list[str], ids: Tensor) -> None:
    logits = model_of(small)(input_ids=ids).logits
    assert logits.shape == (2, 16, 300)
    assert logits.isfinite().all()


def test_a_position_sees_no_later_token(small: list[str], ids: Tensor) -> None:
    model = model_of(small).eval()
    other = ids.clone()
    other[:, 8:] = 0
    torch.testing.assert_close(model(input_ids=ids).logits[:, :8], model(input_ids=other).logits[:, :8])


def test_the_loss_is_the_mean_over_tokens_that_have_a_label(ids: Tensor) -> None:
    logits, labels = torch.randn(2, 16, 300), ids.clone()
    labels[0, 5:] = NO_LABEL
    total, count = loss_sums(logits, labels)
    assert count == 4 + 15  # the first token of a row is predicted by nothing
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(total / count, expected)


def test_a_fresh_model_knows_nothing(small: list[str], ids: Tensor) -> None:
    total, count = loss_sums(model_of(small)(input_ids=ids).logits, ids)
    assert (total / count).item() == pytest.approx(math.log(300), abs=0.3)


def test_every_weight_gets_a_gradient(small: list[str], ids: Tensor) -> None:
    model = model_of(small)
    loss_sums(model(input_ids=ids).logits, ids)[0].backward()
    assert {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()} == set()


def test_gradient_checkpointing_changes_no_gradient(small: list[str], ids: Tensor) -> None:
    gradients = []
    for recompute in ("false", "true"):
        model = model_of(small, f"model.gradient_checkpointing={recompute}").train()
        loss_sums(model(input_ids=ids).logits, ids)[0].backward()
        gradients.append([weight.grad for weight in model.parameters()])
    torch.testing.assert_close(*gradients)
