"""What SLURM says of the jobs of a sweep, by the names that we gave them: it needs no accounting to know those."""

import subprocess
from typing import NamedTuple

# Whatever else SLURM calls a job, now or in later versions, it may still run.
OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
COMMAND = ("squeue", "--noheader", "--array", "--me", "--states=all", "--format=%j|%K|%i|%T")


class Seen(NamedTuple):
    """One job in SLURM's queue."""

    id: str
    state: str

    @property
    def over(self) -> bool:
        return self.state in OVER


def look() -> dict[str, Seen] | None:
    """Return the jobs of this user that SLURM still knows, by handle; None where it does not answer now."""
    try:
        done = subprocess.run(COMMAND, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse(done.stdout)


def parse(text: str) -> dict[str, Seen]:
    found = {}
    for line in text.splitlines():
        fields = line.rsplit("|", 3)  # only the first, a stranger's name of a job, may have a bar in it
        if len(fields) == 4:
            name, index, number, state = fields
            found[handle(name, int(index) if index.isdecimal() else 0)] = Seen(number, state.strip())
    return found


def handle(name: str, index: int) -> str:
    """Return what identifies a job for us: the name of its submission, and its index there. Both are known before
    SLURM is asked, so that a command that is killed while it submits leaves no job that nobody knows."""
    return f"{name}[{index}]"


def submission(handle: str) -> str:
    return handle.partition("[")[0]
