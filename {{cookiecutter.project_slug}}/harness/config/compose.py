"""From a command line to a config, with every mistake answered by one sentence and the nearest right name."""

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config import schema
from harness.config.identity import default_name
from harness.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"
VERSION_BASE = "1.3"

OmegaConf.register_new_resolver("project_folder", lambda: str(CONF.parent), replace=True)
OmegaConf.register_new_resolver("run_name", lambda _root_: default_name(_root_), replace=True)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the config of `python train.py OVERRIDES`, without hydra's own node. Raises UserError for a mistake in
    it."""
    with hydra_errors_as_user_errors(), initialize_config_dir(str(CONF), version_base=VERSION_BASE):
        return hydra_compose("train", list(normalize_overrides(overrides)))


def normalize_overrides(overrides: Sequence[str]) -> Iterator[str]:
    """Let Lightning's own arguments and debug presets be typed without a `+`, though they are not in the config by
    default.

    Debug presets are put on top of the preset `default`, here and not by a defaults list in each: in
    `+debug=[mps,resume]`, the second one's list would bring `default` again and undo what the first one changed.
    """
    arguments = {f"trainer.{field.name}" for field in fields(schema.Trainer)}
    for override in overrides:
        key, _, value = override.partition("=")
        if key in arguments:
            yield f"++{override}"
        elif key in ("debug", "+debug"):
            yield f"+debug={','.join(_on_default(choice) for choice in _alternatives(value))}"
        else:
            yield override


def _on_default(choice: str) -> str:
    names = [name.strip() for name in choice.strip("[] ").split(",")]
    # To Hydra, a bare nan is a number.
    quoted = ["'nan'" if name.strip("'\"") == "nan" else name for name in names if name not in ("", "default")]
    return f"[{','.join(['default', *quoted])}]"


def _alternatives(value: str) -> list[str]:
    """`mps` is one choice, `[mps,overfit]` is one, too, and `mps,cpu` are two jobs of a multirun."""
    return re.findall(r"\[[^\]]*\]|[^,\[\]]+", value) or [value]


@contextmanager
def hydra_errors_as_user_errors() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise for a mistake on the command line into a UserError."""
    try:
        yield
    except MissingConfigException as error:
        raise UserError(_missing(error)) from error
    except OverrideParseException as error:
        raise UserError(
            f"Cannot read the override {error.override!r}: {_first_line(error)}.",
            cure="Quote what has spaces, commas or braces, for example 'key=\"a b\"'.",
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_composition(error)) from error


def known_keys() -> list[str]:
    """Return every key that can be typed: those of the default config, of the schema, and the groups."""
    with initialize_config_dir(str(CONF), version_base=VERSION_BASE):
        cfg = hydra_compose("train")
    keys = set(_keys(OmegaConf.to_container(cfg, resolve=False)))
    for group in fields(schema.Root):
        if is_dataclass(group.type):
            keys |= {f"{group.name}.{field.name}" for field in fields(group.type)}
    return sorted(keys | set(groups()))


def groups() -> list[str]:
    """Return the config groups: the folders of conf/ that hold choices."""
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra")


def choices(group: str) -> list[str]:
    """Return the names that `GROUP=` takes."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml") if file.stem != "base")


def nearest(name: str, names: Sequence[str]) -> str:
    """Return ` Did you mean x?` for the nearest of `names`, or nothing where none is near."""
    by_last = {candidate.rpartition(".")[2]: candidate for candidate in reversed(names)}
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    found = found or [
        by_last[last] for last in difflib.get_close_matches(name.rpartition(".")[2], by_last, n=1, cutoff=0.75)
    ]
    return f" Did you mean {found[0]}?" if found else ""


def _missing(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file or "").rpartition("/")
    options = choices(group) if group in groups() else []
    if options:
        guess = nearest(choice, options)
        return f"There is no {group}={choice}.{guess} The choices in conf/{group}/ are {', '.join(options)}."
    return _first_line(error).rstrip(".") + "." + nearest(str(error.missing_cfg_file), groups())


def _composition(error: Exception) -> str:
    text = " ".join(str(part) for part in (error, error.__cause__) if part)
    key = re.search(r"(?:Could not override|Could not append to config\. An item is already at) '([^']+)'", text)
    if key and "already at" in text:
        return f"{key[1]!r} is in the config already: type {key[1]}=… without the +."
    if key:
        name = key[1].partition("@")[0]
        if name == "debug":
            return "Debug presets are added to what is there: type +debug=… with a plus."
        return f"There is no key {name!r}.{nearest(name, known_keys())} A new key of your own needs a plus: +{name}=…"
    return _first_line(error).rstrip(".") + "."


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")
