"""Where a run goes on from: its own newest commit, else what `resume_from` names; and whether that can be right."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lm import run
from lm.checkpoint import read
from lm.config.identity import difference
from lm.data.datamodule import LmData
from lm.errors import UserError

log = logging.getLogger(__name__)


def starting_point(cfg: DictConfig, data: LmData) -> read.Commit | None:
    """Return the commit to go on from, None for a start from nothing. Raises UserError when what is there is unfit."""
    folder = Path(cfg.run.dir)
    commit = read.newest_valid(folder / "checkpoints")
    if commit is None and cfg.resume_from is not None:
        commit = elsewhere(cfg)
    if commit is not None:
        _refuse_other_data(commit, data)
        log.info("Going on from %s", commit.path.as_posix())
    return commit


def elsewhere(cfg: DictConfig) -> read.Commit:
    """Return the commit that `resume_from` names, and say in what that run is another experiment."""
    latest = cfg.resume_from == "latest"
    path = newest_run(Path(cfg.run.root), besides=Path(cfg.run.dir)) if latest else Path(cfg.resume_from)
    folder, commit = locate(path)
    if (folder / "config.yaml").is_file():
        for change in difference(run.config(folder), cfg):
            log.info("Other than in %s: %s", folder.as_posix(), change)
    return commit


def locate(path: Path) -> tuple[Path, read.Commit]:
    """Return the run folder and the commit that a path names: a run means its newest whole commit."""
    if (path / read.MANIFEST).is_file() or read.FOLDER.fullmatch(path.name):
        try:
            commit = read.open_commit(path)
            read.verify(commit)
        except read.DamagedCommit as error:
            raise UserError(str(error), cure=f"Name the run instead: {path.parent.parent.as_posix()}") from error
        return path.parent.parent, commit
    run.config(path)  # says what is wrong when this is no run
    found = read.newest_valid(path / "checkpoints")
    if found is None:
        raise UserError(f"The run in {path} has no checkpoint yet.", cure="Name another one, or let it train on.")
    return path, found


def newest_run(root: Path, besides: Path) -> Path:
    """Return the run below `root` that was started last, by its diary, among those that have a commit."""
    started = {
        folder: diary["attempts"][-1]["started"]
        for folder in sorted(path.parent for path in root.glob("*/run.json"))
        if folder.resolve() != besides.resolve() and (diary := run.read(folder))["attempts"]
    }
    with_commits = [folder for folder in started if read.commits(folder / "checkpoints")]
    if not with_commits:
        raise UserError(f"No run in {root} has a checkpoint.", cure="Name one elsewhere with resume_from=PATH.")
    return max(with_commits, key=lambda folder: started[folder])


def _refuse_other_data(commit: read.Commit, data: LmData) -> None:
    """The cursor counts batches of one exact text: in another it would point anywhere."""
    before, now = commit.manifest["data"], data.described
    if before["fingerprint"] == now["fingerprint"]:
        return
    old, new = _flat(before), _flat(now)
    rows = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)]
    raise UserError(
        f"The data have changed since {commit.path.as_posix()}:\n  " + "\n  ".join(rows) + "\n",
        cure="Bring the old data back, or start over beside this run with resume=never.",
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
