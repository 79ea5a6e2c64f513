"""Which rank this process is, and which launch it belongs to: known from its environment before torch is."""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from harness.errors import UserError

T = TypeVar("T")

STARTED = time.time()
PATIENCE = 600.0  # seconds: a cluster may start rank 0 last, from a cold disk
# Rank 0 leaves its attempt here, for the ranks that Lightning starts as its children.
ATTEMPT = "HARNESS_ATTEMPT"
RANK_0 = "HARNESS_RANK_0"  # and its process id
# What the ranks of one launch share and two launches do not: torchrun's and accelerate's variables, then SLURM's.
SHARED = (
    "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
    "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT",
)  # fmt: skip


def rank() -> int:
    """Return the rank of this process."""
    # Lightning's order: SLURM sets SLURM_PROCID even where it does not start the ranks.
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return 0


def launch() -> str:
    """Return what all ranks of this launch have in common, empty without a launcher."""
    return " ".join(os.environ[name] for name in SHARED if name in os.environ)


def tell_children(attempt: int) -> None:
    """Leave for the ranks that rank 0, this process, will start which attempt they belong to, and to whom."""
    os.environ |= {ATTEMPT: str(attempt), RANK_0: str(os.getpid())}


def end_with_rank_0() -> None:
    """End this process when the one that started it has ended: killed while this one begins or computes, it would be
    waited for until a collective gives up, half an hour later."""
    parent = os.environ.get(RANK_0)
    if parent is None or sys.platform == "win32":  # where an orphan is not told
        return

    def watch() -> None:
        while str(os.getppid()) == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def wait_for(found: Callable[[], T | None], what: str, *, patience: float = PATIENCE) -> T:
    """Return what `found` finds, asked until it finds something. Raises UserError when rank 0 does not do its part."""
    deadline = time.monotonic() + patience
    while (value := found()) is None:
        if time.monotonic() > deadline:
            raise UserError(
                f"Rank {rank()} waited {patience:.0f} s for rank 0 to open {what}.",
                cure="Look at what rank 0 says; all ranks need the same run.root on a shared disk.",
            )
        time.sleep(0.1)
    return value
