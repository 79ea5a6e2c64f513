"""Hydra's part of train.py: parse, compose and check every job, set the environment, and only then begin."""

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from harness.cli import load
from harness.config import schema, secrets
from harness.config.check import check
from harness.config.compose import VERSION_BASE, compose, hydra_errors_as_user_errors, normalize_overrides, quoted
from harness.config.habits import translated
from harness.config.help import help_page
from harness.config.identity import resolved
from harness.config.jobs import sweep, sweep_overrides
from harness.config.names import CONF, groups, keys_of_experiment
from harness.config.protection import unprotected
from harness.errors import Stopped, UserError
from harness.ranks import rank
from harness.run import caches, debug_folder, environment

log = logging.getLogger(__name__)


def run(target: str, *, debug: bool) -> None:
    """Check every job of the command line, then let Hydra run them."""
    with hydra_errors_as_user_errors():
        environment.apply(environment.read_dotenv(Path(".env")))
        args = arguments_of_hydra(sys.argv[1:])
        if args.help:  # spelled --he, say
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


def arguments_of_hydra(words: Sequence[str]) -> argparse.Namespace:
    """Parse flags and overrides. Raises UserError, with the key to type, for flags and keys of other tools."""
    args, strangers = get_args_parser().parse_known_intermixed_args(words)
    if not strangers and not any(_is_habit(word) for word in args.overrides):
        return args
    more = keys_of_experiment().habits
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
    if not key.isidentifier() or key in (*groups(), *schema.Root.model_fields):
        return False
    return bool(translated(word, keys_of_experiment().habits))


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
    # Not sooner: a wrong value is answered without torch.
    from harness.hardware import refuse_missing_devices
    from harness.run.folder import choose_folder
    from harness.telemetry.loggers import refuse_unknown_accounts

    for cfg in configs:
        refuse_missing_devices(cfg)
        refuse_unknown_accounts(cfg.logger)
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


class Ended(BaseException):
    """Carries a job's exception past Hydra, which would print all overrides before it. `__cause__` is the exception."""


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
