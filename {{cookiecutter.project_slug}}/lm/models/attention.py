"""Which attention kernel: transformers' own, and one that leaves every row a key, for Apple's GPUs."""

from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.hardware import mps_masks_are_broken

ONE_KEY = "sdpa_one_key"  # transformers' sdpa, whose mask leaves every row a key
# The CPU's flash kernel is what holds bf16 back at short contexts (a quarter of a step at 256); at long ones its memory
# wins.
EAGER_CONTEXT = 512
GPU_ONLY = ("flash_attention_2", "flex_attention")  # they cannot be tried where a model is built


def pick_attention(asked: str, device: str, precision: str, context: int, *, mps_fix: bool) -> tuple[str, str]:
    """Return the name of the kernel to use, and why."""
    fix = device == "mps" and mps_fix and mps_masks_are_broken()
    if asked == "sdpa" and fix:
        return ONE_KEY, "sdpa attention with masks that leave every row a key (asked for; trainer.mps_fix)"
    if asked != "auto":
        return asked, f"{asked} attention (asked for)"
    if fix:
        return "eager", "eager attention (sdpa on MPS makes NaN of padded rows; trainer.mps_fix)"
    if device == "cpu" and precision.startswith("bf16") and context <= EAGER_CONTEXT:
        return "eager", f"eager attention (faster than sdpa in bf16 on a CPU at context {context})"
    return "sdpa", "sdpa attention"


def leave_one_key(mask: Tensor) -> Tensor:
    """Let a query that may see no key see all of them. mask (..., T queries, T keys), True where a query may look.

    The softmax of a row of -inf is nan, forward and backward, and a masked query's output is never used: any finite
    number will do. A row that has a key is left as it is.
    """
    return mask | ~mask.any(dim=-1, keepdim=True)


def _mask_with_one_key(*args: Any, **kwargs: Any) -> Tensor | None:
    mask = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"](*args, **kwargs)
    return None if mask is None else leave_one_key(mask)


AttentionInterface.register(ONE_KEY, ALL_ATTENTION_FUNCTIONS["sdpa"])
AttentionMaskInterface.register(ONE_KEY, _mask_with_one_key)
