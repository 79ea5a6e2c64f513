"""The jobs of a multirun: each a run in a folder of its own, all in one that is named by what they have in common."""

import hashlib
import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import DictConfig, OmegaConf, open_dict

from harness.config.compose import normalize_overrides, parsed, quoted
from harness.config.identity import digest, free_changes, name_of, resolved
from harness.config.secrets import hidden_in_report
from harness.config.space import examples, space
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


@dataclass(frozen=True)
class Multirun:
    """Jobs under one name."""

    folder: Path
    jobs: tuple[Job, ...]  # of a search: none, it makes them one after the other
    launcher: dict[str, Any]  # the keys of conf/launcher/
    sweep: dict[str, Any]  # those of conf/sweep/
    words: tuple[str, ...]  # of all jobs, with what is swept
    keys: tuple[str, ...]  # those that are swept
    apart: tuple[str, ...]  # see `keys_apart`
    asked: str  # as that of a job, of what is not swept
    fresh: bool  # resume=never: in a folder that was not there

    @property
    def is_search(self) -> bool:
        return self.sweep.get("sampler") is not None


def is_sweep(cfg: DictConfig) -> bool:
    """Return whether a file of conf/sweep/ asks for several jobs."""
    return bool(cfg.sweep.over) or is_search(cfg)


def is_search(cfg: DictConfig) -> bool:
    """Return whether what each job tries is chosen from what came of others."""
    return OmegaConf.select(cfg, "sweep.sampler") is not None


def with_listed(overrides: Sequence[str], base: DictConfig) -> list[str]:
    """Return the words of a multirun: those that its file in conf/sweep/ lists, but for keys that are typed, and then
    the typed."""
    typed = {item.get_key_element().lstrip("+"): item for item in parsed(overrides)}
    if "sweep" in typed and typed["sweep"].is_sweep_override():
        raise UserError(f"{typed['sweep'].input_line} names several sweeps.", cure="A multirun is one: sweep=seeds.")
    over = OmegaConf.select(base, "sweep.over")
    values: dict[str, str] = {}
    if isinstance(over, DictConfig):  # what else it is, the check of the jobs says
        values = {str(key): str(value) for key, value in over.items() if str(key) not in typed}
    return [*normalize_overrides([f"{key}={value}" for key, value in values.items()]), *overrides]


def jobs_of(words: Sequence[str], base: DictConfig) -> list[list[str]]:
    """Return the overrides of each job; of a search, of examples."""
    if not is_search(base):
        return sweep(words)
    if importlib.util.find_spec("optuna") is None:
        raise UserError("sweep=optuna needs Optuna, which is not here.", cure="Type pip install -e '.[optuna]'")
    return examples(words, space(words))


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Return the jobs of `a=1,2 b=3,4` as lists of overrides."""
    found = parsed(overrides)
    for item in found:
        if item.is_hydra_override() and item.get_key_element() in ("hydra/launcher", "hydra/sweeper"):
            raise UserError(f"{item.input_line} does nothing here.", cure="Jobs are started by conf/launcher/.")
        if item.is_sweep_override() and not item.is_discrete_sweep():
            cure = "List them, separated by commas, or let a search choose: add sweep=optuna."
            raise UserError(f"{item.input_line} names no values.", cure=cure)
    return BasicSweeper.split_arguments(found, None)[0]


def fixed(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that are not swept."""
    return [item.input_line or "" for item in parsed(overrides) if not item.is_sweep_override()]


def multirun(
    overrides: Sequence[str], base: DictConfig, jobs: Sequence[Sequence[str]], configs: Sequence[DictConfig]
) -> Multirun:
    """Return what the overrides ask for.

    `base` is the config of those that are fixed, `configs` are those of the jobs, checked. All are written the names of
    their runs into. Of a search, jobs and configs are examples.
    """
    marks = [digest(cfg) for cfg in configs]  # once: it takes all of a config
    apart = keys_apart(configs, marks)
    for cfg, mark in zip(configs, marks, strict=True):
        _keep_apart(cfg, mark, apart)
    folder = Path(base.run.root, str(base.sweep.name or sweep_name(overrides, base)))
    fresh = base.resume == "never"
    if fresh:
        folder = next(other for name in numbered(folder.name) if not (other := folder.with_name(name)).exists())
    whole = Multirun(
        folder,
        (),
        launcher=resolved(base.launcher),
        sweep=resolved(base.sweep),
        words=tuple(overrides),
        keys=tuple(swept_keys(overrides)),
        apart=tuple(apart),
        asked=asked(base, digest(base)),
        fresh=fresh,
    )
    if whole.is_search:
        return whole
    _refuse_shared_folders(configs)
    made = zip(jobs, configs, marks, strict=True)
    return replace(whole, jobs=tuple(_job(whole, words, cfg, mark) for words, cfg, mark in made))


def one_more(whole: Multirun, words: Sequence[str], cfg: DictConfig) -> Job:
    """Return the job of these words, which a search has chosen, with their config, checked."""
    mark = digest(cfg)
    _keep_apart(cfg, mark, whole.apart)
    return _job(whole, words, cfg, mark)


def write_name(cfg: DictConfig) -> None:
    """Write the name of its run into a config, if it can be told: asking for it takes the hash of the whole config,
    and many keys ask."""
    try:
        name = OmegaConf.select(cfg, "run.name")
    except Exception:  # the check of the config says what is wrong
        return
    if isinstance(name, str):
        with open_dict(cfg):
            cfg.run.name = name


def keys_apart(configs: Sequence[DictConfig], marks: Sequence[str]) -> list[str]:
    """Return the keys in which jobs of the same experiment differ: how long, where or how fast they run."""
    first: dict[str, DictConfig] = {}
    keys: set[str] = set()
    for cfg, mark in zip(configs, marks, strict=True):
        twin = first.setdefault(mark, cfg)
        if twin is not cfg:
            keys |= {change.partition(":")[0] for change in free_changes(twin, cfg)}
    return sorted(keys)


def sweep_name(overrides: Sequence[str], base: DictConfig) -> str:
    """Return a folder name that is the same for the same keys, swept over the same experiment `base`.

    Neither the values nor their order change it, so that a value that is added finds the jobs of the others.
    """
    keys = sorted(swept_keys(overrides))
    content = "\n".join([digest(base), *keys])
    words = re.sub(r"[^A-Za-z0-9.]+", "-", "_".join(keys)).strip("-.")[:LONGEST].rstrip("-.")
    return f"sweep-{words}-{hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def swept_keys(overrides: Sequence[str]) -> list[str]:
    return [item.get_key_element().lstrip("+") for item in parsed(overrides) if item.is_sweep_override()]


def asked(cfg: DictConfig, mark: str) -> str:
    """Return a hash of an experiment, of which the digest is known, and of how long it is to run."""
    return hashlib.sha256(json.dumps([mark, resolved(cfg.trainer)], default=str).encode()).hexdigest()[:16]


def _keep_apart(cfg: DictConfig, mark: str, keys: Sequence[str]) -> None:
    """Let the folders of jobs of the same experiment differ, unless they are named by hand."""
    if keys and cfg.run.name == name_of(cfg, mark):
        values = {key: re.sub(r"[^A-Za-z0-9.]+", "_", str(OmegaConf.select(cfg, key))) for key in keys}
        with open_dict(cfg):
            cfg.run.name += "".join(f"-{key.rpartition('.')[2]}={value}" for key, value in values.items())


def _job(whole: Multirun, words: Sequence[str], cfg: DictConfig, mark: str) -> Job:
    values = dict(word.lstrip("+~").partition("=")[::2] for word in words)
    own = {"sweep.name": whole.folder.name, "run.root": whole.folder.as_posix(), "run.name": cfg.run.name}
    alone = [word for word in words if not re.match(r"\+*sweep[.=]", word)]
    more = [f"++{key}={quoted(value)}" for key, value in own.items()]
    return Job(
        name=str(cfg.run.name),
        words=(*alone, *more, "++resume=auto"),  # resume=never has made the folder of all a fresh one
        swept={key: hidden_in_report(f"{key}={values[key]}").partition("=")[2] for key in whole.keys},
        asked=asked(cfg, mark),
        accelerator=str(cfg.trainer.accelerator),
        devices=OmegaConf.to_container(cfg.trainer).get("devices"),  # type: ignore[union-attr]
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
