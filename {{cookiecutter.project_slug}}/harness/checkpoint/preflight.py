"""Will checkpoints work here? Asked before training, when nothing is lost yet."""

import os
import shutil
import time
from pathlib import Path

from harness.checkpoint.write import TEMPORARY, fsync, sync_folder
from harness.errors import UserError

PROBE_BYTES = 1 << 22
WORTH_SAYING = 0.1  # a checkpoint that takes this share of the time between two


def preflight(folder: Path, *, checkpoint_bytes: int, checkpoints: int, seconds_between: float) -> list[str]:
    """Return warnings about `folder`, which is to hold `checkpoints` checkpoints of `checkpoint_bytes`. Raises
    UserError.

    Does once what a checkpoint does: write, fsync, rename within the folder, fsync the folder.
    """
    probe = folder / f"{TEMPORARY}probe-{os.getpid()}"
    moved = probe.with_name(f"{probe.name}-moved")
    started = time.monotonic()
    try:
        probe.mkdir(parents=True)
        (probe / "data").write_bytes(os.urandom(PROBE_BYTES))
        fsync(probe / "data")
        probe.rename(moved)
        sync_folder(folder)
    except OSError as error:
        raise UserError(
            f"No checkpoint can be written in {folder} ({error}).", cure="Choose another folder with run.root=FOLDER."
        ) from error
    finally:
        shutil.rmtree(probe, ignore_errors=True)
        shutil.rmtree(moved, ignore_errors=True)
    seconds = (time.monotonic() - started) * checkpoint_bytes / PROBE_BYTES
    return [*_space(folder, checkpoint_bytes, checkpoints), *_pace(seconds, seconds_between)]


def _space(folder: Path, checkpoint_bytes: int, checkpoints: int) -> list[str]:
    held = sum(path.stat().st_size for path in folder.glob("step-*/*"))
    # One more than is kept, for the new one is written before the oldest goes.
    missing = (checkpoints + 1) * checkpoint_bytes - held - shutil.disk_usage(folder).free
    if missing <= 0:
        return []
    need = f"{checkpoints + 1} checkpoints of {checkpoint_bytes / 1e9:.3g} GB"
    if shutil.disk_usage(folder).free < checkpoint_bytes:
        raise UserError(
            f"The disk of {folder} has no room for a checkpoint of {checkpoint_bytes / 1e9:.3g} GB.",
            cure="Free some space, or choose another disk with run.root=FOLDER.",
        )
    return [f"The disk of {folder} lacks {missing / 1e9:.3g} GB for {need}: free some, or lower checkpoint.keep_last."]


def _pace(seconds: float, seconds_between: float) -> list[str]:
    if seconds <= WORTH_SAYING * seconds_between:
        return []
    share = f"about {seconds:.0f} s here, {100 * seconds / seconds_between:.0f} % of the time between two"
    return [f"A checkpoint will take {share}: raise checkpoint.every_minutes."]
