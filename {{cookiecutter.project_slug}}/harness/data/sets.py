"""The sets of a mixture: which documents each has, and its share. Nothing heavy is imported: a mistake is answered at
once."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from harness.config.check import check
from harness.config.compose import compose
from harness.config.names import choices, nearest
from harness.data.material import Material, build_sources, validation_source
from harness.errors import UserError

LONGEST = 100_000  # positions after which the order of sets has to repeat itself
OPTIONS = ("path", "val_path", "val_fraction", "limit", "column", "on_bad", "config", "split", "dtype")  # of a set


def materials(sets: Mapping[str, Mapping[str, Any]], val_fraction: float, seed: int) -> dict[str, Material]:
    """Return the documents of each set by its name: of the data config that it names with `data` (by default as it is
    called itself), with its options on top. The mixture's `val_fraction` holds where it has none. Raises UserError."""
    if not sets:
        raise UserError(
            "data=mixture needs to know which sets.",
            cure="Type 'data.sets={code:{data:stdlib,weight:0.7},prose:{data:text,path:PATH,weight:0.3}}'.",
        )
    weights_of(sets)
    found = {}
    for name, options in sets.items():
        data = _config(name, {"val_fraction": val_fraction, **options})
        found[name] = Material(*build_sources(data), data.val_fraction, seed, data.limit)
    return found


def materials_of(data: DictConfig, seed: int) -> dict[str, Material]:
    """Return the documents of a data config by the names of its sets; "" where it is one. Raises UserError."""
    if data.get("sets") is not None:
        return materials(data.sets, data.val_fraction, seed)
    return {"": Material(*build_sources(data), data.val_fraction, seed, data.limit)}


def check_material(data: DictConfig, seed: int) -> None:
    """Look whether there is something to read, of one source or of each set. Raises UserError."""
    if "source" in data:
        validation = validation_source(data)
        instantiate(data.source).check()
        try:
            if validation is not None:
                instantiate(validation).check()
        except UserError as error:
            raise UserError(str(error).replace("data.path", "data.val_path")) from error
    if data.get("sets") is not None:
        for material in materials(data.sets, data.val_fraction, seed).values():
            material.check()


def weights_of(sets: Mapping[str, Mapping[str, Any]]) -> list[Fraction]:
    """Return each set's `weight` as a share of all. Raises UserError for what is not a number above 0."""
    given = {name: options.get("weight") for name, options in sets.items()}
    for name, weight in given.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise UserError(f"data.sets.{name}.weight={weight} is not a number above 0.", cure="Say weight: 0.5, say.")
    parts = [Fraction(str(weight)) for weight in given.values()]
    shares = [part / sum(parts) for part in parts]
    if math.lcm(*(share.denominator for share in shares)) > LONGEST:
        raise UserError(
            f"The weights {', '.join(map(str, given.values()))} hold exactly only over more than {LONGEST:,} windows.",
            cure="Take fewer digits: 0.5, 0.3 and 0.2, or 5, 3 and 2.",
        )
    return shares


def _config(name: str, options: dict[str, Any]) -> DictConfig:
    data = str(options.pop("data", name))
    options.pop("weight", None)
    if data not in choices("data") or data == "mixture":
        known = [choice for choice in choices("data") if choice not in ("mixture", "base")]
        raise UserError(f"data.sets.{name}: there is no data={data}.{nearest(data, known)}", cure="See conf/data/.")
    for key in options:
        if key not in OPTIONS:
            raise UserError(
                f"data.sets.{name}.{key}: a set of a mixture has no such option.{nearest(key, OPTIONS)}",
                cure=f"It has {', '.join(OPTIONS)}; the rest is the mixture's: data.{key}=…",
            )
    with _without_hydra():
        cfg = compose([f"data={data}"])
    cfg = OmegaConf.merge(cfg, {"data": options})  # type: ignore[assignment]
    try:
        check(cfg)
    except UserError as error:
        raise UserError(f"data.sets.{name}: {error}") from error
    return cfg.data  # type: ignore[no-any-return]


@contextmanager
def _without_hydra() -> Iterator[None]:
    """Set a Hydra that is running aside: it allows one at a time, and the sets of a mixture are composed inside it."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running
