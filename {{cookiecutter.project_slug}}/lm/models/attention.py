"""Which attention kernel: transformers' own, and one that leaves every row a key, for Apple's GPUs."""

from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.errors import UserError
from harness.hardware import mps_masks_are_broken
from harness.probe import Attention

ONE_KEY = "sdpa_one_key"  # transformers' sdpa, whose mask leaves every row a key
GPU_ONLY = ("flash_attention_2", "flex_attention")  # they cannot be tried where a model is built
NEIGHBOURS = 6  # tokens of each of two documents that are tried side by side


def pick_attention(asked: str, device: str, fastest: str = "sdpa", *, mps_fix: bool) -> tuple[str, str]:
    """Return the name of the kernel to use, and why; `fastest` is the one that was measured to be it."""
    fix = device == "mps" and mps_fix and mps_masks_are_broken()
    if asked == "sdpa" and fix:
        return ONE_KEY, "sdpa attention with masks that leave every row a key (asked for; trainer.mps_fix)"
    if asked != "auto":
        return asked, f"{asked} attention (asked for)"
    if fix:
        return "eager", "eager attention (sdpa on MPS makes NaN of padded rows; trainer.mps_fix)"
    return fastest, f"{fastest} attention"


def attention_shape(model: DictConfig, config: PretrainedConfig | None, context: int) -> Attention | None:
    """Return the shape of the attention whose kernel is `auto`; None without one, or under names of its own."""
    names = ("num_hidden_layers", "num_attention_heads", "hidden_size")
    layers, heads, width = (getattr(config, name, None) or 0 for name in names)
    each = getattr(config, "head_dim", None) or width // max(1, heads)
    return Attention(layers, heads, context, each) if layers and each and model.attention == "auto" else None


@torch.no_grad()
def refuse_leaks(model: torch.nn.Module) -> None:
    """Raise UserError for a model that lets a document see another of its window, tried with two small ones: whatever
    the first holds, the logits of the second have to be the same, bit for bit."""
    was_training = model.training
    positions = torch.arange(NEIGHBOURS).repeat(2)[None]
    one, other = torch.arange(2 * NEIGHBOURS)[None], torch.arange(2 * NEIGHBOURS)[None]
    other[0, :NEIGHBOURS] = torch.arange(NEIGHBOURS).flip(0) + NEIGHBOURS
    options = {"use_cache": False} if isinstance(model, PreTrainedModel) else {}
    try:
        outputs = [model.eval()(input_ids=ids, position_ids=positions, **options) for ids in (one, other)]
        logits = [output if isinstance(output, Tensor) else output.logits for output in outputs]
        apart = bool((logits[0][:, NEIGHBOURS:] == logits[1][:, NEIGHBOURS:]).all())
    except TypeError:  # its forward takes no `position_ids`
        apart = False
    finally:
        model.train(was_training)
    if not apart:
        raise UserError(
            f"{type(model).__name__} does not keep the documents of a window apart: they see one another.",
            cure="Set data.packing=true (documents follow one another) or data.packing=false (a row for each).",
        )


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
