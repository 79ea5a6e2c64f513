"""The model that the config describes: with fresh weights, or with those of a pretrained one.

config: {_target_: transformers.LlamaConfig, …}     any causal language model of transformers, by its config class
config: path/to/a/folder                            by a config.json on disk, or a name on the hub
_target_: my_models.Bigram, vocab_size: 300, …      any torch module: forward(input_ids) -> logits (B, T, V), or an
                                                    object with `.logits`. With a `config` it is given that.
pretrained: gpt2, …                                 see pretrained.py; with `lora: {…}` lora.py
freeze: [transformer.h.0.*, …]                      parameters of any of them that are not trained, by patterns
"""

import logging
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from harness.checkpoint.loaded import loaded
from harness.errors import UserError, said_of
from harness.frozen import freeze
from lm.keys import Model
from lm.models import attention as _attention  # noqa: F401  (registers its kernel)
from lm.models.lora import add_lora
from lm.models.pretrained import generation_config, load_pretrained, pretrained_config

log = logging.getLogger(__name__)


def model_config(model: DictConfig, checkpoint: Path | None = None) -> PretrainedConfig | None:
    """Return the transformers config of `cfg.model`, None for a torch module without one. A `checkpoint` of a run knows
    that of its pretrained model."""
    if model.get("pretrained"):
        own = checkpoint and not model.trust_remote_code and (checkpoint / "config.json").is_file()
        return pretrained_config(model, checkpoint if own else None)
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
    if config is None:
        return int(model.context)
    # transformers maps GPT-2's n_positions to this name; some models have no such limit.
    limits = (getattr(config, "max_position_embeddings", None), model.get("context") if "pretrained" in model else None)
    return int(min(limit for limit in limits if limit is not None))


def build_model(
    model: DictConfig,
    config: PretrainedConfig | None,
    *,
    attention: str = "eager",
    special_ids: dict[str, int | None] | None = None,
    load: bool = True,
) -> nn.Module:
    """Return the model at the beginning of a run. Takes random numbers from torch's global generator.

    special_ids: bos_token_id, eos_token_id and pad_token_id, as the tokenizer has them. load: false where a checkpoint
    is about to bring all weights, so that those of a pretrained model are not wanted.
    """
    if config is not None:
        for name, token in (special_ids or {}).items():
            known = getattr(config, name, None)
            if not (isinstance(known, list) and token in known):  # a chat model may have several ends
                setattr(config, name, token)
    if model.get("pretrained") and config is not None and (load or model.get("lora")):
        built: nn.Module = load_pretrained(model, config, attention)
    else:
        built = _fresh(model, config, attention)
        if model.get("pretrained") and config is not None and (how := generation_config(config)):
            built.generation_config = how  # type: ignore[assignment]
    tensors = len(list(built.parameters()))
    if model.get("lora"):
        add_lora(model, built)
    freeze(built, model.get("freeze") or (), key="model.freeze")
    if model.get("pretrained") and (load or model.get("lora")):
        log.info("%s", loaded(built, str(model.pretrained), tensors=tensors))
    if model.gradient_checkpointing:
        recompute_activations(built)
    return built


def outline(model: DictConfig, config: PretrainedConfig | None) -> nn.Module:
    """Return the model without memory for its weights."""
    with torch.device("meta"):
        return _fresh(model, config, "eager")


def recompute_activations(model: nn.Module) -> None:
    """Switch on gradient checkpointing and say which layers now do it.

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
    able = {name: part for name, part in model.named_modules() if isinstance(part, GradientCheckpointingLayer)}
    layers = [name for name, part in able.items() if part.gradient_checkpointing]
    log.info("Activations are computed again in the backward pass of %d layers: %s", len(layers), ", ".join(layers))


@said_of("model")
def _fresh(model: DictConfig, config: PretrainedConfig | None, attention: str) -> nn.Module:
    if model.get("pretrained"):
        more = {"dtype": getattr(torch, model.dtype), "trust_remote_code": model.trust_remote_code}
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention, **more)  # type: ignore[no-any-return]
    if "_target_" not in model:
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention)  # type: ignore[no-any-return]
    values: Any = OmegaConf.to_container(model, resolve=True)
    arguments = {key: value for key, value in values.items() if key not in Model.kept}
    if config is None:
        return instantiate(arguments, _convert_="all")  # type: ignore[no-any-return]
    config._attn_implementation = attention
    built: nn.Module = get_class(arguments.pop("_target_"))(config, **arguments)
    return built
