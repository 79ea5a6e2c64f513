"""Parameters that are not trained, by patterns of their names."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from harness.errors import UserError


def freeze(network: nn.Module, patterns: Sequence[str], *, key: str) -> None:
    """Leave the parameters whose names match as they are. Raises UserError for a pattern that no name matches, with the
    nearest names, and when nothing is left to train; `key` is where the patterns were typed."""
    named = dict(network.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        found = [name for name in named if fnmatchcase(name, pattern)]
        if not found:
            near = [name for name in named if fnmatchcase(name, f"*{pattern}*")][:3]
            near = near or difflib.get_close_matches(pattern, named, n=3, cutoff=0.3) or list(named)[:3]
            raise UserError(f"{key}: no parameter matches {pattern!r}.", cure=f"Near are {', '.join(near)}.")
        for name in found:
            named[name].requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in named.values()):
        raise UserError(f"{key}={list(patterns)} leaves nothing to train.", cure="Name fewer parameters.")
