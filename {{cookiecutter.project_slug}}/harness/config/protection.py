"""What protects a run stays, whatever callbacks=… says. Where somebody switches a part of it off, this says so."""

from collections.abc import Iterator

from omegaconf import DictConfig

LOST = {
    "checkpoint": "Nothing of this run is kept: it writes no checkpoint, and a kill or a crash loses all of it",
    "signals": "This run does not stop at a checkpoint: SIGTERM, Ctrl-C and a time limit end it at once",
    "nan_guard": "Gradients of this run are not clipped, and a NaN is skipped in silence: no evidence, no way back",
    "debug_log": "This run writes no event log, so that python -m lm report has little to say",
}


def unprotected(cfg: DictConfig) -> Iterator[str]:
    """Yield a sentence for each part of the protection that `cfg` switches off."""
    for name, loss in LOST.items():
        callback = cfg.callbacks.get(name)
        if callback is None:
            yield f"{loss} (callbacks.{name}={'null' if name in cfg.callbacks else 'absent'})."
        elif callback.get("enabled") is False:
            yield f"{loss} (callbacks.{name}.enabled=false)."
