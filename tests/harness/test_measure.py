"""What is measured about a step, against values worked out by hand or by torch's own functions."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import nn

from harness.telemetry import statistics
from lm.batch import TokenBatch

VOCABULARY = Tokenizer(models.WordLevel({str(number): number for number in range(8)}, unk_token="0"))


def looking(show: int = 4) -> TokenBatch:
    return TokenBatch(VOCABULARY, vocab_size=8, show=show)


def test_accuracy_and_shown_ids_by_hand() -> None:
    labels = torch.tensor([[-100, -100, 5, 6, 7], [1, 2, 3, -100, -100]])
    # Position t predicts t+1: the first row has targets 5 6 7 at positions 1 2 3, the second 2 3 at positions 0 1.
    guesses = torch.tensor([[0, 5, 0, 7, 0], [2, 0, 0, 0, 0]])
    logits = nn.functional.one_hot(guesses, 8).float()
    format = looking()
    assert format.explain(format.measure(logits, {"labels": labels}).tolist()) == {
        "accuracy": 3 / 5,
        "predicted": {"ids": [5, 0, 7], "text": "5 0 7"},
        "expected": {"ids": [5, 6, 7], "text": "5 6 7"},
    }


def test_a_batch_without_labels_has_accuracy_0() -> None:
    format = looking(show=2)
    data = format.explain(format.measure(torch.zeros(1, 3, 4), {"labels": torch.full((1, 3), -100)}).tolist())
    assert (data["accuracy"], data["expected"]["ids"]) == (0, [])


@pytest.mark.parametrize(
    ("labels", "ok", "low", "high"),
    [
        ([3, 7, -100], True, 3, 7),
        ([3, 8, -100], False, 3, 8),
        ([-1, 2, 3], False, -1, 3),
        ([-100] * 3, False, None, None),
    ],
)
def test_labels_are_compared_with_the_vocabulary(
    labels: list[int], ok: bool, low: int | None, high: int | None
) -> None:
    data = looking().first_look({"input_ids": torch.tensor([[0, 1, 2]]), "labels": torch.tensor([labels])})
    assert (data["ok"], data["label_min"], data["label_max"]) == (ok, low, high)
    assert data["valid_tokens"] + data["ignored_tokens"] == 3


def test_gradient_norms_equal_torchs() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    model[1].bias.requires_grad_(False)
    unused = nn.Linear(2, 2)
    model(torch.ones(1, 4)).sum().backward()
    model[0].bias.grad.zero_()
    names, parameters = zip(*[*model.named_parameters(), *unused.named_parameters("unused")], strict=True)

    data = statistics.explain_gradients(statistics.gradient_norms(parameters).tolist(), names, top=2)

    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    assert data["total_norm"] == pytest.approx(float(norm), rel=1e-6)
    assert data["max"] == pytest.approx(float(max(p.grad.norm() for p in parameters if p.grad is not None)))
    assert (data["parameters"], data["with_gradient"], data["zero"]) == (6, 3, 1)
    assert list(data["top"]) == ["1", "0"] or list(data["top"]) == ["0", "1"]


def test_a_nan_gradient_is_named_first() -> None:
    data = statistics.explain_gradients([1.0, math.nan, 2.0], ["a.w", "b.w", "c.w"], top=2)
    assert math.isnan(data["total_norm"]) and list(data["top"]) == ["b", "c"]


def test_changes_of_a_step_by_hand() -> None:
    big, still = nn.Parameter(torch.ones(1000, 500)), nn.Parameter(torch.ones(3))
    zero = nn.Parameter(torch.zeros(3))
    weights = statistics.Weights([big, still, zero])
    assert sum(t.numel() for t in weights.before) <= 2 * statistics.MOST_SAMPLED
    with torch.no_grad():
        big += 0.01
        zero += 1
    data = statistics.explain_changes(
        weights.changes().tolist(), ["model.big.w", "model.still.w", "model.zero.w"], top=10
    )
    assert (data["parameters"], data["changed"]) == (3, 2)
    assert data["top"] == {"model.big.w": pytest.approx(0.01), "model.still.w": 0}
    assert data["modules"] == {"big": pytest.approx(0.01), "still": 0}


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("model.model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj"),
        ("model._orig_mod.model.embed_tokens.weight", "embed_tokens"),
        ("model.lm_head.weight", "lm_head"),
        ("scale", "scale"),
    ],
)
def test_modules_have_short_names(name: str, module: str) -> None:
    assert statistics.module_of(name) == module
