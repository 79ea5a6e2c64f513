"""The frame of every command: compose and check the config, set the environment, call the target, explain failures.

Nothing heavy is imported before the config is composed and checked, so that help, completion and a typo answer at once.
"""

import argparse
import importlib
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from harness.config import schema, secrets
from harness.config.check import check
from harness.config.compose import (
    CONF,
    VERSION_BASE,
    compose,
    groups,
    hydra_errors_as_user_errors,
    known_keys_named,
    nearest,
    normalize_overrides,
    quoted,
)
from harness.config.habits import translated
from harness.config.help import help_page
from harness.config.identity import resolved
from harness.config.jobs import sweep, sweep_overrides
from harness.config.protection import unprotected
from harness.console import secrets_hidden
from harness.errors import BAD_INPUT, Stopped, UserError
from harness.ranks import rank
from harness.run import caches, debug_folder, environment
from harness.run.folder import choose_folder

log = logging.getLogger(__name__)


def run(target: str, *, debug: bool = False) -> None:
    """Run `module:function` on the config that the command line composes: the frame of train.py and debug.py.

    `debug` clears the debug folder before, and takes the preset `default` where no other is named.
    """
    with report_user_errors():
        secrets.learn(sys.argv[1:])
        to_project_folder()
        environment.apply(environment.read_dotenv(Path(".env")))
        args = arguments_of_hydra(sys.argv[1:])
        if args.help:
            print(help_page())
            return
        overrides = list(normalize_overrides(args.overrides))
        if debug and not any(word.startswith("+debug=") for word in overrides):
            overrides = [*normalize_overrides(["+debug=default"]), *overrides]
        if not (args.hydra_help or args.cfg or args.info or args.shell_completion):
            overrides = prepare(overrides, multirun=args.multirun, clear=debug)
        flags = [word for word in sys.argv[1:] if word not in args.overrides]
        sys.argv = [sys.argv[0], *flags, *overrides]
        _hydra_main(target, multirun=args.multirun)


def to_project_folder() -> None:
    """Go to the project's own folder from one below it, such as devtools/: paths are relative to the project."""
    project = CONF.parent
    if project in Path.cwd().resolve().parents:
        print(f"Paths are relative to the project, {project}.", file=sys.stderr)
        os.chdir(project)


def arguments_of_hydra(words: Sequence[str]) -> argparse.Namespace:
    """Parse flags and overrides. Raises UserError, with the key to type, for flags and keys of other tools."""
    args, strangers = get_args_parser().parse_known_args(words)
    if not strangers and not any(_is_habit(word) for word in args.overrides):
        return args
    more = _habits()
    said = []
    for number, word in enumerate(words):
        if word in strangers:
            following = words[number + 1] if number + 1 < len(words) else ""
            value = "" if "=" in word or following.startswith("-") or "=" in following else following
            meant = translated(f"{word}={value}" if value else word, more)
            said.append(f"There is no flag {word}." + (f" Type {meant}" if meant else _KEYS_HAVE_NO_DASHES))
        elif _is_habit(word) and (meant := translated(word, more)):
            said.append(f"There is no key {word.partition('=')[0]!r}. Did you mean {meant}?")
    if said:
        raise UserError("\n".join(said))
    return args


_KEYS_HAVE_NO_DASHES = " Keys are typed as KEY=VALUE; python train.py --help lists them."


def _is_habit(word: str) -> bool:
    key = word.partition("=")[0]
    return (
        key.isidentifier() and key not in (*groups(), *schema.Root.model_fields) and bool(translated(word, _habits()))
    )


def _habits() -> Mapping[str, str]:
    return schema.declared(known_keys_named()).habits


def prepare(overrides: Sequence[str], *, multirun: bool, clear: bool = False) -> list[str]:
    """Check every job before the first one starts, set the environment, and return the overrides with the folder
    named."""
    jobs = sweep(overrides) if multirun else [list(overrides)]
    configs = [compose(job) for job in jobs]
    for cfg in configs:
        secrets.learn(OmegaConf.to_container(cfg, resolve=False), resolved(cfg))
        check(cfg)
    first = configs[0]
    isolated = enter_debug_folder(first.debug, clear=clear) if first.debug.folder is not None else {}
    environment.apply({**isolated, **first.env})
    for cfg in configs:
        schema.declared(cfg).look(cfg)
    if multirun:
        return [*overrides, *sweep_overrides(overrides, configs)]
    return [*overrides, f"++run.name={quoted(choose_folder(first))}"]


def enter_debug_folder(debug: DictConfig, *, clear: bool) -> Mapping[str, environment.Value]:
    """Claim a debug folder before anything reads its name, and return the variables that `debug.isolate` asks for."""
    folder = debug_folder.enter(clear=clear and debug.clean)
    isolated = caches.isolated(folder / "hf") if debug.isolate else {}
    if rank() == 0:
        for link in caches.dangling_links():
            log.warning("%s points to a file that is gone; it is downloaded again when something asks for it.", link)
    return isolated


def tool(target: str, parser: argparse.ArgumentParser, **given: Any) -> None:
    """Run `module:function` on parsed arguments: the frame of the commands that take a run instead of a config."""
    with report_user_errors():
        # First, so that what is missing is said before torch is imported; options may stand between the words.
        arguments = vars(parser.parse_intermixed_args())
        load(target)(**arguments, **given)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add --trust to a command that builds what a run's config names."""
    parser.add_argument(
        "--trust", metavar="NAME", action="append", default=[],
        help="build this of the run's config too: a class, a package of yours or a key; see SECURITY.md",
    )  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A line in the table of `python -m lm`. `module` has `arguments()`, a parser, and `TARGET`: `module:function`."""

    name: str
    module: str
    what: str
    given: Mapping[str, Any] = field(default_factory=dict)  # further arguments of the function


def run_command(program: str, table: Sequence[Command]) -> None:
    """Run the command that the first word names, or print the table."""
    name, *rest = sys.argv[1:] or ["--help"]
    command = next((entry for entry in table if entry.name == name), None)
    if command is None:
        print(f"{program} NAME …, where NAME is one of", *(f"  {c.name:<16}{c.what}" for c in table), sep="\n")
        if name in ("-h", "--help"):
            return
        print(f"\nThere is no command {name!r}.{nearest(name, [c.name for c in table])}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    module: Any = importlib.import_module(command.module)
    parser = module.arguments()
    parser.prog = f"{program} {name}"
    sys.argv = [parser.prog, *rest]
    tool(module.TARGET, parser, **command.given)


def number(kind: type[int] | type[float], least: float, most: float = math.inf) -> Callable[[str], float]:
    """Return an argparse type: a finite number that is at least, and at most, so much."""

    def parse(text: str) -> float:
        value = kind(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{text} is not a finite number")
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is too small: the least is {least}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text} is too large: the most is {most}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"  # argparse names it in "invalid … value"
    return parse


def load(target: str) -> Callable[..., Any]:
    """Return the function that `module:function` names."""
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]


class Ended(BaseException):
    """Carries a job's exception past Hydra, which would print all overrides before it. `__cause__` is the exception."""


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Print a UserError as its sentence and exit with its code; HYDRA_FULL_ERROR=1 shows the traceback."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra would print its own shortened traceback and exit with 1; so set, it hands exceptions to us as they were.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with secrets_hidden():
        try:
            with hydra_errors_as_user_errors():
                yield
        except UserError as error:
            if wants_traceback:
                traceback.print_exc()
            print(error, file=sys.stderr)
            sys.exit(error.code)
        except KeyboardInterrupt:  # before training listens to it, or in a tool
            if wants_traceback:
                traceback.print_exc()
            print("Stopped by Ctrl-C.", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)


def _hydra_main(target: str, *, multirun: bool) -> None:
    failed: list[Exception] = []

    def task(cfg: DictConfig) -> Any:
        with open_dict(cfg):
            cfg.run.dir = _relative(HydraConfig.get().runtime.output_dir)
        try:
            check(cfg)
            for sentence in unprotected(cfg):
                log.warning("%s", sentence)
            return load(target)(cfg)
        except Exception as error:
            if not multirun or isinstance(error, Stopped):
                raise Ended from error
            log.error("%s failed: %s", cfg.run.name, error)  # the other jobs go on
            failed.append(error)

    try:
        with _configs_saved_without_secrets():
            hydra.main(config_path=str(CONF), config_name="train", version_base=VERSION_BASE)(task)()
    except Ended as ended:
        failed.insert(0, cast(Exception, ended.__cause__))
    if failed:
        raise failed[0]


@contextmanager
def _configs_saved_without_secrets() -> Iterator[None]:
    """Hydra's sweeper saves a copy of the config, overrides and all, as multirun.yaml; no hook lets us change it."""
    save = OmegaConf.save

    def masking(config: Any, f: Any, resolve: bool = False) -> None:
        plain = OmegaConf.to_container(config, resolve=resolve) if OmegaConf.is_config(config) else config
        save(OmegaConf.create(secrets.masked(plain)), f)

    OmegaConf.save = masking  # type: ignore[method-assign]
    try:
        yield
    finally:
        OmegaConf.save = save  # type: ignore[method-assign]


def _relative(folder: str) -> str:
    """Return a folder as a user would type it: short below the working directory, and so the same on another
    machine."""
    path, here = Path(folder), Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)
