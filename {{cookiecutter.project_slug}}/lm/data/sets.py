"""The data of a config by the names of its sets, prepared without torch: a mixture has several, with one tokenizer."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from harness.data.sets import materials, weights_of
from lm.data.prepare import Prepared, Recipe, prepare, prepare_data, shared_tokenizer
from lm.data.tokenizer import TokenizerChoice


def prepare_sets(
    sets: Mapping[str, Mapping[str, Any]], recipe: Recipe, root: Path, choice: TokenizerChoice, *, sums: bool = False
) -> tuple[Path, dict[str, Prepared]]:
    """Return the folder of the tokenizer, and each set prepared with it, by name."""
    found, shares = materials(sets, recipe.val_fraction, recipe.seed), map(float, weights_of(sets))
    folder = shared_tokenizer(list(zip(found.values(), shares, strict=True)), recipe, root, choice)
    shared, prepared = TokenizerChoice(path=str(folder)), {}
    for name, part in found.items():
        own = replace(recipe, val_fraction=part.val_fraction, limit=part.limit)
        prepared[name] = prepare(part.source, own, root, choice=shared, validation=part.validation, sums=sums)
    return folder, prepared


def prepare_all(cfg: DictConfig, vocab_size: int, *, sums: bool = False) -> dict[str, Prepared]:
    """Return the prepared data of a composed config by the names of its sets; "" where it is one."""
    data = cfg.data
    if data.get("sets") is None:
        return {"": prepare_data(cfg, vocab_size, sums=sums)}
    recipe = Recipe(vocab_size, data.val_fraction, cfg.seed, data.limit)
    sets: Any = OmegaConf.to_container(data.sets)
    return prepare_sets(sets, recipe, Path(data.prepared), instantiate(data.tokenizer), sums=sums)[1]
