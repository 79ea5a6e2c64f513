"""What makes two configs the same experiment: the part of them that names a run."""

import functools
import hashlib
import json
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.saved import same
from harness.config.secrets import masked, masked_by_name

# Keys that say only how long, where, how fast or how loudly a run runs. Everything else is the experiment, so that an
# edited YAML or a new callback is another run, and a raised trainer.max_steps is the same one.
NOT_IDENTITY = (
    "hydra", "run", "sweep", "launcher", "resume", "resume_from", "checkpoint", "logger", "env", "debug", "known_keys",
    "callbacks.progress", "callbacks.checkpoint", "callbacks.signals", "callbacks.debug_log", "callbacks.samples",
    "callbacks.choices", "callbacks.answers", "callbacks.parts", "callbacks.perception",
    "data.num_workers", "data.prepared", "data.prompt",
    "model.attention", "model.compile", "model.gradient_checkpointing",
    "trainer.*",
)  # fmt: skip
# Of Lightning's arguments only these change what is learned.
TRAINER_IDENTITY = (
    "precision", "devices", "num_nodes", "strategy", "accumulate_grad_batches", "limit_train_batches",
    "overfit_batches",
)  # fmt: skip
# A step of `data.global_batch` is the same however it is spread: these leave the experiment where that is set.
SPREAD = (
    "data.batch_size", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accumulate_grad_batches",
)  # fmt: skip
# Part of the experiment, and yet what our own advice says to change on a run: after running out of memory, or after NaN
# in half precision. Such a run goes on, and what was changed is said and written down. The hash in a default name
# changes with them, so that the run has to be named: run.name=….
ADVISED = ("data.batch_size", "trainer.accumulate_grad_batches", "trainer.precision")
# Where a change between two attempts is worth saying; the rest is names and folders, or follows from these.
FREE = (
    "trainer.", "data.", "model.", "checkpoint.", "callbacks.signals.", "callbacks.samples.", "callbacks.choices.",
    "callbacks.debug_log.",
)  # fmt: skip


# One config asks for its name wherever it interpolates its folder; resolving takes 20 ms.
_identities: dict[str, dict[str, Any]] = {}


def identity(cfg: DictConfig) -> dict[str, Any]:
    """Return what defines the experiment as {dotted key: value}, sorted, with interpolations resolved."""
    container = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(container, dict)
    # Left out before resolving, so that a kept key which interpolates one left out does not carry it in.
    data = container.get("data")
    kept = _without(container, SPREAD if isinstance(data, dict) and data.get("global_batch") else ())
    text = repr(kept)
    if text not in _identities or "oc.env" in text:  # of which the value may have changed
        # A renewed password does not make another experiment, and a saved config has only its mask.
        _identities[text] = _set(masked_by_name(resolved(OmegaConf.create(kept))))
    return dict(_identities[text])


def digest(cfg: DictConfig) -> str:
    """Return 16 hex digits that two configs share exactly if they are the same experiment."""
    text = json.dumps(identity(cfg), sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def default_name(cfg: DictConfig) -> str:
    """Return `<model>-<data>-<hash>`, for example `14m-stdlib-1f0c9a3e`; of a path the last part is taken."""
    return name_of(cfg, digest(cfg))


def name_of(cfg: DictConfig, mark: str) -> str:
    """As `default_name`, for an experiment whose digest is known."""
    model, data = (re.split(r"[/\\]", str(name).rstrip("/\\"))[-1] for name in (cfg.model.name, cfg.data.name))
    return f"{model}-{data}-{mark[:8]}"


def difference(old: DictConfig, new: DictConfig) -> list[str]:
    """Return one line per key of the experiment that differs, `optimizer.lr: 0.001 -> 0.0003`."""
    return _changed(identity(old), identity(new))


def other_experiment(old: DictConfig, new: DictConfig) -> list[str]:
    """Return such lines for what makes a run another one: not for what our advice says to change on it."""
    return [line for line in difference(old, new) if line.partition(":")[0] not in ADVISED]


def free_changes(old: DictConfig, new: DictConfig) -> list[str]:
    """Return such lines for the keys that may change between two attempts of one run."""
    before, after = (_free(cfg) for cfg in (old, new))
    return _changed(before, after)


def _free(cfg: DictConfig) -> dict[str, Any]:
    fixed = identity(cfg).keys() - set(ADVISED)
    return {
        key: value for key, value in _set(masked(resolved(cfg))).items() if key.startswith(FREE) and key not in fixed
    }


def _set(node: Any) -> dict[str, Any]:
    return {key: value for key, value in sorted(flat(node).items()) if value is not None}


def resolved(cfg: DictConfig) -> Any:
    """Return the config, or a part of it, as plain values; an interpolation that cannot be resolved here and now stays
    as it is."""
    try:
        return OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException:
        return _tolerant(cfg)


def _tolerant(node: Any) -> Any:
    if isinstance(node, DictConfig):
        return {key: _tolerant(_value(node, key)) for key in node}
    if isinstance(node, ListConfig):
        return [_tolerant(_value(node, index)) for index in range(len(node))]
    return node


def _value(node: Any, key: Any) -> Any:
    try:
        return node[key]
    except OmegaConfBaseException:
        return OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index]


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if not same(before.get(key, "absent"), after.get(key, "absent"))
    ]


def _without(node: Any, more: Sequence[str], prefix: str = "") -> Any:
    if not isinstance(node, dict):
        return node
    return {
        key: None if (name := f"{prefix}{key}") in more or _left_out(name) else _without(value, more, f"{name}.")
        for key, value in node.items()
        if prefix or key != "hydra"
    }


@functools.cache  # the jobs of a sweep have the same keys
def _left_out(key: str) -> bool:
    group, _, name = key.partition(".")
    if group == "trainer" and name:
        return name not in TRAINER_IDENTITY
    return any(fnmatch(key, pattern) for pattern in NOT_IDENTITY)


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as {dotted key: value}."""
    if isinstance(node, dict) and node:
        return {k: v for key, value in node.items() for k, v in flat(value, f"{prefix}{key}.").items()}
    return {prefix[:-1]: node}
