"""A run's folder: its name, its lock, `config.yaml`, and `run.json`, the diary of its attempts.

The checkpoints in it are the truth. Where config.yaml or run.json cannot be read they are set aside and made anew: the
manifest of the newest checkpoint knows which run and which experiment this is.
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from filelock import BaseFileLock
from omegaconf import DictConfig

from harness.config import saved
from harness.config.identity import difference, digest, free_changes, other_experiment
from harness.config.secrets import hidden_in_report, masked
from harness.errors import UserError
from harness.files import Unreadable, numbered, parsed, recovered, set_aside, write_whole
from harness.ranks import ATTEMPT, STARTED, end_with_rank_0, launch, rank, tell_children, wait_for
from harness.run import diary as diaries
from harness.run.diary import Diary
from harness.run.lock import locked

log = logging.getLogger(__name__)

CONFIG = "config.yaml"


def choose_folder(cfg: DictConfig) -> str:
    """Return the name of the run's folder: its own, or with resume=never the first free one beside it.

    Raises UserError when the folder holds another experiment, which only a `run.name` given by hand can bring about.
    """
    root = Path(cfg.run.root)
    if cfg.resume == "never" and rank() == 0:
        return next(name for name in numbered(cfg.run.name) if not (root / name).exists())
    if cfg.resume == "never" and ATTEMPT not in os.environ:
        return wait_for(lambda: _name_of_rank_0(cfg), f"a folder in {root}")
    _refuse_another_experiment(root / cfg.run.name, cfg)
    return str(cfg.run.name)


class Run:
    """One attempt at a run: holds the folder's lock and writes its diary. Only rank 0 writes; every rank can read."""

    def __init__(self, folder: Path, diary: Diary, lock: BaseFileLock | None, *, fresh: bool = False) -> None:
        self.folder = folder
        self.diary = diary
        self._lock = lock
        self._fresh = fresh

    @property
    def id(self) -> str:
        """The run's own 16 hex digits, the same in every attempt."""
        return str(self.diary["id"])

    @property
    def attempt(self) -> int:
        """1 for the first start, one more for each continuation."""
        return int(self.diary["attempts"][-1]["attempt"])

    @property
    def how_to_go_on(self) -> str:
        """What to type to continue after a stop."""
        if not self._fresh:
            return "The same command goes on from here."
        return f"The same command with run.name={self.folder.name} in place of resume=never goes on from here."

    @classmethod
    def open(cls, cfg: DictConfig) -> Self:
        """Make or reopen the folder of `cfg`, lock it, and write down this attempt."""
        folder, fresh = Path(cfg.run.dir), cfg.resume == "never"
        if rank() > 0:
            end_with_rank_0()
            return cls(folder, wait_for(lambda: _diary_of_rank_0(folder), f"{folder}"), lock=None, fresh=fresh)
        folder.mkdir(parents=True, exist_ok=True)
        lock = locked(folder)
        before = recovered(folder / CONFIG, saved.parse)
        diary = recovered(folder / diaries.NAME, diaries.parse)
        if before and _is_damaged(folder, before, cfg):
            set_aside(folder / CONFIG, f"{folder / CONFIG} is not the config of its checkpoints")
            before = None
        diary = diary or diaries.new(folder, diaries.newest_manifest(folder))
        run = cls(folder, diary, lock, fresh=fresh)
        run._begin(cfg, free_changes(before, cfg) if before else [])
        return run

    def _begin(self, cfg: DictConfig, changes: list[str]) -> None:
        code = diaries.sources()
        changes += diaries.code_changes(self.diary.get("sources"), code)
        self.diary |= {"identity": digest(cfg), "status": "running", "sources": code}
        attempt = diaries.attempt_facts(diaries.next_attempt(self.diary)) | {"changes": changes}
        self.diary["attempts"].append(attempt)
        tell_children(self.attempt)
        self._write_if_possible(CONFIG, saved.text(cfg))
        self._write_diary()

    def note(self, **facts: Any) -> None:
        """Add facts to this attempt's entry: what was picked, what hardware it ran on."""
        self.diary["attempts"][-1] |= facts
        self._write_diary()

    def settled(self, name: str, find: Callable[[], Any]) -> Any:
        """Return what the run has under `name`: found once, by rank 0, and kept for all ranks and attempts."""
        if rank() > 0:
            return wait_for(lambda: (_diary_of_rank_0(self.folder) or {}).get(name), f"{self.folder} with its {name}")
        if name not in self.diary:
            self.diary[name] = find()
            self._write_diary()
        return self.diary[name]

    def note_result(self, step: int, val_loss: float | None, limits: dict[str, Any]) -> None:
        """Write down that the run is complete after `step` optimizer steps, within which limits, and how good it is."""
        self.diary["result"] = {"step": step, "val_loss": val_loss, "limits": limits}
        self._write_diary()

    def result(self, step: int, limits: dict[str, Any]) -> dict[str, Any] | None:
        """Return what was noted of a run that stands at `step`, if those are all of its `limits["steps"]`, or if it
        ended before, by a callback, within the limits of now; else None."""
        result: dict[str, Any] | None = self.diary.get("result")
        if not result or result["step"] != step:
            return None
        return result if 0 < limits["steps"] <= step or result.get("limits") == limits else None

    def close(self, status: str, **facts: str) -> None:
        """Write down how the attempt ended and free the folder."""
        self.diary["status"] = status
        said = {name: hidden_in_report(str(text)) for name, text in facts.items()}
        seconds = round(time.time() - self.diary["attempts"][-1]["clock"], 1)
        self.note(ended=diaries.now(), status=status, seconds=seconds, **said)
        if self._lock is not None:
            self._lock.release()

    def _write_diary(self) -> None:
        self._write_if_possible(diaries.NAME, diaries.text(masked(self.diary)))

    def _write_if_possible(self, name: str, text: str) -> None:
        """The diary is kept whole in memory: the next note writes what a full disk refuses now."""
        if rank() > 0:
            return
        try:
            write_whole(self.folder / name, text)
        except OSError as error:
            log.warning("Cannot write %s (%s).", self.folder / name, error)


def read(folder: Path) -> Diary:
    """Return the diary of the run in `folder`, empty where there is none that can be read."""
    try:
        return parsed(folder / diaries.NAME, diaries.parse) or {}
    except Unreadable as reason:
        log.warning("%s.", reason)
        return {}


def config(folder: Path) -> DictConfig:
    """Return the config that the run in `folder` was started with. Raises UserError."""
    try:
        found = parsed(folder / CONFIG, saved.parse)
    except Unreadable as reason:
        cure = "The command that trained the run writes it again."
        raise UserError(f"{reason}.", cure=cure) from reason
    if found is None:
        raise UserError(f"{folder} is not a run: it has no {CONFIG}.", cure="The runs are the folders below runs/.")
    return found


def _refuse_another_experiment(folder: Path, cfg: DictConfig) -> None:
    try:
        before = parsed(folder / CONFIG, saved.parse)
    except Unreadable:
        before = None
    changes = other_experiment(before, cfg) if before else ["its config.yaml is gone, and its checkpoints know another"]
    witness = _witness(folder)
    if not changes or (before is None and witness is None) or witness == digest(cfg):
        return
    raise UserError(
        f"The run in {folder} is another experiment:\n  " + "\n  ".join(changes) + "\n",
        cure="Choose another run.name, or leave it out: each experiment then has a folder of its own.",
    )


def _witness(folder: Path) -> str | None:
    """Return the digest of the experiment that the checkpoints belong to; without any, what the diary says."""
    known = diaries.newest_manifest(folder)
    if known is None:
        with suppress(Unreadable):
            known = parsed(folder / diaries.NAME, diaries.parse)
    return known.get("identity") if known else None


def _is_damaged(folder: Path, before: DictConfig, cfg: DictConfig) -> bool:
    """Is this config.yaml cut short, say? It reads as another experiment than the checkpoints beside it."""
    return bool(difference(before, cfg)) and _witness(folder) == digest(cfg)


def _name_of_rank_0(cfg: DictConfig) -> str | None:
    """Return the name that rank 0 of this launch has chosen, None as long as it has not."""
    for name in numbered(cfg.run.name):
        folder = Path(cfg.run.root, name)
        if not folder.exists():
            return None
        if _diary_of_rank_0(folder) is not None:
            return name
    raise AssertionError("count() ended")


def _diary_of_rank_0(folder: Path) -> Diary | None:
    """Return the diary once it has the attempt of this launch. A rank may look before rank 0 has written it."""
    try:
        diary = parsed(folder / diaries.NAME, diaries.parse)
    except Unreadable:
        return None
    if diary is None or not diary["attempts"]:
        return None
    newest = diary["attempts"][-1]
    if ATTEMPT in os.environ:
        return diary if str(newest["attempt"]) == os.environ[ATTEMPT] else None
    # The same port and job may have been used before: then by an attempt that began long before this process.
    fresh = newest.get("clock", 0) > STARTED - 60
    return diary if newest.get("launch") == launch() and fresh else None
