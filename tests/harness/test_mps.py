"""The rules for Apple GPUs, tested on the CPU: the kernel that makes NaN there is written out here."""

import math

import pytest
import torch

from harness.config.compose import compose
from harness.hardware import mps_masks_are_broken, pick
from lm.batch import NO_LABEL
from lm.data.datamodule import collate
from lm.models.attention import ONE_KEY, leave_one_key, pick_attention
from lm.models.build import build_model, model_config
from lm.module import loss_sums

B, H, T, D = 2, 2, 5, 4


def naive(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention that writes -inf where a query may not look, as MPS did."""
    scores = (query @ key.mT / math.sqrt(D)).masked_fill(~mask, -math.inf)
    return torch.softmax(scores, dim=-1) @ value


def left_padded() -> torch.Tensor:
    """(B, 1, T, T): causal, and the first two tokens of row 0 are padding, so their queries see nothing."""
    causal = torch.ones(T, T, dtype=torch.bool).tril()
    keys = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)
    return causal & keys[:, None, None, :]


def attend(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(B, H, T, D, generator=generator, requires_grad=True) for _ in range(3))
    out = naive(query, key, value, mask)
    out[:, :, 2:].sum().backward()
    return out.detach(), value.grad  # nan * 0: the loss does not use the bad rows, the gradient is nan all the same


def test_the_naive_kernel_makes_nan_of_a_row_without_a_key() -> None:
    out, gradient = attend(left_padded())
    assert out[0, :, :2].isnan().all() and gradient.isnan().any()


def test_a_mask_that_leaves_one_key_makes_none_and_changes_no_other_row() -> None:
    mask = left_padded()
    out, gradient = attend(leave_one_key(mask))
    assert out.isfinite().all() and gradient.isfinite().all()
    before, _ = attend(mask)
    has_key = mask.any(dim=-1).expand(B, H, T)
    assert torch.equal(out[has_key], before[has_key])


def test_a_mask_with_keys_is_left_as_it_is() -> None:
    mask = torch.ones(T, T, dtype=torch.bool).tril()
    assert torch.equal(leave_one_key(mask), mask)


def test_the_rule_reaches_the_models_own_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a kernel that writes -inf, padding on the left is nan under sdpa and finite under the rule."""
    cfg = compose(["model=tiny", "model.config.max_position_embeddings=16"]).model
    ids, padding = torch.randint(0, 2048, (2, 8)), torch.ones(2, 8, dtype=torch.long)
    padding[0, :3] = 0

    def kernel(query, key, value, attn_mask=None, **_):
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril() if attn_mask is None else attn_mask
        scores = (query @ key.mT / math.sqrt(query.shape[-1])).masked_fill(~mask, -math.inf)
        return torch.softmax(scores, dim=-1) @ value

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", kernel)
    finite = {}
    for attention in ("sdpa", ONE_KEY):
        model = build_model(cfg, model_config(cfg), attention=attention)
        logits = model(input_ids=ids, attention_mask=padding, use_cache=False).logits
        finite[attention] = bool(logits.isfinite().all())
    assert finite == {"sdpa": False, ONE_KEY: True}


@pytest.mark.parametrize(
    ("asked", "mps_fix", "attention"),
    [
        ("auto", True, "eager"),
        ("sdpa", True, ONE_KEY),
        ("eager", True, "eager"),
        ("auto", False, "sdpa"),
        ("sdpa", False, "sdpa"),
    ],
)
def test_mps_fix_chooses_and_false_brings_the_problem_back(
    monkeypatch: pytest.MonkeyPatch, asked: str, mps_fix: bool, attention: str
) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    cfg = compose(["trainer=mps", f"model.attention={asked}", f"trainer.mps_fix={str(mps_fix).lower()}"])
    picks = pick(cfg, compile=False, flops=1)
    assert pick_attention(cfg.model.attention, picks.device, mps_fix=cfg.trainer.mps_fix)[0] == attention


@pytest.mark.parametrize(
    ("version", "broken"), [("2.9.1", True), ("2.13.0+cpu", True), ("2.14.0", False), ("3.0.0", False)]
)
def test_the_fix_ends_with_the_versions_that_need_it(version: str, broken: bool) -> None:
    assert mps_masks_are_broken(version) is broken


def test_padding_is_on_the_right() -> None:
    row = {"input_ids": torch.arange(1, 5), "labels": torch.arange(1, 5)}
    batch = collate([row], batch_size=2)
    assert torch.equal(batch["input_ids"][0], row["input_ids"]) and (batch["labels"][1] == NO_LABEL).all()


def test_the_loss_is_computed_in_float32() -> None:
    logits = torch.randn(2, 4, 8, dtype=torch.float16)
    assert loss_sums(logits, torch.zeros(2, 4, dtype=torch.long))[0].dtype is torch.float32
