"""Where does a run that somebody else made read and write? Outside of what was typed, nothing is written, and what is
read is said."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from harness.config.identity import flat, resolved
from harness.config.trust import refuse_untrusted
from harness.console import say
from harness.errors import UserError

WRITTEN = ("data.prepared",)
PATHS = ("path", "prepared")  # a key that ends so is a path, and so is a text that looks like one
NO_PATHS = ("prompt", "prompts", "_target_")


def admit(cfg: DictConfig, parts: Collection[str], folder: Path, *, trusted: Collection[str] = ()) -> None:
    """Raise UserError when `parts` of a run's config name what may do harm here. See SECURITY.md."""
    refuse_untrusted(cfg, parts, trusted=trusted, where=folder.as_posix())
    confine(cfg, parts, folder, trusted=trusted)


def confine(cfg: DictConfig, parts: Iterable[str], folder: Path, *, trusted: Collection[str] = ()) -> None:
    """Say which places outside of the working directory and of the run's `folder` these groups of its config read.

    Raises UserError for one that would be written to, unless it holds prepared data already or its key is `trusted`.
    """
    values = resolved(cfg)
    for key, place in _outside({part: values.get(part) for part in parts}, folder):
        if key not in WRITTEN:
            say(f"Reads {place} ({key} in {folder.as_posix()}/config.yaml)")
        elif key not in trusted and not any(place.glob("*/meta.json")):
            raise UserError(
                f"{folder.as_posix()} may have been made by somebody else, and would write to {place} ({key}).",
                cure=f"Name text with data.path=PATH, or add --trust {key} if that is the right place.",
            )


def _outside(values: dict[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    allowed = [Path.cwd().resolve(), folder.resolve()]
    for key, value in flat(values).items():
        name = key.rpartition(".")[2]
        if not isinstance(value, str) or name in NO_PATHS or not (name.endswith(PATHS) or _looks_like_one(value)):
            continue
        place = Path(value).expanduser().resolve()  # a link may lead anywhere
        if not any(place.is_relative_to(root) for root in allowed):
            yield key, place
            allowed.append(place)  # `data.source.path` says the same again


def _looks_like_one(value: str) -> bool:
    path = Path(value)
    return path.is_absolute() or value.startswith("~") or ".." in path.parts
