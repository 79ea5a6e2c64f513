"""A config as a run saves it: every value resolved, but for what comes from the environment, and without secrets."""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

from harness.config.secrets import MASK, masked

# Our own variables are facts of the run, such as its debug folder, and no secrets.
OURS = "HARNESS_"
ELSEWHERE = "\x00elsewhere\x00"


def text(cfg: DictConfig) -> str:
    """Return the YAML of a config that may be written down."""
    return OmegaConf.to_yaml(OmegaConf.create(masked(without_environment(cfg))))


def parse(content: str) -> DictConfig:
    """Read such a YAML. Raises ValueError for what is not a config."""
    loaded = OmegaConf.create(content)
    if not isinstance(loaded, DictConfig) or not loaded:
        raise ValueError("it is not a config")
    return loaded


def without_environment(cfg: DictConfig) -> dict[str, Any]:
    """Resolve everything except what differs in another environment: `${oc.env:…}`, and what interpolates that."""
    raw, here = _plain(cfg, resolve=False), _plain(cfg, resolve=True)
    if "oc.env" not in str(raw):
        return here
    return {key: _kept(raw[key], here[key], value) for key, value in _elsewhere(cfg, raw).items()}


def same(before: Any, after: Any) -> bool:
    """Return whether a saved value can be what `after` is now: a mask stands for anything."""
    if before == after:
        return True
    if not isinstance(before, str) or (MASK not in before and "${" not in before):
        return False
    pattern = re.sub(r"\\\*\\\*\\\*|\\\$\\\{.*\\\}", lambda _: ".*", re.escape(before))
    return re.fullmatch(pattern, str(after), re.DOTALL) is not None


def _elsewhere(cfg: DictConfig, raw: dict[str, Any]) -> dict[str, Any]:
    def another(key: str, default: Any = None) -> Any:
        return oc.env(key, default) if key.startswith(OURS) else ELSEWHERE

    OmegaConf.register_new_resolver("oc.env", another, replace=True)
    try:
        return _plain(cfg.copy(), resolve=True)
    except Exception:  # a resolver that needs a number, say: then every interpolation is kept
        return raw
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _plain(cfg: DictConfig, *, resolve: bool) -> dict[str, Any]:
    container = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _kept(raw: Any, here: Any, elsewhere: Any) -> Any:
    if isinstance(raw, dict) and isinstance(here, dict) and isinstance(elsewhere, dict):
        return {key: _kept(raw[key], here[key], elsewhere[key]) for key in raw}
    if isinstance(raw, list) and isinstance(here, list) and isinstance(elsewhere, list):
        return [_kept(*values) for values in zip(raw, here, elsewhere, strict=True)]
    return here if here == elsewhere else raw
