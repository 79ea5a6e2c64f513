"""The jobs of a multirun: each a run in a folder of its own, all in one that is named by its experiments."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from harness.config.compose import hydra_errors_as_user_errors, quoted
from harness.config.identity import digest, free_changes
from harness.config.secrets import hidden_in_report
from harness.errors import UserError
from harness.files import numbered

LONGEST = 80  # characters that say what is swept; the hash behind them tells sweeps apart


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Return the jobs of `a=1,2 b=3,4` as lists of overrides. What only a sweeper can choose (`interval(0,1)`) is left
    out."""
    fixed = [item for item in _parsed(overrides) if not item.is_sweep_override() or item.is_discrete_sweep()]
    return BasicSweeper.split_arguments(fixed, None)[0]


def sweep_overrides(overrides: Sequence[str], configs: Sequence[DictConfig]) -> Iterator[str]:
    """Yield what a multirun adds to every job: the folder of all, and the keys that keep their folders apart."""
    apart = keys_apart(configs)
    for cfg in configs:
        with open_dict(cfg):
            cfg.sweep.apart = apart
    _refuse_shared_folders(configs)
    name = str(configs[0].sweep.name or sweep_name(overrides, configs))
    if configs[0].resume == "never":
        root = Path(configs[0].run.root)
        name = next(other for other in numbered(name) if not (root / other).exists())
    yield f"++sweep.name={quoted(name)}"
    if apart:
        yield f"++sweep.apart=[{','.join(apart)}]"


def keys_apart(configs: Sequence[DictConfig]) -> list[str]:
    """Return the keys in which jobs of the same experiment differ: how long, where or how fast they run."""
    first: dict[str, DictConfig] = {}
    keys: set[str] = set()
    for cfg in configs:
        twin = first.setdefault(digest(cfg), cfg)
        keys |= {change.partition(":")[0] for change in free_changes(twin, cfg)}
    return sorted(keys)


def sweep_name(overrides: Sequence[str], configs: Sequence[DictConfig]) -> str:
    """Return a folder name that is the same for the same experiments, in whatever order they are typed."""
    swept = sorted(hidden_in_report(item.input_line or "") for item in _parsed(overrides) if item.is_sweep_override())
    words = re.sub(r"[^A-Za-z0-9.]+", "-", "_".join(swept)).strip("-.")[:LONGEST].rstrip("-.")
    jobs = sorted(f"{digest(cfg)} {[OmegaConf.select(cfg, key) for key in cfg.sweep.apart]}" for cfg in configs)
    unknown = [line for line in swept if "(" in line]  # an interval, of which a sweeper chooses values
    content = "\n".join([*jobs, *unknown])
    return f"sweep-{words}-{hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


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


def _parsed(overrides: Sequence[str]) -> list[Override]:
    with hydra_errors_as_user_errors():
        return OverridesParser.create().parse_overrides(list(overrides))
