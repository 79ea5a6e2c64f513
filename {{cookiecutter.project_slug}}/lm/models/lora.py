"""Low-rank adapters by peft, put into the model itself: it stays the class of transformers that it was.

A checkpoint of such a run holds the adapter alone. What lies beneath is named by its checksum.
"""

import re
import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from torch import nn

from harness.checkpoint.elsewhere import Elsewhere
from harness.errors import UserError
from harness.hub import weights_checksum
from lm.models.pretrained import folder_of, revision_of

MARK = ".lora_"  # in the names of all that peft adds


def lora_config(model: DictConfig) -> Any:
    """Return peft's LoraConfig of `model.lora`."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UserError("model.lora needs the package peft.", cure="pip install peft -c constraints.txt") from error
    names = {"alpha": "lora_alpha", "dropout": "lora_dropout"}
    asked: Any = OmegaConf.to_container(model.lora, resolve=True)
    return LoraConfig(task_type="CAUSAL_LM", **{names.get(key, key): value for key, value in asked.items()})


def add_lora(model: DictConfig, network: nn.Module) -> None:
    """Put adapters into `network`, in float32, and freeze the rest. Takes random numbers from torch's generator."""
    config = lora_config(model)
    from peft import inject_adapter_in_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has found out that GPT-2's layers are transposed
        try:
            inject_adapter_in_model(config, network)
        except ValueError as error:
            linear = [n for n, part in network.named_modules() if type(part).__name__ in ("Linear", "Conv1D")]
            layers = dict.fromkeys(name.rpartition(".")[2] for name in linear)
            raise UserError(
                f"model.lora.target_modules={model.lora.get('target_modules')} fits no module of this model.",
                cure=f"It has {', '.join(layers)}: model.lora.target_modules=[{next(iter(layers), '')}].",
            ) from error
    for name, parameter in network.named_parameters():
        if MARK in name:
            parameter.data = parameter.data.float()  # in bf16 an update would be lost in rounding


def beneath(model: DictConfig, network: nn.Module) -> Elsewhere | None:
    """Return which weights of `network` a checkpoint leaves out: none without adapters."""
    if model.get("lora") is None:
        return None
    names = frozenset(name for name in network.state_dict() if MARK not in name)
    return Elsewhere(names, str(model.pretrained), revision_of(model), weights_checksum(folder_of(model)))


def merge(network: nn.Module) -> None:
    """Add the adapters to the weights beside which they are, and take them out."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, part in list(network.named_modules()):
        if isinstance(part, BaseTunerLayer):
            part.merge()
            holder, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(holder), attribute, part.get_base_layer())


def save_adapter(model: DictConfig, network: Any, folder: Path) -> None:
    """Write the adapter as peft does, for AutoModelForCausalLM and PeftModel to load on top of what lies beneath."""
    adapter = {name: tensor for name, tensor in network.state_dict().items() if MARK in name}
    plain = {name: re.sub(r"[.]default(?=[.]|$)", "", name) for name in adapter}  # without the name that peft gave it
    tensors = {f"base_model.model.{plain[name]}": tensor.contiguous() for name, tensor in adapter.items()}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    # As peft filled it in when it made the layers.
    config, local = network.peft_config["default"], Path(str(model.pretrained)).expanduser()
    config.base_model_name_or_path = str(local.resolve()) if local.is_dir() else str(model.pretrained)
    config.revision = None if local.is_dir() else revision_of(model)
    config.save_pretrained(folder)
