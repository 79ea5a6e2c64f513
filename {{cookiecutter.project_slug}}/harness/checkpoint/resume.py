"""Where a run goes on from: its own newest checkpoint, else what `resume_from` names; and whether that can be right."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from harness.checkpoint import read
from harness.config.identity import difference
from harness.errors import UserError
from harness.run import folder as run_folder

log = logging.getLogger(__name__)


def starting_point(cfg: DictConfig, described: Mapping[str, Any]) -> read.Checkpoint | None:
    """Return the checkpoint to go on from, None for a start from nothing. Raises UserError when what is there is
    unfit."""
    if cfg.resume_from is not None and cfg.get("start_from"):
        raise UserError(
            "Both resume_from and start_from are set.",
            cure="resume_from goes on where a run was; start_from takes its weights alone, for a new run.",
        )
    folder = Path(cfg.run.dir)
    checkpoint = read.newest_valid(folder / "checkpoints")
    if checkpoint is None and cfg.resume_from is not None:
        checkpoint = elsewhere(cfg)
    if checkpoint is not None:
        _refuse_other_data(checkpoint, described)
        log.info("Going on from %s", checkpoint.path.as_posix())
    return checkpoint


def elsewhere(cfg: DictConfig) -> read.Checkpoint:
    """Return the checkpoint that `resume_from` names, and say in what that run is another experiment."""
    latest = cfg.resume_from == "latest"
    path = newest_run(Path(cfg.run.root), besides=Path(cfg.run.dir)) if latest else Path(cfg.resume_from)
    folder, checkpoint = locate(path)
    if (folder / "config.yaml").is_file():
        try:
            changes = difference(run_folder.config(folder), cfg)
        except UserError as error:
            changes = [str(error)]
        for change in changes:
            log.info("Other than in %s: %s", folder.as_posix(), change)
    return checkpoint


def locate(path: Path) -> tuple[Path, read.Checkpoint]:
    """Return the run folder and the checkpoint that a path names: a run means its newest whole checkpoint."""
    if (path / read.MANIFEST).is_file() or read.FOLDER.fullmatch(path.name):
        try:
            checkpoint = read.open_checkpoint(path)
            read.verify(checkpoint)
        except read.DamagedCheckpoint as error:
            raise UserError(str(error), cure=f"Name the run instead: {path.parent.parent.as_posix()}") from error
        return path.parent.parent, checkpoint
    found = read.newest_valid(path / "checkpoints")
    if found is None:
        run_folder.config(path)  # says what is wrong when this is not a run
        raise UserError(f"The run in {path} has no checkpoint yet.", cure="Name another one, or let it train on.")
    return path, found


def newest_run(root: Path, besides: Path) -> Path:
    """Return the run below `root` that was started last, by its diary, among those that have a checkpoint."""
    started = {
        folder: attempts[-1].get("started", "")
        for folder in sorted(path.parent for path in root.glob("*/run.json"))
        if folder.resolve() != besides.resolve() and (attempts := run_folder.read(folder).get("attempts"))
    }
    with_checkpoints = [folder for folder in started if read.checkpoints(folder / "checkpoints")]
    if not with_checkpoints:
        raise UserError(f"No run in {root} has a checkpoint.", cure="Name one elsewhere with resume_from=PATH.")
    return max(with_checkpoints, key=lambda folder: started[folder])


def _refuse_other_data(checkpoint: read.Checkpoint, described: Mapping[str, Any]) -> None:
    """The cursor counts batches of one exact text: in another it would point anywhere."""
    before, now = checkpoint.manifest.get("data") or {}, dict(described)
    if before.get("fingerprint") == now["fingerprint"]:
        return
    old, new = _flat(before), _flat(now)
    rows = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)]
    raise UserError(
        f"The data have changed since {checkpoint.path.as_posix()}:\n  " + "\n  ".join(rows) + "\n",
        cure="Bring the old data back, or start over beside this run with resume=never; to train its weights on these "
        f"data, use start_from={checkpoint.path.parent.parent.as_posix()}.",
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
