"""What runs the jobs of a sweep: `launcher.name` names the module of this folder whose class `Launcher` does it."""

import importlib
from collections.abc import Iterator
from typing import Protocol

from harness.config.jobs import Job, Multirun


class Watch(Protocol):
    """Who keeps the status files is told of each job, in the process that launches."""

    def starts(self, job: Job) -> None:
        """Say that a job is about to start, before anything of it runs."""

    def wanted(self, job: Job) -> bool:
        """Return whether a running job is to go on; if not, it gets SIGTERM, and stops at a checkpoint. Ask about once
        a second."""

    def ended(self, job: Job, why: str) -> None:
        """Say that nothing of a job runs any more. `why`: how its process ended, for a job that could not write that
        down itself (`SIGKILL`, `exit code 1`)."""


class Launcher(Protocol):
    """Runs jobs, each by `harness.launch.job.main` with an Order, in a process of its own."""

    stop: int
    """The signal that asked to stop, or 0. Then jobs have stopped at a checkpoint, and no other was started."""

    def __init__(self, target: str, sweep: Multirun, watch: Watch) -> None:
        """target: `module:function`, which trains a config. The keys of conf/launcher/ are in `sweep.launcher`."""

    def run(self, jobs: Iterator[Job]) -> None:
        """Run all jobs, and return when none runs any more. Take the next one only when there is room for it: a search
        chooses it then, from what has come of the others."""

    def log(self, job: Job) -> str:
        """Return where a person reads what the job prints, in a file of its run's folder."""


def launcher(name: str) -> type[Launcher]:
    """Return the launcher of that name. Raises UserError, with what to install, where its library is not here."""
    return importlib.import_module(f"harness.launch.{name}").Launcher  # type: ignore[no-any-return]
