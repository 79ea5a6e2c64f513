"""A causal language model of transformers with its weights: from a folder, or from a hub and then from its cache.

What is loaded is what the model needs, tensor by tensor; anything else is an error that names it. Nothing is run that
lies beside the weights, and no pickle is read, unless the config says so.
"""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as their_logging

from harness.checkpoint.match import refuse_misfit
from harness.config.names import nearest
from harness.errors import UserError
from harness.hub import INDEX, PICKLES, has_weights, readable, refuse_without_safetensors, snapshot

log = logging.getLogger(__name__)

KEY = "model.pretrained"
FILES = (
    "config.json", "generation_config.json", "model.safetensors", "model-*.safetensors", INDEX, "*.jinja",
    "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt",
)  # fmt: skip


def folder_of(model: DictConfig) -> Path:
    """Return the folder of config.json, weights and tokenizer that `model.pretrained` names."""
    also = (*([] if model.safetensors else [PICKLES]), *(["*.py"] if model.trust_remote_code else []))
    name, revision = str(model.pretrained), model.get("revision")
    whole = functools.partial(has_weights, pickles=not model.safetensors)
    return snapshot(name, revision=revision, files=(*FILES, *also), whole=whole, key=KEY)


def pretrained_config(model: DictConfig, folder: Path | None = None) -> PretrainedConfig:
    """Return the model's own config, or the one in `folder`, such as a checkpoint that was trained from it."""
    with quiet(), readable(str(model.pretrained), KEY):
        config = AutoConfig.from_pretrained(folder or folder_of(model), trust_remote_code=model.trust_remote_code)
    for key, value in (model.get("config") or {}).items():  # dropout, say
        if not hasattr(config, key):
            raise UserError(f"There is no key model.config.{key}.{nearest(key, list(config.to_dict()))}")
        setattr(config, key, value)
    return config  # type: ignore[no-any-return]


def generation_config(config: PretrainedConfig) -> GenerationConfig | None:
    """Return how the model is to be sampled, as it lies beside the config; None where nothing does."""
    beside = Path(str(config.name_or_path)) / "generation_config.json"
    return GenerationConfig.from_pretrained(beside.parent) if beside.is_file() else None


def load_pretrained(model: DictConfig, config: PretrainedConfig, attention: str) -> PreTrainedModel:
    """Return the model with its weights in `model.dtype`; a vocabulary that the config has made larger gets new rows
    like those it has. Raises UserError where a tensor is missing, unexpected or of another shape."""
    folder = folder_of(model)
    if model.safetensors:
        refuse_without_safetensors(folder, str(model.pretrained), key="model.safetensors")
    with quiet(), readable(str(model.pretrained), KEY):
        own = AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code).vocab_size
        asked, config.vocab_size = config.vocab_size, min(own, config.vocab_size)
        loading: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, model.dtype),
            attn_implementation=attention,
            use_safetensors=True if model.safetensors else None,
            trust_remote_code=model.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # then they are listed
        )
    loaded, found = loading
    missing, unexpected, shapes = (found[f"{what}_keys"] for what in ("missing", "unexpected", "mismatched"))
    cure = "Its config.json and its weights do not belong together."
    refuse_misfit(missing, unexpected, shapes, folder, cure=cure)
    if new := max(0, asked - own):
        if model.get("lora"):
            cure = "Take model=pretrained, or a tokenizer whose tokens the model knows: data.tokenizer.path=PATH."
            raise UserError(f"model.lora trains no embeddings, and {new} tokens are new to {folder}.", cure=cure)
        with quiet():
            loaded.resize_token_embeddings(asked)
        log.info("%s tokens are new: their embeddings are drawn to be like those of the others.", new)
    config.vocab_size = asked
    return loaded.train()  # type: ignore[no-any-return]  # from_pretrained leaves dropout off


def revision_of(model: DictConfig) -> str:
    """Return the commit where a hub's cache says it, else what was asked for."""
    folder = folder_of(model)
    return folder.name if folder.parent.name == "snapshots" else str(model.get("revision") or "a folder")


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what transformers says on its way, and its progress bars."""
    before, bars = their_logging.get_verbosity(), their_logging.is_progress_bar_enabled()
    their_logging.set_verbosity_error()
    their_logging.disable_progress_bar()
    try:
        yield
    finally:
        their_logging.set_verbosity(before)
        if bars:
            their_logging.enable_progress_bar()
