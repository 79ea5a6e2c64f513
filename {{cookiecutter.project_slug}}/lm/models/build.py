"""Language models by transformers, built from the config class that the YAML names."""

import logging
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.errors import UserError

log = logging.getLogger(__name__)

ONE_KEY = "sdpa_one_key"  # transformers' sdpa, whose mask leaves every row a key


def model_config(cfg: DictConfig) -> PretrainedConfig:
    """Return transformers' config of `cfg.model.config`, without looking anything up on a hub."""
    return instantiate(cfg, _convert_="all", bos_token_id=0, eos_token_id=0, pad_token_id=None)  # type: ignore[no-any-return]


def build_model(
    config: PretrainedConfig, *, attention: str = "eager", gradient_checkpointing: bool = False
) -> PreTrainedModel:
    """Return a freshly initialized causal language model. Takes random numbers from torch's global generator."""
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    if gradient_checkpointing:
        recompute_activations(model)
    return model


def recompute_activations(model: PreTrainedModel) -> list[str]:
    """Switch on gradient checkpointing and return the names of the layers that now do it.

    Raises UserError for a model that has no such layers: training without the saving would end out of memory, later.
    """
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"{type(model).__name__} cannot do gradient checkpointing.", cure="Set model.gradient_checkpointing=false."
        )
    # The name of the switch before transformers 5.23, where the new one warns about the old.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.config.use_cache = False
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
    ]
    log.info("Activations are computed again in the backward pass of %d layers: %s", len(layers), ", ".join(layers))
    return layers


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


def context_length(config: PretrainedConfig) -> int:
    """Return how many tokens the model can see, whatever its config calls it."""
    return int(config.max_position_embeddings)  # transformers maps GPT-2's n_positions to this name


def count_parameters(config: PretrainedConfig) -> int:
    """Return the number of parameters, tied ones once, without allocating them."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def plain(node: DictConfig) -> dict[str, Any]:
    """Return an OmegaConf mapping as a dict with everything resolved."""
    return dict(OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]
