"""Give a SLURM job back to its queue: it starts again where there is room, and goes on from its checkpoint."""

import logging
import os
import subprocess
import time

from harness.ranks import rank
from harness.run import diary as diaries
from harness.run.facts import RunFacts
from harness.run.folder import Run

log = logging.getLogger(__name__)

FOR_RANK_0 = 10.0  # seconds: where one rank ends, whatever started them ends all, and rank 0 has to requeue before


def requeue(run: Run) -> bool:
    """Requeue the SLURM job that this attempt runs in, and return whether that was done. SLURM then ends it.

    It is not done where the attempt has made no checkpoint: a time limit shorter than the first steps need would have
    it start for ever.
    """
    job = job_id()
    if not job:
        return False
    if rank() > 0:
        time.sleep(FOR_RANK_0)
        return True
    manifest = diaries.newest_manifest(run.folder)
    if manifest is None or manifest.get("attempt") != RunFacts.of(run.diary).attempt:
        log.warning("SLURM job %s is not requeued: it has got no further. Give it more time.", job)
        return False
    log.info("SLURM job %s is requeued, and goes on from step %d.", job, manifest["step"])
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, encoding="utf-8")
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("It was not (%s %s).", error, (getattr(error, "stderr", "") or "").strip())
        return False
    return True


def job_id() -> str:
    """Return the id of the SLURM job of this process, empty without one."""
    # The plain id of a job in an array can be that of the array: all of it would be requeued.
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID", "")
