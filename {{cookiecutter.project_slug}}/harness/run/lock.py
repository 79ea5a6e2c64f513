"""One process at a time trains a run: `.lock`, which the system frees even after a crash, and `.holder`, who has it."""

import logging
import os
import socket
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from harness.errors import UserError
from harness.files import Unreadable, parsed, set_aside, write_whole

log = logging.getLogger(__name__)


def locked(folder: Path) -> BaseFileLock | None:
    """Lock a run's folder; None where its disk knows no locks. Raises UserError when another process has it."""
    path, holder = folder / ".lock", folder / ".holder"
    if path.is_symlink() or (path.exists() and not path.is_file()):
        set_aside(path, f"{path} is not a file")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"The run in {folder} is being trained by {_who(holder)}.",
            cure="Wait for it, stop it, or start another beside it with resume=never.",
        ) from None
    except (OSError, NotImplementedError) as error:  # ENOLCK of some network disks, no permission, ...
        log.warning(
            "%s cannot be locked (%s): nothing keeps a second process from training this run at the same time.",
            folder, error,
        )  # fmt: skip
        return None
    try:
        write_whole(holder, f"process {os.getpid()} on {socket.gethostname()}")
    except OSError as error:
        log.warning("Cannot write %s (%s).", holder, error)
    return lock


def _who(holder: Path) -> str:
    try:
        text = parsed(holder, str) or ""
    except Unreadable:
        text = ""
    return text if text.isprintable() and 0 < len(text) < 200 else "another process"
