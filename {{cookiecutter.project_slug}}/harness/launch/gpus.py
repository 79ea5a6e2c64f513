"""Which GPUs a job may use: each has its own, as long as there are enough."""

import os
import subprocess

from harness.config.jobs import Job


class FreeList:
    """The GPUs of this machine that no job has. Without any, every job gets none and may start."""

    def __init__(self, gpus: list[str]) -> None:
        self.all = gpus
        self.free = list(gpus)

    def take(self, job: Job) -> list[str] | None:
        """Return GPUs for a job; None where it has to wait for others to give theirs back."""
        count = wanted(job, len(self.all))
        if count > len(self.free):
            return None
        taken, self.free = self.free[:count], self.free[count:]
        return taken

    def give_back(self, gpus: list[str]) -> None:
        self.free = [gpu for gpu in self.all if gpu in self.free or gpu in gpus]


def wanted(job: Job, here: int) -> int:
    """Return how many GPUs a job is to have, of so many that there are."""
    if job.accelerator in ("cpu", "mps"):
        return 0
    if isinstance(job.devices, int) and job.devices > 0:
        return min(job.devices, here)
    return here  # auto, -1, or a list that counts the GPUs of the whole machine


def visible_gpus() -> list[str]:
    """Return the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them, without importing torch."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in ("", "-1")]
    # By UUID: CUDA counts the fastest first, nvidia-smi by place.
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()
