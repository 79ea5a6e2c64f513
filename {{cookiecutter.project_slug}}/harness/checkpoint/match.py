"""Weights under other names: wrappers put prefixes before the names of the same model."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.errors import UserError
from harness.wrappers import plain

# A Lightning module and transformers' own causal models both hold a model as `model`; encoders stand before a
# `language_model`.
HOLDERS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    lambda name: name.removeprefix("model."),
    lambda name: f"model.{name}",
    lambda name: f"language_model.{name}",
)
MOST_ROWS = 20


@dataclass(frozen=True)
class Match:
    """Which weights belong to which parameters of a model."""

    fitting: dict[str, Tensor]  # by the names of the model
    rows: dict[str, str]  # what does not fit: a line of a table by its plain name


def matched(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Match:
    """Find the places of `weights` among the names of `wanted`, whatever wrappers were around either model."""
    places = {plain(name): name for name in wanted}
    named = [{holder(plain(name)): tensor for name, tensor in weights.items()} for holder in HOLDERS]
    offered = max(named, key=lambda candidate: len(candidate.keys() & places.keys()))
    rows = {name: f"missing     {name}" for name in places.keys() - offered.keys()}
    rows |= {name: f"unexpected  {name}" for name in offered.keys() - places.keys()}
    fitting = {}
    for name in places.keys() & offered.keys():
        have, want = tuple(offered[name].shape), tuple(wanted[places[name]].shape)
        if have == want:
            fitting[places[name]] = offered[name]
        else:
            rows[name] = f"shape       {name}: {have} in the file, {want} in the model"
    return Match({name: fitting[name] for name in wanted if name in fitting}, rows)


def fitted(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: Path) -> dict[str, Tensor]:
    """Return `weights` under the names of `wanted`. Raises UserError with a table of everything that is missing,
    unexpected or of another shape; `source` is for that."""
    found = matched(weights, wanted)
    if found.rows:
        raise misfit(
            weights, wanted, list(found.rows.values()), source, cure="Use the model=… that it was trained with."
        )
    return found.fitting


def misfit(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], rows: list[str], source: Path, *, cure: str
) -> UserError:
    """Return the error that lists `rows`, or says that nothing fits at all."""
    if not any(row.startswith("shape") for row in rows) and not matched(weights, wanted).fitting:
        examples = f"it has {next(iter(weights), 'none')}, the model has {next(iter(wanted), 'none')}"
        return UserError(f"No weight in {source} belongs to this model: {examples}.", cure="Is it another model=…?")
    return UserError(table(rows, source), cure=cure)


def refuse_misfit(
    missing: Iterable[str],
    unexpected: Iterable[str],
    shapes: Iterable[tuple[str, Any, Any]],
    source: Path,
    *,
    cure: str,
) -> None:
    """Raise UserError for what a library has found: names, and the shapes that are in the file and in the model."""
    rows = [f"missing     {name}" for name in missing] + [f"unexpected  {name}" for name in unexpected]
    rows += [f"shape       {n}: {tuple(have)} in the file, {tuple(want)} in the model" for n, have, want in shapes]
    if rows:
        raise UserError(table(rows, source), cure=cure)


def table(rows: list[str], source: Path) -> str:
    """Return the lines that say what does not fit, not too many."""
    more = [f"and {len(rows) - MOST_ROWS} more"] if len(rows) > MOST_ROWS else []
    return "\n  ".join([f"The weights in {source} do not fit the model:", *sorted(rows)[:MOST_ROWS], *more]) + "\n"
