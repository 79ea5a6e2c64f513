"""The story of a sweep: the same line again skips what is finished, continues what is not, and adds what is new."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from harness.config.jobs import Job, Multirun
from harness.errors import Stopped, UserError
from harness.launch import table
from harness.launch.launcher import launcher
from harness.launch.status import Status
from harness.run.lock import locked


class Plan(Protocol):
    """Which jobs there are, and what has come of them."""

    total: int

    @property
    def done(self) -> int: ...

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs that are not done."""

    def called(self, job: Job) -> str:
        """Return `1 of 12`."""

    def wanted(self, job: Job) -> bool:
        """Return whether a running job is to go on."""

    def ended(self, job: Job, status: Status) -> None: ...

    def rows(self) -> list[Status]:
        """Return what is known of each job, in the order of the table."""


class Grid:
    """Every combination of the values that are listed."""

    def __init__(self, sweep: Multirun) -> None:
        self.sweep, self.total = sweep, len(sweep.jobs)
        self._todo = [job for job in sweep.jobs if Status.of(sweep.folder, job).state != "finished"]
        self._numbers = {job.name: number for number, job in enumerate(sweep.jobs, start=1)}

    @property
    def done(self) -> int:
        return self.total - len(self._todo)

    def jobs(self) -> Iterator[Job]:
        return iter(self._todo)

    def called(self, job: Job) -> str:
        return f"{self._numbers[job.name]} of {self.total}"

    def wanted(self, job: Job) -> bool:
        return True

    def ended(self, job: Job, status: Status) -> None:
        pass

    def rows(self) -> list[Status]:
        return [Status.of(self.sweep.folder, job) for job in self.sweep.jobs]


def run(target: str, sweep: Multirun) -> None:
    """Run the jobs of a sweep that are not finished. Raises UserError at the end where some failed."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    lock = locked(sweep.folder)
    try:
        plan: Plan = search(sweep) if sweep.is_search else Grid(sweep)
        say(f"{sweep.folder.as_posix()}: {plan.total} jobs, {plan.done} of them finished.")
        stop = 0
        if trained := plan.done < plan.total:
            runner = Runner(target, sweep, plan)
            runner.launcher.run(plan.jobs())
            stop = runner.launcher.stop
        conclude(sweep, plan, stop, trained=trained)
    finally:
        if lock is not None:
            lock.release()


def search(sweep: Multirun) -> Plan:
    from harness.launch.search import Search  # Optuna is an extra

    return Search(sweep)


class Runner:
    """Has jobs run, and keeps their status files."""

    def __init__(self, target: str, sweep: Multirun, plan: Plan) -> None:
        self.sweep, self.plan = sweep, plan
        self.launcher = launcher(sweep.launcher["name"])(target, sweep, self)

    def starts(self, job: Job) -> None:
        status = Status.of(self.sweep.folder, job)
        status.state, status.reason, status.log = "running", "", self.launcher.log(job)
        status.write(self.sweep.folder)
        say(f"{self.called(job)} starts in {job.name}")

    def wanted(self, job: Job) -> bool:
        return self.plan.wanted(job)

    def ended(self, job: Job, why: str) -> None:
        status = Status.of(self.sweep.folder, job)
        if status.state == "running":  # it had no time to write
            asked = why in ("SIGINT", "SIGTERM")
            status.state, status.reason = ("stopped" if asked else "failed"), f"Its process ended with {why}."
            status.write(self.sweep.folder)
        called = self.called(job)
        self.plan.ended(job, status)
        loss = "" if status.val_loss is None else f", validation loss {status.val_loss:.4f}"
        say(f"{called}: {status.state}{loss}, {status.seconds:,.0f} s")

    def called(self, job: Job) -> str:
        words = " ".join(f"{key}={value}" for key, value in job.swept.items())
        return f"Job {self.plan.called(job)} ({words})" if words else "The job"


def conclude(sweep: Multirun, plan: Plan, stop: int, *, trained: bool) -> None:
    """Write and show the table, and raise what is to be said where not all jobs are finished."""
    jobs = plan.rows()
    rows = [*jobs, *Status.others(sweep.folder, {job.name for job in jobs})]
    table.write(sweep.folder, rows)
    table.show(rows)
    if not stop and (trained or not (sweep.folder / "report.html").exists()):
        say_where(table.page(sweep.folder))
    missing = [job for job in jobs if job.state not in ("finished", "pruned")]
    again = how_to_go_on(sweep)
    if stop:
        raise Stopped(signal.Signals(stop).name, code=128 + stop, cure=f"{again} goes on from here.")
    if missing:
        what = f"{len(missing)} of {len(jobs)} jobs failed or stopped: the table says why."
        raise UserError(what, cure=f"{again} tries them again.", code=1)
    if not trained:
        longer = "raise sweep.n_trials or trainer.max_steps" if sweep.is_search else "raise trainer.max_steps"
        say(f"Nothing to do: every job is finished. To train longer, {longer}.")


def how_to_go_on(sweep: Multirun) -> str:
    if not sweep.fresh:
        return "The same command"
    return f"The same command with sweep.name={sweep.folder.name} in place of resume=never"


def say_where(page: Path | None) -> None:
    if page is not None:
        say(f"The page: {page.as_posix()}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
