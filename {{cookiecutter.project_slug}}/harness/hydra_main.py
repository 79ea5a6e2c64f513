"""Hydra's part of train.py: parse, compose and check every job, set the environment, and only then begin."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from harness.cli import call, load
from harness.config import schema, secrets
from harness.config.check import check
from harness.config.compose import (
    VERSION_BASE,
    Read,
    compose,
    compose_all,
    hydra_errors_as_user_errors,
    normalize_overrides,
    quoted,
)
from harness.config.habits import translated
from harness.config.help import help_page
from harness.config.identity import resolved
from harness.config.jobs import Multirun, fixed, is_sweep, jobs_of, multirun, with_listed, write_name
from harness.config.names import CONF, groups, keys_of_experiment
from harness.config.protection import unprotected
from harness.errors import UserError
from harness.ranks import rank
from harness.run import caches, debug_folder, environment

log = logging.getLogger(__name__)

# By name: they stand above, and only a multirun or a plan needs them.
LAUNCH, FINISHED = "harness.launch.sweep:run", "harness.launch.status:finished"
PLAN, PLAN_SWEEP = "harness.plan.command:run", "harness.plan.command:sweep"
USUAL = ("harness.", "lm.", "lightning.pytorch.loggers.TensorBoardLogger")
LIGHTNINGS = ("trainer", "callbacks", "logger")
# A multirun never comes to Hydra's own main, which would compose the config once more only to see that.
Hydra.get_mode = lambda *_, **__: RunMode.RUN  # type: ignore[method-assign]
LOOKED_AT = ("data", "model")  # jobs that have these in common name the same files, and listing files takes time


def run(target: str, *, debug: bool) -> None:
    """Check every job of the command line, then run it, or start them."""
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
            if args.plan:
                plan(target, overrides, multirun=args.multirun)
                return
            if args.multirun:
                jobs = prepare_multirun(overrides, clear=debug)
                call(LAUNCH, target, jobs)
                return
            overrides = prepare(overrides, clear=debug)
        train([*(word for word in sys.argv[1:] if word not in args.overrides), *overrides], target)


def arguments_of_hydra(words: Sequence[str]) -> argparse.Namespace:
    """Parse flags and overrides. Raises UserError, with the key to type, for flags and keys of other tools."""
    parser = get_args_parser()
    parser.add_argument("--plan", action="store_true")
    args, strangers = parser.parse_known_intermixed_args(words)
    if not strangers and not any(_is_habit(word) for word in args.overrides):
        return args
    more = keys_of_experiment().habits
    said, value = [], ""
    for number, word in enumerate(words):
        if value and word == value:  # of the flag before, after which it was said
            value = ""
        elif word in strangers:
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


def prepare(overrides: Sequence[str], *, clear: bool = False) -> list[str]:
    """Check the config, set the environment, and return the overrides with the folder named."""
    cfg = compose(overrides)
    check_all([cfg], clear=clear)
    if is_sweep(cfg):
        typed = " ".join(word.removeprefix("++") for word in overrides)  # which `normalize_overrides` adds
        raise UserError("This is a sweep: without -m there is one run.", cure=f"Type python train.py -m {typed}")
    look([cfg])
    refuse_what_is_not_here([cfg])
    from harness.run.folder import choose_folder  # not sooner: a wrong value is answered without

    if cfg.launcher.name != "local":
        raise UserError(f"launcher={cfg.launcher.name} is for the jobs of a multirun.", cure="Add -m to the command.")
    return [*overrides, f"++run.name={quoted(choose_folder(cfg))}"]


def plan(target: str, overrides: Sequence[str], *, multirun: bool) -> None:
    """Check the config, or every job's, and say what it would take. Devices that are not here are no mistake."""
    if multirun:
        call(PLAN_SWEEP, target, prepare_multirun(overrides, here=False))
        return
    cfg = compose(overrides)
    check_all([cfg], clear=False)
    look([cfg])
    from harness.run.folder import choose_folder

    with open_dict(cfg):
        cfg.run.name = choose_folder(cfg)
    call(PLAN, target, overrides, cfg)


def prepare_multirun(overrides: Sequence[str], *, clear: bool = False, here: bool = True) -> Multirun:
    """Check every job before the first one starts, set the environment, and return the jobs. With `here`, what they
    need has to be on this machine."""
    read: Read = {}
    [base] = compose_all([fixed(overrides)], read)
    words = with_listed(overrides, base)
    jobs = jobs_of(words, base)
    base, *configs = compose_all([fixed(words), *jobs], read)
    for cfg in configs:
        write_name(cfg)
    check_all(configs, clear=clear)
    found = multirun(words, base, jobs, configs)
    finished = load(FINISHED)(found)
    todo = [cfg for cfg in configs if cfg.run.name not in finished]
    look(todo)
    if here:
        refuse_what_is_not_here([cfg for cfg in todo if not _is_usual(cfg)])
    from harness.run.folder import choose_folder

    for cfg in todo:
        with open_dict(cfg):
            cfg.run.root, cfg.resume = found.folder.as_posix(), "auto"
        choose_folder(cfg)
    return found


def refuse_what_is_not_here(configs: Sequence[DictConfig]) -> None:
    """Raise UserError for what only torch and Lightning know: devices and accounts that are missing, targets that are
    no callback, arguments that the Trainer does not take."""
    different = {str([cfg[group] for group in LIGHTNINGS]): cfg for cfg in configs}
    for cfg in different.values():  # by name, as all that needs torch is loaded from this floor
        load("harness.hardware:refuse_missing_devices")(cfg)
        load("harness.telemetry.loggers:refuse_unknown_accounts")(cfg.logger)
        load("harness.trainer:refuse_early")(cfg)


def _is_usual(cfg: DictConfig) -> bool:
    """Say whether a job asks for nothing that torch and Lightning could refuse: a sweep's process imports neither."""
    trainer, usual = cfg.trainer, yaml.safe_load((CONF / "trainer" / "auto.yaml").read_text(encoding="utf-8"))
    if set(trainer) - set(usual) or trainer.accelerator not in ("auto", "cpu") or trainer.devices != 1:
        return False
    entries = [*cfg.callbacks.values(), *cfg.logger.values()]
    names = [str(entry["_target_"]) for entry in entries if entry is not None]
    return all(name.startswith(USUAL) for name in names)


def check_all(configs: Sequence[DictConfig], *, clear: bool) -> None:
    """Check configs, and set the environment that they ask for."""
    for cfg in configs:
        secrets.learn(OmegaConf.to_container(cfg, resolve=False), resolved(cfg))
        check(cfg)
    first = configs[0]
    isolated = enter_debug_folder(first.debug, clear=clear) if first.debug.folder is not None else {}
    environment.apply({**isolated, **first.env})


def look(configs: Sequence[DictConfig]) -> None:
    """Look at the files that configs name."""
    different = {str([resolved(cfg.get(name)) for name in LOOKED_AT]): cfg for cfg in configs}
    for cfg in different.values():
        schema.declared(cfg).look(cfg)


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


def train(words: Sequence[str], target: str) -> Any:
    """Run `target` on the config of `words`, which is checked, with Hydra's logging; return what it returns."""
    returned: list[Any] = []

    def task(cfg: DictConfig) -> None:
        with open_dict(cfg):
            cfg.run.dir = _relative(HydraConfig.get().runtime.output_dir)
        try:
            secrets.learn(OmegaConf.to_container(cfg, resolve=False), resolved(cfg))
            check(cfg)
            environment.apply(cfg.env)  # a job's may differ from the first one's
            for sentence in unprotected(cfg):
                log.warning("%s", sentence)
            returned.append(call(target, cfg))
        except Exception as error:
            raise Ended from error

    sys.argv = [sys.argv[0], *words]
    try:
        hydra.main(config_path=str(CONF), config_name="train", version_base=VERSION_BASE)(task)()
    except Ended as ended:
        failure = cast(Exception, ended.__cause__)
    except OSError as error:  # what comes out of a job is Ended: Hydra itself only makes the run's folder
        raise UserError(f"The run's folder cannot be made ({error}).", cure="Try run.root=FOLDER.") from error
    else:
        return returned[0] if returned else None
    raise failure  # here, where it keeps its own cause


def _relative(folder: str) -> str:
    """Return a folder as a user would type it: short below the working directory, and so the same on another
    machine."""
    path, here = Path(folder), Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)
