"""The names that can be typed, read from conf/ without Hydra: groups, their choices, and the nearest right one."""

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path

import yaml

from harness.config.schema import Root, declared

CONF = Path(__file__).resolve().parents[2] / "conf"
NO_GROUPS = ("hydra", "plumbing")


def keys_of_experiment() -> type[Root]:
    """Return the keys that this experiment declares; composing the config to find their module takes longer."""
    return declared(yaml.safe_load((CONF / "plumbing" / "known_keys.yaml").read_text(encoding="utf-8")))


@functools.cache
def groups() -> list[str]:
    """Return the config groups: the folders of conf/ that hold choices."""
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name not in NO_GROUPS)


def choices(group: str) -> list[str]:
    """Return the names that `GROUP=` takes."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml") if file.stem != "base")


def nearest(name: str, names: Sequence[str], cutoff: float = 0.6) -> str:
    """Return ` Did you mean x?` for the nearest of `names`, or nothing where none is near."""
    names = [other for other in names if other != name]
    by_last = {candidate.rpartition(".")[2]: candidate for candidate in reversed(names)}
    found = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    found = found or [
        by_last[last] for last in difflib.get_close_matches(name.rpartition(".")[2], by_last, n=1, cutoff=0.75)
    ]
    return f" Did you mean {found[0]}?" if found else ""
