"""A run's folder: its name, its lock, `config.yaml`, and `run.json`, the diary of its attempts."""

import datetime
import json
import logging
import os
import platform
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from harness.config.identity import digest, free_changes, other_experiment
from harness.errors import UserError
from harness.telemetry.logs import rank

log = logging.getLogger(__name__)

SCHEMA = 1
PACKAGES = (
    "torch",
    "lightning",
    "transformers",
    "tokenizers",
    "datasets",
    "hydra-core",
    "omegaconf",
    "safetensors",
    "numpy",
)


def choose_folder(cfg: DictConfig) -> str:
    """Return the name of the run's folder: its own, or with resume=never the first free one beside it.

    Raises UserError when the folder holds another experiment, which only a `run.name` given by hand can bring about.
    """
    folder = Path(cfg.run.root, cfg.run.name)
    if cfg.resume == "never" and rank() == 0:
        return next(name for name in _names(str(cfg.run.name)) if not Path(cfg.run.root, name).exists())
    saved = folder / "config.yaml"
    if saved.is_file() and (changes := other_experiment(_load(saved), cfg)):
        raise UserError(
            f"The run in {folder} is another experiment:\n  " + "\n  ".join(changes) + "\n",
            cure="Choose another run.name, or leave it out: each experiment then has a folder of its own.",
        )
    return str(cfg.run.name)


class Run:
    """One attempt at a run: holds the folder's lock and writes its diary. Only rank 0 writes; every rank can read."""

    def __init__(self, folder: Path, diary: dict[str, Any], lock: FileLock | None) -> None:
        self.folder = folder
        self.diary = diary
        self._lock = lock

    @property
    def id(self) -> str:
        """The run's own 16 hex digits, the same in every attempt."""
        return str(self.diary["id"])

    @property
    def attempt(self) -> int:
        """1 for the first start, one more for each continuation."""
        return len(self.diary["attempts"])

    @classmethod
    def open(cls, cfg: DictConfig) -> Self:
        """Make or reopen the folder of `cfg`, lock it, and write down this attempt."""
        folder = Path(cfg.run.dir)
        if rank() > 0:
            return cls(folder, read(folder), lock=None)
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder)
        diary = read(folder) or {"schema": SCHEMA, "id": secrets.token_hex(8), "name": folder.name, "attempts": []}
        diary |= {"identity": digest(cfg), "status": "running"}
        diary["attempts"].append(_attempt(len(diary["attempts"]) + 1) | {"changes": _changes(folder, cfg)})
        run = cls(folder, diary, lock)
        write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        run._write()
        return run

    def note(self, **facts: Any) -> None:
        """Add facts to this attempt's entry: what was picked, what hardware it ran on."""
        self.diary["attempts"][-1] |= facts
        self._write_if_possible()

    def note_result(self, step: int, val_loss: float | None) -> None:
        """Write down that the run is complete after `step` optimizer steps, and how good it is."""
        self.diary["result"] = {"step": step, "val_loss": val_loss}
        self._write_if_possible()

    def result(self, step: int, steps: int) -> dict[str, Any] | None:
        """Return what was noted of a run that stands at `step`, if those are all of its `steps`; else None."""
        result: dict[str, Any] | None = self.diary.get("result")
        return result if result and 0 < steps <= step == result["step"] else None

    def close(self, status: str, **facts: Any) -> None:
        """Write down how the attempt ended and free the folder."""
        self.diary["status"] = status
        self.note(ended=_now(), status=status, **facts)
        if self._lock is not None:
            self._lock.release()

    def _write_if_possible(self) -> None:
        """The diary is kept whole in memory: the next note writes what a full disk refuses now."""
        try:
            self._write()
        except OSError as error:
            log.warning("Cannot write %s (%s).", self.folder / "run.json", error)

    def _write(self) -> None:
        if self._lock is not None:
            write_text(self.folder / "run.json", json.dumps(self.diary, indent=2) + "\n")


def read(folder: Path) -> dict[str, Any]:
    """Return the diary of the run in `folder`, empty where there is none."""
    path = folder / "run.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def config(folder: Path) -> DictConfig:
    """Return the config that the run in `folder` was started with."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is not a run: it has no config.yaml.", cure="The runs are the folders below runs/.")
    return _load(path)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _changes(folder: Path, cfg: DictConfig) -> list[str]:
    """Return what the config says otherwise than in the attempt before."""
    saved = folder / "config.yaml"
    return free_changes(_load(saved), cfg) if saved.is_file() else []


def _names(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def _load(path: Path) -> DictConfig:
    loaded = OmegaConf.load(path)
    assert isinstance(loaded, DictConfig)
    return loaded


def _locked(folder: Path) -> FileLock:
    lock, holder = FileLock(folder / ".lock"), folder / ".holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
        raise UserError(
            f"The run in {folder} is being trained by {who}.",
            cure="Wait for it, stop it, or start another beside it with resume=never.",
        ) from None
    holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    return lock


def _attempt(number: int) -> dict[str, Any]:
    return {
        "attempt": number,
        "started": _now(),
        "command": [Path(sys.executable).name, *sys.argv],
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": _versions(),
        "git": _git(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git() -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, encoding="utf-8", timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
