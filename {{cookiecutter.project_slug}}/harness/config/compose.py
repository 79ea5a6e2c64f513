"""From a command line to a config, with every mistake answered by one sentence and the nearest right name."""

import copy
import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_origin

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.identity import default_name
from harness.config.kinds import is_section
from harness.config.names import CONF, choices, groups, nearest
from harness.config.schema import Root, declared
from harness.errors import UserError

VERSION_BASE = "1.3"
MAY_BE_EMPTY = ("callbacks", "logger")

OmegaConf.register_new_resolver("project_folder", lambda: str(CONF.parent), replace=True)
OmegaConf.register_new_resolver("run_name", lambda _root_: default_name(_root_), replace=True)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the config of `python train.py OVERRIDES`, without hydra's own node. Raises UserError for a mistake in
    it."""
    with hydra_errors_as_user_errors():
        words = list(normalize_overrides(overrides))
        with initialize_config_dir(str(CONF), version_base=VERSION_BASE):
            try:
                return hydra_compose("train", words)
            except (HydraException, OmegaConfBaseException, yaml.YAMLError):
                raise
            # Odd files and odd values make Hydra raise whatever its code stumbles over.
            except Exception as error:
                raise UserError(_stumbled(words, error)) from error


Read = dict[tuple[str, ...], DictConfig]


def compose_all(jobs: Sequence[Sequence[str]], read: Read | None = None) -> list[DictConfig]:
    """As `compose` for each. Reading the files takes the time, so jobs that differ only in values share that.

    read: what earlier calls have read.
    """
    read = {} if read is None else read
    configs = []
    for job in jobs:
        words = list(normalize_overrides(job))
        files = tuple(word for word in words if not _is_value(word))
        if files not in read:
            read[files] = compose(files)
        cfg = copy.deepcopy(read[files])
        try:
            values = [_parsed(word) for word in words if _is_value(word)]
            ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        except (HydraException, OmegaConfBaseException):
            cfg = compose(job)  # says what is wrong
        configs.append(cfg)
    return configs


def _is_value(word: str) -> bool:
    key = word.lstrip("+").partition("=")[0]
    known = "." in key or key in Root.model_fields
    return known and key.replace(".", "_").isidentifier() and not key.startswith("hydra") and key not in groups()


def normalize_overrides(overrides: Sequence[str]) -> Iterator[str]:
    """Let keys be typed without `+` where the files leave them to a library, and values without quotes.

    What is in a group is checked by `harness.config.check`, which knows the arguments of every `_target_`; so Hydra
    need not know them (`++`). Debug presets are put on top of the preset `default`, here and not by a defaults list in
    each: in `+debug=[mps,resume]`, the second one's list would bring `default` again and undo what the first changed.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        if key in ("debug", "+debug"):
            yield f"+debug={','.join(_on_default(choice) for choice in _alternatives(value))}"
        elif key.startswith("+") and key[1:] in groups():
            yield override.removeprefix("+")  # the files choose something there already: + would choose twice
        elif key in MAY_BE_EMPTY and value.strip() == "null":
            yield f"~{key}"
        else:
            word = _quoted(override)
            yield f"++{word}" if key.partition(".")[0] in _sections() and "." in key else word


def parsed(overrides: Sequence[str]) -> list[Override]:
    """Return overrides as Hydra reads them. Raises UserError."""
    with hydra_errors_as_user_errors():
        return [_parsed(word) for word in overrides]


@functools.cache  # the jobs of a sweep have most words in common
def _parsed(word: str) -> Override:
    return OverridesParser.create().parse_overrides([word])[0]


def quoted(value: str) -> str:
    """Return a text as Hydra's grammar reads it back, whatever is in it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quoted(override: str) -> str:
    """Quote a value that Hydra's grammar refuses (an accent, a bracket), unless it looks like a list or like quotes."""
    try:
        _parsed(override)
    except HydraException:
        key, equals, value = override.partition("=")
        if equals and re.fullmatch(r"[^,\[\]{}\"$]+", value):
            return f"{key}={quoted(value)}"
    return override


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
    """Turn what Hydra and OmegaConf raise for a mistake on the command line into a UserError.

    A UserError that was raised inside a `_target_` comes through as it is.
    """
    try:
        yield
    except MissingConfigException as error:
        raise UserError(_missing(error)) from error
    except OverrideParseException as error:
        raise UserError(
            f"Cannot read the override {error.override!r}: {_first_line(error)}.",
            cure="Quote what has spaces, commas or braces, for example 'key=\"a b\"'.",
        ) from error
    except InstantiationException as error:
        raise _inside(error) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_composition(error)) from error
    except yaml.YAMLError as error:
        raise UserError(_broken(error)) from error


def _inside(error: BaseException) -> UserError:
    """Return the UserError that a target raised, or one with the type, the message and the key in the config."""
    text = str(error)
    reason: BaseException = error
    while reason.__cause__ is not None:
        reason = reason.__cause__
        if isinstance(reason, UserError):
            return reason
    key, target = re.search(r"full_key: (\S+)", text), re.search(r"'([\w.]+)'", text)
    where = f"{key[1]}: " if key else ""
    what = " ".join(str(reason).split()) or "no message"
    if reason is error:
        return UserError(f"{where}{what}.")
    return UserError(f"{where}{target[1] if target else 'a target'} raised {type(reason).__name__}: {what}")


@functools.cache
def known_keys() -> list[str]:
    """Return every key that can be typed: those of the default config, of the schema, and the groups."""
    with initialize_config_dir(str(CONF), version_base=VERSION_BASE):
        cfg = hydra_compose("train")
    keys = set(_keys(OmegaConf.to_container(cfg, resolve=False)))
    for name, info in declared(cfg).model_fields.items():
        if is_section(info.annotation):
            keys |= {f"{name}.{field}" for field in info.annotation.model_fields}
    return sorted(keys | set(groups()))


@functools.cache
def _sections() -> frozenset[str]:
    kinds = {name: info.annotation for name, info in Root.model_fields.items()}
    mappings = {name for name, kind in kinds.items() if is_section(kind) or get_origin(kind) is dict}
    return frozenset(mappings | set(groups())) - {"experiment"}


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
    where = re.search(r"full_key: (\S+)", text)
    return f"{f'{where[1]}: ' if where else ''}{_first_line(error).rstrip('.')}."


def _stumbled(words: Sequence[str], error: Exception) -> str:
    """Say what Hydra could not do with these words, and with which of them where one alone has a strange value."""
    empty = [word for word in words if word.partition("=")[0] in groups() and not re.search(r"=\s*[\w\[]", word)]
    null = [word for word in words if word.partition("=")[0] in groups() and word.endswith("=null")]
    for word in (*null, *empty):
        group = word.partition("=")[0]
        return f"{word} leaves out what every run has. The choices in conf/{group}/ are {', '.join(choices(group))}."
    return f"The config cannot be composed: {type(error).__name__}: {_first_line(error)}."


def _broken(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "A file in conf/"
    problem = getattr(error, "problem", None) or _first_line(error)
    return f"{where.strip()} is not valid YAML: {problem}."


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")
