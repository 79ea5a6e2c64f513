"""The model that the config describes, with fresh weights.

config: {_target_: transformers.LlamaConfig, …}     any causal language model of transformers, by its config class
config: path/to/a/folder                            by a config.json on disk, or a name on the hub
_target_: my_models.Bigram, vocab_size: 300, …      any torch module: forward(input_ids) -> logits (B, T, V), or an
                                                    object with `.logits`. With a `config` it is given that.
"""

import logging
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from harness.errors import UserError, said_of
from lm.models import attention as _attention  # noqa: F401  (registers its kernel)

log = logging.getLogger(__name__)

# Keys of conf/model/ that say how to train a model; all others are arguments of a model class of one's own.
NOT_ARGUMENTS = {"name", "peak_lr", "gradient_checkpointing", "attention", "compile", "config"}


def model_config(model: DictConfig) -> PretrainedConfig | None:
    """Return the transformers config of `cfg.model`, None for a torch module without one."""
    config = model.get("config")
    if config is None:
        return None
    if isinstance(config, str):
        return AutoConfig.from_pretrained(config)  # type: ignore[no-any-return]
    return instantiate(config, _convert_="all")  # type: ignore[no-any-return]


def vocabulary_size(model: DictConfig, config: PretrainedConfig | None) -> int:
    """Return how many tokens the model knows."""
    return int(model.vocab_size if config is None else config.vocab_size)


def context_length(model: DictConfig, config: PretrainedConfig | None) -> int:
    """Return how many tokens the model can see, whatever its config calls it."""
    # transformers maps GPT-2's n_positions to this name.
    return int(model.context if config is None else config.max_position_embeddings)


def build_model(
    model: DictConfig,
    config: PretrainedConfig | None,
    *,
    attention: str = "eager",
    special_ids: dict[str, int | None] | None = None,
) -> nn.Module:
    """Return a freshly initialized model. Takes random numbers from torch's global generator.

    special_ids: bos_token_id, eos_token_id and pad_token_id, as the tokenizer has them.
    """
    if config is not None:
        for name, token in (special_ids or {}).items():
            setattr(config, name, token)
    built = _fresh(model, config, attention)
    if model.gradient_checkpointing:
        recompute_activations(built)
    return built


def count_parameters(model: DictConfig, config: PretrainedConfig | None) -> int:
    """Return the number of parameters, tied ones once, without allocating them."""
    with torch.device("meta"):
        built = _fresh(model, config, "eager")
    return sum(parameter.numel() for parameter in built.parameters())


def recompute_activations(model: nn.Module) -> list[str]:
    """Switch on gradient checkpointing and return the names of the layers that now do it.

    Raises UserError for a model that has no such layers: training without the saving would end out of memory, later.
    """
    if not isinstance(model, PreTrainedModel) or not model.supports_gradient_checkpointing:
        raise UserError(
            f"{type(model).__name__} cannot do gradient checkpointing.", cure="Set model.gradient_checkpointing=false."
        )
    # The name of the switch before transformers 5.23, where the new one warns about the old.
    enable: Any = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.config.use_cache = False
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
    ]
    log.info("Activations are computed again in the backward pass of %d layers: %s", len(layers), ", ".join(layers))
    return layers


@said_of("model")
def _fresh(model: DictConfig, config: PretrainedConfig | None, attention: str) -> nn.Module:
    if "_target_" not in model:
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention)  # type: ignore[no-any-return]
    values: Any = OmegaConf.to_container(model, resolve=True)
    arguments = {key: value for key, value in values.items() if key not in NOT_ARGUMENTS}
    if config is None:
        return instantiate(arguments, _convert_="all")  # type: ignore[no-any-return]
    config._attn_implementation = attention
    built: nn.Module = get_class(arguments.pop("_target_"))(config, **arguments)
    return built
