"""The story of a sweep: the same line again skips what is finished, continues what is not, and adds what is new."""

import signal
import sys
from pathlib import Path

from harness.config.jobs import Job, Multirun
from harness.errors import Stopped, UserError
from harness.launch import table
from harness.launch.launcher import launcher
from harness.launch.status import Status
from harness.run.lock import locked


def run(target: str, sweep: Multirun) -> None:
    """Run the jobs of a sweep that are not finished. Raises UserError at the end where some failed."""
    if any(Status.of(sweep.folder, job).state != "finished" for job in sweep.jobs):
        launcher(sweep.launcher["name"])  # what it lacks is said before anything is written
    sweep.folder.mkdir(parents=True, exist_ok=True)
    lock = locked(sweep.folder)
    try:
        todo = [job for job in sweep.jobs if Status.of(sweep.folder, job).state != "finished"]
        say(f"{sweep.folder.as_posix()}: {len(sweep.jobs)} jobs, {len(sweep.jobs) - len(todo)} of them finished.")
        stop = Runner(target, sweep).run(todo) if todo else 0
        conclude(sweep, stop, trained=bool(todo))
    finally:
        if lock is not None:
            lock.release()


class Runner:
    """Has jobs run, and keeps their status files."""

    def __init__(self, target: str, sweep: Multirun) -> None:
        self.sweep = sweep
        self.numbers = {job.name: number for number, job in enumerate(sweep.jobs, start=1)}
        self.launcher = launcher(sweep.launcher["name"])(target, sweep, self)

    def run(self, jobs: list[Job]) -> int:
        """Return the signal that stopped them, or 0."""
        self.launcher.run(iter(jobs))
        return self.launcher.stop

    def starts(self, job: Job) -> None:
        status = Status.of(self.sweep.folder, job)
        status.state, status.reason, status.log = "running", "", self.launcher.log(job)
        status.write(self.sweep.folder)
        say(f"{self.called(job)} starts in {job.name}")

    def wanted(self, job: Job) -> bool:
        return True

    def ended(self, job: Job, why: str) -> None:
        status = Status.of(self.sweep.folder, job)
        if status.state == "running":  # it had no time to write
            asked = why in ("SIGINT", "SIGTERM")
            status.state, status.reason = ("stopped" if asked else "failed"), f"Its process ended with {why}."
            status.write(self.sweep.folder)
        loss = "" if status.val_loss is None else f", validation loss {status.val_loss:.4f}"
        say(f"{self.called(job)}: {status.state}{loss}, {status.seconds:,.0f} s")

    def called(self, job: Job) -> str:
        words = " ".join(f"{key}={value}" for key, value in job.swept.items())
        return f"Job {self.numbers[job.name]} of {len(self.numbers)} ({words})" if words else "The job"


def conclude(sweep: Multirun, stop: int, *, trained: bool) -> None:
    """Write and show the table, and raise what is to be said where not all jobs are finished."""
    jobs = [Status.of(sweep.folder, job) for job in sweep.jobs]
    rows = [*jobs, *Status.others(sweep.folder, {job.name for job in jobs})]
    table.write(sweep.folder, rows)
    table.show(rows)
    if not stop and (trained or not (sweep.folder / "report.html").exists()):
        say_where(table.page(sweep.folder))
    missing = [job for job in jobs if job.state != "finished"]
    again = how_to_go_on(sweep)
    if stop:
        raise Stopped(signal.Signals(stop).name, code=128 + stop, cure=f"{again} goes on from here.")
    if missing:
        what = f"{len(missing)} of {len(jobs)} jobs failed or stopped: the table says why."
        raise UserError(what, cure=f"{again} tries them again.", code=1)
    if not trained:
        say("Nothing to do: every job is finished. To train them longer, raise trainer.max_steps.")


def how_to_go_on(sweep: Multirun) -> str:
    if not sweep.fresh:
        return "The same command"
    return f"The same command with sweep.name={sweep.folder.name} in place of resume=never"


def say_where(page: Path | None) -> None:
    if page is not None:
        say(f"The page: {page.as_posix()}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
