"""Begin a new run with the weights of another: `start_from=RUN|CHECKPOINT`. Nothing else is taken."""

import logging
from fnmatch import fnmatch
from pathlib import Path

from lightning.pytorch import LightningModule
from omegaconf import DictConfig

from harness.checkpoint import elsewhere, read
from harness.checkpoint.io import stored_model
from harness.checkpoint.match import matched, misfit
from harness.checkpoint.resume import locate
from harness.errors import UserError

log = logging.getLogger(__name__)


def start_weights(cfg: DictConfig, module: LightningModule) -> None:
    """Load the weights that `cfg.start_from` names into `module`, if it names some, and say how many of how many.

    What does not fit is a UserError that lists it, but for parameters that match a pattern of `start_from_allow`: those
    stay as they were made.
    """
    if not cfg.get("start_from"):
        return
    path = Path(cfg.start_from)
    if not path.exists():
        raise UserError(f"There is no {path}.", cure="Name a run folder or a checkpoint folder with start_from=PATH.")
    checkpoint = locate(path)[1]
    model, weights, beneath = stored_model(module)[1], read.load_weights(checkpoint), elsewhere.of(module)
    elsewhere.refuse_others(checkpoint, beneath)
    wanted, allowed = elsewhere.stored(model.state_dict(), beneath), cfg.get("start_from_allow") or []
    found = matched(weights, wanted)
    rows = [row for name, row in found.rows.items() if not any(fnmatch(name, pattern) for pattern in allowed)]
    if rows or not found.fitting:
        cure = "What may differ is named with start_from_allow=[PATTERN], for example start_from_allow=['lm_head.*']."
        raise misfit(weights, wanted, rows, checkpoint.path, cure=cure)
    model.load_state_dict(found.fitting, strict=False)
    log.info("Loaded %d of %d tensors from %s.", len(found.fitting), len(wanted), checkpoint.path.as_posix())
    if left := sorted(set(wanted) - set(found.fitting)):
        log.info("Begun anew, as start_from_allow says: %s", ", ".join(left))
