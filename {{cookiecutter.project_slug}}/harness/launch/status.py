"""What is known of each job, in `status/NAME.json` of the sweep's folder: written whole, and on the disk before it
counts."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from harness.config.jobs import Job, Multirun
from harness.files import make_folder, recovered, write_whole

FOLDER = "status"

# A job whose process was killed is still called running; its run's lock says who trains it.
State = Literal["waiting", "running", "finished", "pruned", "stopped", "failed"]


@dataclass
class Status:
    """One job."""

    name: str
    overrides: dict[str, str]  # those that are swept
    asked: str  # see Job.asked
    state: State = "waiting"
    step: int | None = None
    val_loss: float | None = None
    seconds: float = 0.0  # at work, in the attempts that were not killed
    reason: str = ""  # why it failed or stopped
    log: str = ""

    @classmethod
    def of(cls, folder: Path, job: Job) -> "Status":
        """Return what is known of a job of the sweep in `folder`, as of what it is asked for now."""
        status = cls.known(folder, job.name) or cls(job.name, job.swept, job.asked)
        run_is_there = (folder / job.name).is_dir()
        if status.state == "finished" and not (status.asked == job.asked and run_is_there):
            status.state = "waiting"
        status.overrides, status.asked = job.swept, job.asked
        return status

    @classmethod
    def known(cls, folder: Path, name: str) -> "Status | None":
        """Return what is known of the job of that name."""
        return recovered(_path(folder, name), parse)

    @classmethod
    def others(cls, folder: Path, jobs: set[str]) -> "list[Status]":
        """Return the jobs of earlier lines, which swept other values of the same keys."""
        found = (recovered(path, parse) for path in sorted((folder / FOLDER).glob("*.json")))
        return [status for status in found if status and status.name not in jobs]

    def write(self, folder: Path) -> None:
        make_folder(folder / FOLDER)
        write_whole(_path(folder, self.name), json.dumps(asdict(self), indent=2) + "\n")


def finished(sweep: Multirun) -> set[str]:
    """Return the names of the jobs that have done what is asked of them."""
    return {job.name for job in sweep.jobs if Status.of(sweep.folder, job).state == "finished"}


def parse(text: str) -> Status:
    """Return the status in a text. Raises ValueError or TypeError for anything else."""
    loaded: dict[str, Any] = json.loads(text)
    status = Status(**{field.name: loaded[field.name] for field in fields(Status)})
    numbers = (status.step, status.val_loss, status.seconds)
    if status.state not in get_args(State) or not isinstance(status.overrides, dict):
        raise ValueError("it is not the status of a job")
    if not all(value is None or isinstance(value, int | float) for value in numbers) or status.seconds is None:
        raise ValueError("its numbers are none")
    return status


def _path(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.json"
