"""What makes two configs the same experiment: the part of them that names a run."""

import hashlib
import json
from fnmatch import fnmatch
from typing import Any

from omegaconf import DictConfig, OmegaConf

# Keys that say only how long, where, how fast or how loudly a run runs. Everything else is the experiment, so that an
# edited YAML or a new callback is another run, and a raised trainer.max_steps is the same one.
NOT_IDENTITY = (
    "hydra",
    "run",
    "sweep",
    "resume",
    "resume_from",
    "checkpoint",
    "logger",
    "env",
    "debug",
    "callbacks.progress",
    "callbacks.checkpoint",
    "callbacks.signals",
    "callbacks.debug_log",
    "callbacks.samples",
    "data.num_workers",
    "data.prepared",
    "data.prompt",
    "model.attention",
    "model.compile",
    "model.gradient_checkpointing",
    "model.parameters",
    "trainer.*",
)
# Of Lightning's arguments only these change what is learned.
TRAINER_IDENTITY = (
    "precision",
    "devices",
    "num_nodes",
    "strategy",
    "accumulate_grad_batches",
    "limit_train_batches",
    "overfit_batches",
)


# Where a change between two attempts is worth saying; the rest is names and folders, or follows from these.
FREE = (
    "trainer.",
    "data.",
    "model.",
    "checkpoint.",
    "callbacks.signals.",
    "callbacks.samples.",
    "callbacks.debug_log.",
)


def identity(cfg: DictConfig) -> dict[str, Any]:
    """Return what defines the experiment as {dotted key: value}, sorted, with interpolations resolved."""
    container = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(container, dict)
    # Left out before resolving, so that a kept key which interpolates one left out does not carry it in.
    kept = OmegaConf.create(_without(container))
    return dict(sorted(_flat(OmegaConf.to_container(kept, resolve=True)).items()))


def digest(cfg: DictConfig) -> str:
    """Return 16 hex digits that two configs share exactly if they are the same experiment."""
    text = json.dumps(identity(cfg), sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def default_name(cfg: DictConfig) -> str:
    """Return `<model>-<data>-<hash>`, for example `14m-stdlib-1f0c9a3e`."""
    return f"{cfg.model.name}-{cfg.data.name}-{digest(cfg)[:8]}"


def difference(old: DictConfig, new: DictConfig) -> list[str]:
    """Return one line per key of the experiment that differs, `optimizer.lr: 0.001 -> 0.0003`."""
    return _changed(identity(old), identity(new))


def free_changes(old: DictConfig, new: DictConfig) -> list[str]:
    """Return such lines for the keys that may change between two attempts of one run."""
    before, after = (
        {key: value for key, value in _resolved(cfg).items() if key.startswith(FREE) and key not in identity(cfg)}
        for cfg in (old, new)
    )
    return _changed(before, after)


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    return _flat(OmegaConf.to_container(cfg, resolve=True))


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def _without(node: Any, prefix: str = "") -> Any:
    if not isinstance(node, dict):
        return node
    return {
        key: None if _left_out(f"{prefix}{key}") else _without(value, f"{prefix}{key}.")
        for key, value in node.items()
        if prefix or key != "hydra"
    }


def _left_out(key: str) -> bool:
    group, _, name = key.partition(".")
    if group == "trainer" and name:
        return name not in TRAINER_IDENTITY
    return any(fnmatch(key, pattern) for pattern in NOT_IDENTITY)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, dict) and node:
        return {k: v for key, value in node.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
    return {} if node is None else {prefix[:-1]: node}
