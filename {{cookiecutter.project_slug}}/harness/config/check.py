"""Is every value of a composed config of the right type, in its range, and usable on this machine?"""

import os
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from harness.config import schema
from harness.config.compose import hydra_errors_as_user_errors
from harness.errors import UserError

# A byte-level BPE starts from the 256 bytes and the end-of-text token.
SMALLEST_VOCABULARY = 257


def check(cfg: DictConfig) -> None:
    """Raise one UserError that lists everything wrong with `cfg`. Reads the disk, writes nothing, imports no torch."""
    with hydra_errors_as_user_errors():
        OmegaConf.resolve(cfg.copy())
    complaints = [*_values(cfg, schema.Root), *_vocabulary(cfg), *_lengths(cfg), *_run_folder(Path(cfg.run.dir))]
    if complaints:
        raise UserError("\n".join(complaints))


def _values(node: Any, model: type, prefix: str = "") -> Iterator[str]:
    typed = OmegaConf.structured(model)
    for field in fields(model):
        if field.name not in node:
            continue
        if isinstance(field.type, type) and is_dataclass(field.type):
            yield from _values(node[field.name], field.type, f"{prefix}{field.name}.")
            continue
        value, name = node[field.name], f"{prefix}{field.name}"
        try:
            typed[field.name] = value
        except (ValidationError, OmegaConfBaseException):
            yield f"{name}={value} is not {_kind(field)}: {name} is {field.metadata['doc']}."
            continue
        yield from _range(name, typed[field.name], field)


def _range(name: str, value: Any, field: "Field[Any]") -> Iterator[str]:
    limits = field.metadata
    if "choices" in limits and value not in limits["choices"]:
        yield f"{name}={value} is none of {', '.join(str(choice).lower() for choice in limits['choices'])}."
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    if "least" in limits and not value >= limits["least"]:
        yield f"{name}={value} is too small: the least is {limits['least']}."
    if "above" in limits and not value > limits["above"]:
        yield f"{name}={value} is too small: it must be above {limits['above']}."
    if "most" in limits and not value <= limits["most"]:
        yield f"{name}={value} is too large: the most is {limits['most']}."


def _kind(field: "Field[Any]") -> str:
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "None": "null"}
    text = field.type.__name__ if isinstance(field.type, type) else str(field.type)
    return " or ".join(names.get(part.strip(), part.strip()) for part in text.split("|"))


def _vocabulary(cfg: DictConfig) -> Iterator[str]:
    size = OmegaConf.select(cfg, "model.config.vocab_size")
    if isinstance(size, int) and size < SMALLEST_VOCABULARY:
        yield f"model.config.vocab_size={size} is too small: bytes and the end of a text need {SMALLEST_VOCABULARY}."


def _lengths(cfg: DictConfig) -> Iterator[str]:
    if cfg.trainer.max_steps == -1 and cfg.trainer.get("max_epochs") in (None, -1):
        yield "The run would never end: set trainer.max_steps or trainer.max_epochs."
    for name, instead in (
        ("gradient_clip_val", "callbacks.nan_guard.max_grad_norm"),
        ("logger", "logger=…"),
        ("callbacks", "+callbacks.mine=…"),
    ):
        if cfg.trainer.get(name) is not None:
            yield f"trainer.{name} is decided elsewhere: use {instead}."


def _run_folder(folder: Path) -> Iterator[str]:
    here = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not here.is_dir():
        yield f"The run folder {folder} cannot be made: {here} is a file. Try run.root=FOLDER."
    elif not os.access(here, os.W_OK):
        yield f"The run folder {folder} cannot be written: no permission in {here}. Try run.root=FOLDER."
