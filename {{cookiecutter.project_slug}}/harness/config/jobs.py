"""The jobs of a multirun: each a run in a folder of its own, all in one that is named by what they have in common."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from harness.config.compose import compose, hydra_errors_as_user_errors, quoted
from harness.config.identity import digest, free_changes, resolved
from harness.config.secrets import hidden_in_report
from harness.errors import UserError
from harness.files import numbered

LONGEST = 80  # characters that say what is swept; the hash behind them tells sweeps apart


@dataclass(frozen=True)
class Job:
    """One run of a multirun."""

    name: str  # of its folder, in that of the multirun
    words: tuple[str, ...]  # `python train.py WORDS` is this run alone
    swept: dict[str, str]  # what it is called in the table: the values of the keys that are swept
    asked: str  # a hash of the experiment and of how long it is to run: a job that has done this is finished
    accelerator: str
    devices: Any  # as `trainer.devices` has it
    nodes: int = 1


@dataclass(frozen=True)
class Multirun:
    """Jobs under one name."""

    folder: Path
    jobs: tuple[Job, ...]
    launcher: dict[str, Any]  # the keys of conf/launcher/
    fresh: bool  # resume=never: in a folder that was not there


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Return the jobs of `a=1,2 b=3,4` as lists of overrides."""
    parsed = _parsed(overrides)
    for item in parsed:
        if item.is_hydra_override() and item.get_key_element() in ("hydra/launcher", "hydra/sweeper"):
            raise UserError(f"{item.input_line} does nothing here.", cure="Jobs are started by conf/launcher/.")
        if item.is_sweep_override() and not item.is_discrete_sweep():
            raise UserError(f"{item.input_line} names no values.", cure="List them, separated by commas.")
    return BasicSweeper.split_arguments(parsed, None)[0]


def multirun(overrides: Sequence[str], configs: Sequence[DictConfig]) -> Multirun:
    """Return the jobs of these overrides, whose configs are composed and checked: where they run, what each is
    called."""
    apart = keys_apart(configs)
    for cfg in configs:
        with open_dict(cfg):
            cfg.sweep.apart = apart
            cfg.run.name = str(cfg.run.name)  # once, for it takes the hash of the whole config
    _refuse_shared_folders(configs)
    first = configs[0]
    folder = Path(first.run.root, str(first.sweep.name or sweep_name(overrides)))
    fresh = first.resume == "never"
    if fresh:
        folder = next(other for name in numbered(folder.name) if not (other := folder.with_name(name)).exists())
    split = zip(sweep(overrides), configs, strict=True)
    jobs = tuple(_job(words, cfg, folder, _swept_keys(overrides)) for words, cfg in split)
    return Multirun(folder, jobs, resolved(first.launcher), fresh)


def keys_apart(configs: Sequence[DictConfig]) -> list[str]:
    """Return the keys in which jobs of the same experiment differ: how long, where or how fast they run."""
    first: dict[str, DictConfig] = {}
    keys: set[str] = set()
    for cfg in configs:
        twin = first.setdefault(digest(cfg), cfg)
        if twin is not cfg:
            keys |= {change.partition(":")[0] for change in free_changes(twin, cfg)}
    return sorted(keys)


def sweep_name(overrides: Sequence[str]) -> str:
    """Return a folder name that is the same for the same keys, swept over the same experiment.

    Neither the values nor their order change it, so that a value that is added finds the jobs of the others.
    """
    keys = sorted(_swept_keys(overrides))
    fixed = [item.input_line or "" for item in _parsed(overrides) if not item.is_sweep_override()]
    content = "\n".join([digest(compose(fixed)), *keys])
    words = re.sub(r"[^A-Za-z0-9.]+", "-", "_".join(keys)).strip("-.")[:LONGEST].rstrip("-.")
    return f"sweep-{words}-{hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _job(words: Sequence[str], cfg: DictConfig, folder: Path, keys: Sequence[str]) -> Job:
    values = dict(word.lstrip("+~").partition("=")[::2] for word in words)
    own = {"sweep.name": folder.name, "run.root": folder.as_posix(), "run.name": cfg.run.name}
    more = [f"++{key}={quoted(value)}" for key, value in own.items()]
    words = [word for word in words if not re.match(r"[+~]*launcher[.=]", word)]  # the run alone has none
    return Job(
        name=str(cfg.run.name),
        words=(*words, *more, "++resume=auto"),  # resume=never has made the folder of all a fresh one
        swept={key: hidden_in_report(f"{key}={values[key]}").partition("=")[2] for key in keys},
        asked=hashlib.sha256(json.dumps([digest(cfg), resolved(cfg.trainer)], default=str).encode()).hexdigest()[:16],
        accelerator=str(cfg.trainer.accelerator),
        devices=OmegaConf.to_container(cfg.trainer).get("devices"),  # type: ignore[union-attr]
        nodes=cfg.trainer.get("num_nodes") or 1,
    )


def _refuse_shared_folders(configs: Sequence[DictConfig]) -> None:
    seen: dict[str, int] = {}
    for number, cfg in enumerate(configs):
        other = seen.setdefault(str(cfg.run.name), number)
        if other != number:
            raise UserError(
                f"Jobs {other} and {number} of this multirun would share the folder {cfg.run.name}.",
                cure="Leave run.name out, put what differs into it ('run.name=x-${optimizer.lr}'), or name each value "
                "once.",
            )


def _swept_keys(overrides: Sequence[str]) -> list[str]:
    return [item.get_key_element().lstrip("+") for item in _parsed(overrides) if item.is_sweep_override()]


def _parsed(overrides: Sequence[str]) -> list[Override]:
    with hydra_errors_as_user_errors():
        return OverridesParser.create().parse_overrides(list(overrides))
