"""The sets of a mixture: each is a data config with options of its own, prepared with one tokenizer for all."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from harness.data.material import Material, build_sources
from harness.data.mixture import configs_of, weights_of
from harness.errors import UserError
from lm.data.prepare import Prepared, Recipe, prepare, prepare_data, shared_tokenizer
from lm.data.tokenizer import TokenizerChoice

OPTIONS = ("path", "val_path", "val_fraction", "limit", "column", "on_bad", "config", "split")


def materials(sets: Mapping[str, Mapping[str, Any]], val_fraction: float, seed: int) -> dict[str, Material]:
    """Return the documents of each set by its name; the mixture's `val_fraction` holds where it has none of its own."""
    weights_of(sets)
    found = {}
    for name, data in configs_of(sets, OPTIONS).items():
        if "source" not in data:
            raise UserError(f"data.sets.{name}: data={data.name} has no documents to mix.")
        held_out = data.val_fraction if "val_fraction" in sets[name] else val_fraction
        found[name] = Material(*build_sources(data), held_out, seed, data.limit)
    return found


def prepare_sets(
    sets: Mapping[str, Mapping[str, Any]],
    recipe: Recipe,
    root: Path,
    choice: TokenizerChoice | None = None,
    *,
    sums: bool = False,
) -> tuple[Path, dict[str, Prepared]]:
    """Return the folder of the tokenizer, and each set prepared with it, by name."""
    found, shares = materials(sets, recipe.val_fraction, recipe.seed), map(float, weights_of(sets))
    learns_from = list(zip(found.values(), shares, strict=True))
    folder = shared_tokenizer(learns_from, recipe, root, choice or TokenizerChoice())
    shared, prepared = TokenizerChoice(path=str(folder)), {}
    for name, material in found.items():
        own = replace(recipe, val_fraction=material.val_fraction, limit=material.limit)
        prepared[name] = prepare(material.source, own, root, choice=shared, validation=material.validation, sums=sums)
    return folder, prepared


def prepare_all(cfg: DictConfig, vocab_size: int, *, sums: bool = False) -> dict[str, Prepared]:
    """Return the prepared data of a composed config by the names of its sets; "" where it is one."""
    data = cfg.data
    if data.get("sets") is None:
        return {"": prepare_data(cfg, vocab_size, sums=sums)}
    choice = instantiate(data.tokenizer) if data.get("tokenizer") else None
    recipe = Recipe(vocab_size, data.val_fraction, cfg.seed, data.limit)
    return prepare_sets(OmegaConf.to_container(data.sets), recipe, Path(data.prepared), choice, sums=sums)[1]  # type: ignore[arg-type]
