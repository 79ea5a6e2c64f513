"""`run.json`, the diary of a run's attempts: when, with what command, code and versions, and how each ended."""

import datetime
import hashlib
import json
import os
import platform
import re
import secrets
import socket
import subprocess
import sys
import zlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.config.secrets import hidden_in_report
from harness.files import Unreadable, parsed
from harness.ranks import launch

SCHEMA = 1
NAME = "run.json"
PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "torch", "lightning", "transformers", "tokenizers", "datasets", "hydra-core", "omegaconf", "safetensors", "numpy",
)  # fmt: skip

Diary = dict[str, Any]


def parse(text: str) -> Diary:
    """Return the diary in a text. Raises ValueError for anything else, so that its readers need not doubt it."""
    diary = json.loads(text)
    if not isinstance(diary, dict) or not isinstance(diary.get("id"), str) or not diary["id"]:
        raise ValueError("it is not the diary of a run")
    attempts = diary.get("attempts")
    if not isinstance(attempts, list) or not all(_is_attempt(attempt) for attempt in attempts):
        raise ValueError("it has no list of attempts")
    if "result" in diary and not _is_result(diary["result"]):
        raise ValueError("its result is not a step and a loss")
    return diary


def text(diary: Diary) -> str:
    return json.dumps(diary, indent=2) + "\n"


def new(folder: Path, manifest: dict[str, Any] | None) -> Diary:
    """Return the diary of a new run, or, where checkpoints outlived theirs, one with the id that they know."""
    known = manifest or {}
    diary: Diary = {
        "schema": SCHEMA,
        "id": known.get("run_id") or secrets.token_hex(8),
        "name": folder.name,
        "attempts": [],
    }
    if isinstance(earlier := known.get("attempt"), int):
        diary["earlier_attempts"] = earlier  # of which nothing else is known
    return diary


def next_attempt(diary: Diary) -> int:
    """Return the number of the attempt that begins."""
    return 1 + max([attempt["attempt"] for attempt in diary["attempts"]], default=int(diary.get("earlier_attempts", 0)))


def newest_manifest(folder: Path) -> dict[str, Any] | None:
    """Return what the newest checkpoint of a run says of it: `run_id`, `identity`, `attempt`. Without torch."""
    found = []
    for path in sorted((folder / "checkpoints").glob("step-*/MANIFEST.json")):
        try:
            if manifest := parsed(path, _manifest):
                found.append(manifest)
        except Unreadable:
            continue  # harness.checkpoint.read says so
    return max(found, key=lambda manifest: (manifest["step"], manifest["sequence"]), default=None)


def attempt_facts(number: int) -> dict[str, Any]:
    """Return what is known of an attempt when it begins."""
    return {
        "attempt": number,
        "started": now(),
        "clock": datetime.datetime.now(datetime.UTC).timestamp(),
        "launch": launch(),
        "command": [Path(sys.executable).name, *map(hidden_in_report, sys.argv)],
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": _versions(),
        "git": _git(),
    }


def sources(project: Path = PROJECT) -> dict[str, str]:
    """Return the digest of every Python file of the project by its path, whether git knows it or not."""
    packages = [init.parent for init in sorted(project.glob("*/__init__.py")) if init.parent.name != "tests"]
    files = [*project.glob("*.py"), *(file for package in packages for file in package.rglob("*.py"))]
    found = {}
    for file in sorted(files):
        try:
            found[file.relative_to(project).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        except OSError:
            continue  # removed or renamed this moment
    return found


def code_changes(before: Any, after: dict[str, str], *, most: int = 8) -> list[str]:
    """Return one line that names the files that differ, or nothing."""
    if not isinstance(before, dict) or before == after:
        return []
    words = {
        "changed": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
    }
    names = [f"{name} {what}" for what, files in words.items() for name in files]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return [f"code: {', '.join(names[:most])}{more}"]


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _is_attempt(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("attempt"), int):
        return False
    kinds = {"started": str, "versions": dict, "git": dict, "changes": list}
    return all(entry.get(name) is None or isinstance(entry[name], kind) for name, kind in kinds.items())


def _is_result(result: Any) -> bool:
    if not isinstance(result, dict) or not isinstance(result.get("step"), int):
        return False
    return isinstance(result.get("val_loss", 0), int | float | None)


def _manifest(text: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(text)
    written = manifest.pop("crc32")
    if written != f"{zlib.crc32(json.dumps(manifest, sort_keys=True).encode()):08x}":
        raise ValueError("its checksum differs")
    if not re.fullmatch(r"[0-9a-f]+", str(manifest.get("run_id"))):
        raise ValueError("it names no run")
    return manifest | {"step": int(manifest["step"]), "sequence": int(manifest["sequence"])}


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
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
