"""Weights under other names: wrappers put prefixes before the names of the same model."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from harness.errors import UserError

# torch.compile, DistributedDataParallel, activation checkpointing; each may stand anywhere in a name.
WRAPPERS = ("_orig_mod.", "module.", "_checkpoint_wrapped_module.")
# A Lightning module and transformers' own causal models both hold a model as `model`.
HOLDERS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    lambda name: name.removeprefix("model."),
    lambda name: f"model.{name}",
)
MOST_ROWS = 20


def fitted(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: Path) -> dict[str, Tensor]:
    """Return `weights` under the names of `wanted`, whatever wrappers were around either model.

    Raises UserError with a table of everything that is missing, unexpected or of another shape; `source` is for that.
    """
    places = {plain(name): name for name in wanted}
    named = [{holder(plain(name)): tensor for name, tensor in weights.items()} for holder in HOLDERS]
    offered = max(named, key=lambda candidate: len(candidate.keys() & places.keys()))
    if not offered.keys() & places.keys():
        examples = f"it has {next(iter(weights), 'none')}, the model has {next(iter(wanted), 'none')}"
        raise UserError(f"No weight in {source} belongs to this model: {examples}.", cure="Is it another model=…?")
    rows = [f"missing     {name}" for name in places.keys() - offered.keys()]
    rows += [f"unexpected  {name}" for name in offered.keys() - places.keys()]
    for name in places.keys() & offered.keys():
        have, want = tuple(offered[name].shape), tuple(wanted[places[name]].shape)
        if have != want:
            rows.append(f"shape       {name}: {have} in the file, {want} in the model")
    if rows:
        raise UserError(_table(rows, source), cure="Use the model=… that it was trained with.")
    return {place: offered[name] for name, place in places.items()}


def plain(name: str) -> str:
    """Return a parameter's name without what wrappers add."""
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper).replace(f".{wrapper}", ".")
    return name


def _table(rows: list[str], source: Path) -> str:
    more = [f"and {len(rows) - MOST_ROWS} more"] if len(rows) > MOST_ROWS else []
    return "\n  ".join([f"The weights in {source} do not fit the model:", *sorted(rows)[:MOST_ROWS], *more]) + "\n"
