"""What a checkpoint will hold, made ready while training stands still: small files as their bytes, tensors apart."""

import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.checkpoint.read import TRAINER, TRAINER_TENSORS, WEIGHTS
from harness.checkpoint.tree import split, untie
from harness.distributed import is_split


@dataclass(frozen=True)
class Contents:
    """`tensors`: by the file they go into, by name. `files`: bytes by name; of ranks that write together, the first has
    them. `trees`: what is pickled in some of these. `about`: entries of the manifest (JSON). `states`: what has to be
    finite, {kind: {name: tensor}}."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    files: Mapping[str, bytes]
    trees: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, Any]
    states: Mapping[str, Mapping[str, Any]]
    sharded: bool

    @property
    def leads(self) -> bool:
        """Say whether this rank writes what is nobody's part: it is alone, or the first of those that write."""
        return not self.sharded or torch.distributed.get_rank() == 0


def contents(
    *,
    step: int,
    weights: Mapping[str, Tensor],
    trainer: Mapping[str, Any],
    rng: Sequence[Mapping[str, Any]] = (),
    about: Mapping[str, Any] | None = None,
    extra: Mapping[str, str | bytes] | None = None,
    states: Mapping[str, Mapping[str, Any]] | None = None,
) -> Contents:
    """Return what a checkpoint of these will hold. Its tensors are the given ones, not copies.

    `trainer` is any tree of dicts, lists, numbers, strings and tensors; `rng` has one entry per rank; `extra` (name:
    content) are more files, such as config.json.
    """
    sharded = any(is_split(tensor) for tensor in weights.values())
    kept, aliases = untie(weights)
    tensors: dict[str, Tensor] = {}
    tree = split(trainer, tensors, "trainer" if sharded else "")  # shards have one name space for both
    groups = {TRAINER_TENSORS: tensors, WEIGHTS: kept}
    # Aliases are not in the header of the weights: safetensors writes two keys in any order, and equal files are to be
    # equal.
    files: dict[str, bytes] = {}
    trees = {TRAINER: dict(tree)} | {f"rng-rank{rank}.pt": dict(state) for rank, state in enumerate(rng)}
    made = Contents(step, groups, files, trees, {**(about or {}), "aliases": aliases}, states or {}, sharded)
    if made.leads:
        files |= {name: _dumps(tree) for name, tree in trees.items()}
        files |= {name: text.encode() if isinstance(text, str) else text for name, text in (extra or {}).items()}
    return made


def refuse_what_could_not_be_loaded(contents: Contents) -> None:
    """Raise TypeError, which names it, for a state that weights_only=True refuses; loading it is the only proof."""
    for name, tree in contents.trees.items() if contents.leads else ():
        try:
            _loads(contents.files[name])
        except pickle.UnpicklingError:
            for key, value in tree.items():
                _refuse_unless_loadable(key, value)
            raise


def _refuse_unless_loadable(key: str, value: Any) -> None:
    try:
        _loads(_dumps(value))
    except pickle.UnpicklingError as error:
        raise TypeError(
            f"The state {key!r} cannot be in a checkpoint: use numbers, strings, lists, dicts and tensors. ({error})"
        ) from error


def _dumps(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _loads(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), weights_only=True)
