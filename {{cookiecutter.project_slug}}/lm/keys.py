"""The keys that only a language model has: model, data, optimizer and scheduler. Read before torch is imported.

What every experiment has is in harness/config/schema.py. Arguments of a `_target_` need not be declared: they are read
from its source.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import yaml

from harness.config import global_batch, sources
from harness.config.documents import Documents
from harness.config.learning import Optimizer, Scheduler
from harness.config.library import Library
from harness.config.rules import indivisible, too_small
from harness.config.schema import Above0, Amount, Flag, Positive, Root, Section, Share, Text, extra, key

if TYPE_CHECKING:  # --help needs the keys alone, at once
    from omegaconf import DictConfig

AUTO = "transformers.models.auto"  # where it keeps its tables
# A byte-level BPE starts from the 256 bytes and the end-of-text token.
SMALLEST_VOCABULARY = 257
# Sizes of which a model has at least one, under the names that transformers' configs give them.
SIZES = {
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "n_embd", "n_layer", "n_head", "n_inner", "n_positions", "max_position_embeddings", "vocab_size",
}  # fmt: skip
LENGTH = "max_position_embeddings"
# Arguments of transformers' configs that no class annotates.
OLD_NAMES = {"rope_theta", "rope_scaling", "torch_dtype", "num_labels", "attn_implementation", "use_cache"}
OF_PRETRAINED = {"revision", "dtype", "safetensors", "trust_remote_code", "lora"}
# What people type who come from other tools, by what it is called here.
HABITS: dict[str, list[str]] = yaml.safe_load(Path(__file__).with_name("habits.yaml").read_text(encoding="utf-8"))


@cache
def _model_types() -> dict[str, str]:
    """Return {config class: model type} from transformers' own table."""
    text = sources.text(f"{AUTO}.auto_mappings") or sources.text(f"{AUTO}.configuration_auto")
    return {name: kind for kind, name in re.findall(r'\("([\w-]+)", "(\w+Config)"\)', text)}


def _modules() -> dict[str, str]:
    kinds = {name: kind.replace("-", "_") for name, kind in _model_types().items()}
    return {name: f"transformers.models.{kind}.configuration_{kind}" for name, kind in kinds.items()}


def _not_causal(name: str) -> str:
    kind, text = _model_types().get(name), sources.text(f"{AUTO}.modeling_auto")
    causal = text.partition("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = ")[2].partition("\n)")[0]
    if kind is None or not text or f'("{kind}",' in causal:  # a newer transformers will say so itself
        return ""
    return "is not the config of a causal language model. LlamaConfig, GPT2Config and Qwen3Config are."


TRANSFORMERS = Library("transformers", "Config", cache(_modules), cache(_not_causal), OLD_NAMES)


class Lora(Section):
    r: Positive = extra("the rank of the matrices that are trained")
    alpha: Above0 = extra("their product counts alpha / r")
    dropout: Share = extra("the dropout before them")
    target_modules: list[Text] | None = extra("ends of the names of the modules that get them; null for peft's choice")


class Model(Section):
    kept: ClassVar[frozenset[str]] = frozenset(
        ["name", "peak_lr", "gradient_checkpointing", "attention", "compile", "config", "freeze", "wrapper"]
    )
    name: Text = key("the first part of the run's name")
    peak_lr: Amount = key("the peak learning rate that suits this size; optimizer.lr takes it")
    gradient_checkpointing: Flag = key("compute activations again in the backward pass: less memory, a third slower")
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"] = key("the attention kernel")
    compile: Literal["auto"] | Flag = key("torch.compile for training steps")
    config: dict[Any, Any] | Text | None = extra("a transformers config class with its arguments, or a folder with one")
    freeze: list[Text] | None = extra("patterns of parameters that are not trained, such as ['transformer.h.0.*']")
    pretrained: Text = extra("a model with its weights: a folder, or a name on a hub")
    revision: Text | None = extra("its branch, tag or commit")
    context: Positive | None = extra("the tokens of a window: at most what the model can see")
    dtype: Literal["float32", "bfloat16", "float16"] = extra("the type of the weights")
    safetensors: Flag = extra("true reads safetensors alone; false pytorch_model.bin, too")
    trust_remote_code: Flag = extra("run the Python files that lie beside the weights")
    wrapper: dict[Any, Any] | None = extra("a module around the model, which is given it: by _target_")
    lora: Lora = extra("train low-rank matrices beside the weights of the model, and nothing else")


class Data(Documents):
    kept: ClassVar[frozenset[str]] = Documents.kept | {"prompt"}
    tokenizer: dict[Any, Any] = extra(
        "a `kind` (bpe, unigram, bytes, characters) that is trained, or a `path` taken as it is"
    )
    batch_size: Positive | Literal["auto"] = key("the sequences per micro-batch and device; auto tries what fits")
    global_batch: Positive | None = extra("the tokens of an optimizer step over all devices; null: as these make it")
    prompt: str = key("what samples and generate.py continue; an empty one begins a document")
    packing: Flag | Literal["document", "best_fit"] = extra(
        "let documents follow one another in a window; document and best_fit keep them apart there; false: a row each"
    )


class Keys(Root):
    model: Model
    data: Data
    optimizer: Optimizer
    scheduler: Scheduler

    habits: ClassVar[dict[str, str]] = {name: key for key, names in HABITS.items() for name in names}
    libraries: ClassVar[tuple[Library, ...]] = (TRANSFORMERS,)

    @classmethod
    def complaints(cls, cfg: "DictConfig") -> Iterator[str]:
        yield from super().complaints(cfg)
        if "pretrained" not in cfg.model and (others := sorted(OF_PRETRAINED & set(cfg.model))):
            yield f"model.{others[0]} is a key of model=pretrained, which model={cfg.model.name} is not."
        config = cfg.model.get("config")
        target = "" if config is None or isinstance(config, str) else str(config.get("_target_", ""))
        names = TRANSFORMERS.other_names(target)
        apart = cfg.data.get("packing") in ("document", "best_fit")
        # transformers looks at the positions of a single row only.
        if apart and cfg.model.get("attention") == "flash_attention_2" and cfg.data.batch_size != 1:
            yield (
                "flash_attention_2 keeps the documents of a window apart only in batches of one row: set "
                "data.batch_size=1 and raise trainer.accumulate_grad_batches, or take model.attention=sdpa."
            )
        if target.startswith("transformers."):
            yield from _sizes(config, names)
        if cfg.data.get("global_batch"):
            # A folder or a class of one's own says its context only once it is loaded.
            context = cfg.model.get("context") if config is None else target and config.get(names.get(LENGTH, LENGTH))
            yield from global_batch.complaints(cfg, row=context or None)

    @classmethod
    def look(cls, cfg: "DictConfig") -> None:
        from harness.data.sets import check_material

        check_material(cfg.data, cfg.seed)


def _sizes(config: "DictConfig", names: dict[str, str]) -> Iterator[str]:
    least = dict.fromkeys(SIZES, 1) | {"vocab_size": SMALLEST_VOCABULARY, names.get(LENGTH, LENGTH): 2}
    why = {"vocab_size": "bytes and the end of a text need as many"}
    if small := next(too_small("model.config", config, least, why), ""):
        yield small
        return
    width, heads = (names.get(name, name) for name in ("hidden_size", "num_attention_heads"))
    if config.get("head_dim") is None:
        yield from indivisible("model.config", config, width, heads)
    yield from indivisible("model.config", config, heads, "num_key_value_heads")
