"""launcher=slurm: jobs in SLURM's queue, submitted as arrays by submitit. They need nobody who waits for them: the
command that does can be ended and typed again, and finds those that are still queued or running.

A job that SLURM preempts, or whose time is up, gets SIGUSR2: it stops at a checkpoint and requeues itself
(harness/run/requeue.py).
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from harness.config import secrets
from harness.config.compose import hydra_errors_as_user_errors
from harness.config.jobs import Job, Multirun
from harness.config.names import CONF
from harness.errors import Stopped, UserError
from harness.hydra_main import train
from harness.launch import job as process
from harness.launch import squeue
from harness.launch.launcher import Watch, handling
from harness.launch.status import Status
from harness.ranks import rank
from harness.run import environment, requeue

try:
    import submitit
except ImportError as error:
    raise UserError("launcher=slurm needs submitit.", cure="Type: pip install submitit -c constraints.txt") from error
if shutil.which("sbatch") is None and not requeue.job_id():  # a job itself does without
    raise UserError(
        "launcher=slurm needs SLURM, and there is no sbatch on PATH.",
        cure="Log in to a machine from which jobs are submitted, or take launcher=local.",
    )

FOLDER = "slurm"  # of the sweep: what submitit writes, and what SLURM prints
LONGEST_NAME = 60
POLL = (0.5, 15.0)  # seconds between two looks at the queue: at first, and when nothing changes
OPTIONS = ("partition", "account", "qos", "cpus_per_task", "mem")  # keys of conf/launcher/ that submitit knows
SAYS_WHY = 30.0  # seconds: a rank that fails leaves them to rank 0, which writes down why, before SLURM ends all ranks


class Launcher:
    """Has SLURM run jobs, `launcher.jobs` of them in its queue at a time."""

    def __init__(self, target: str, sweep: Multirun, watch: Watch) -> None:
        self.target, self.folder, self.watch = target, sweep.folder, watch
        self.settings = {key: value for key, value in sweep.launcher.items() if value is not None}
        self.stop = 0
        self.queued: dict[str, Job] = {}  # by handle
        self.outgrown: set[str] = set()  # handles of jobs that were submitted for fewer steps than are asked for now
        self.told: set[str] = set()  # handles of jobs that were asked to stop

    def run(self, jobs: Iterator[Job]) -> None:
        """Submit what is not in the queue yet, and wait for all."""
        pause = POLL[0]
        with handling(self._asked, "SIGINT", "SIGTERM"):
            while not self.stop:
                changed = self._fill(jobs) or self._look()
                if not self.queued:
                    return
                pause = POLL[0] if changed else min(1.5 * pause, POLL[1])
                self._wait(pause)
        names = " ".join(f"--name={name}" for name in sorted({squeue.submission(handle) for handle in self.queued}))
        say(f"{len(self.queued)} jobs stay with SLURM; the same command waits for them. To cancel: scancel {names}")

    def log(self, job: Job) -> str:
        return (self.folder / job.name / "logs" / "console.log").as_posix()

    def _fill(self, jobs: Iterator[Job]) -> bool:
        """Take as many jobs as there is room for, and submit those that SLURM does not have already."""
        if len(self.queued) == self.settings["jobs"] or (seen := squeue.look()) is None:
            return False  # without an answer it is not known what runs already
        new: list[Job] = []
        while len(self.queued) + len(new) < self.settings["jobs"] and (job := next(jobs, None)):
            known = Status.known(self.folder, job.name)
            if known and known.queued in seen and not seen[known.queued].over:
                say(f"{job.name} is with SLURM already, as {seen[known.queued].id}: {seen[known.queued].state}")
                self.queued[known.queued] = job
                self.outgrown |= {known.queued} if known.asked != job.asked else set()
            else:
                new.append(job)
        alike: dict[str, list[Job]] = {}
        for job in new:
            alike.setdefault(json.dumps(self._resources(job)), []).append(job)
        for group in alike.values():
            self._submit(group)
        return bool(new)

    def _submit(self, jobs: list[Job]) -> None:
        """Submit jobs that need the same resources, as an array."""
        settings = (self.settings.get("setup", ()), self.settings.get("sbatch", {}).values())
        refuse_secrets(
            [*(word for job in jobs for word in job.words), *(str(text) for part in settings for text in part)]
        )
        name = f"{self.folder.name[:LONGEST_NAME]}-{uuid.uuid4().hex[:6]}"
        for number, job in enumerate(jobs):
            self.watch.starts(job)
            status = Status.of(self.folder, job)
            status.state, status.queued = "waiting", squeue.handle(name, number)
            status.write(self.folder)
            self.queued[status.queued] = job
        folder = self.folder / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        executor = submitit.SlurmExecutor(folder.resolve())
        executor.update_parameters(**self._options(name, jobs[0]))
        orders = [process.Order(self.target, job, self.folder, Path.cwd(), [], to_file=True) for job in jobs]
        try:
            submitted = executor.map_array(main, orders, [sys.argv[0]] * len(orders))
        except submitit.core.utils.FailedJobError as error:
            what = secrets.hidden_in_report(str(error).strip())
            raise UserError(f"SLURM refused the jobs: {what}", cure="See conf/launcher/slurm.yaml.") from error
        array = submitted[0].job_id.partition("_")[0]
        say(f"Submitted as SLURM job {array}: {len(jobs)} jobs. What goes wrong before they train is in {folder}.")

    def _options(self, name: str, job: Job) -> dict[str, Any]:
        """Return what submitit is told for an array of jobs like this one."""
        path = f"export PYTHONPATH={shlex.quote(str(CONF.parent))}${{PYTHONPATH:+:$PYTHONPATH}}"
        cpus = self.settings.get("cpus_per_task")
        options = {key: self.settings[key] for key in OPTIONS if key in self.settings}
        time_limit = {key: self.settings[key] for key in ("time",) if key in self.settings}
        return self._resources(job) | options | {
            "job_name": name,
            "array_parallelism": self.settings["jobs"],
            "signal_delay_s": self.settings["signal_seconds"],
            "stderr_to_stdout": True,
            "setup": [*self.settings.get("setup", ()), path],
            # Since 22.05 a step does not take over what sbatch was given. A rank that is killed ends all.
            "srun_args": [*([f"--cpus-per-task={cpus}"] if cpus else []), "--kill-on-bad-exit=1"],
            "additional_parameters": time_limit | self.settings.get("sbatch", {}),
        }  # fmt: skip

    def _resources(self, job: Job) -> dict[str, int]:
        """Return what differs between jobs: each rank is a task, and has a GPU unless the job is for CPUs."""
        gpus = 0 if job.accelerator in ("cpu", "mps") else self.settings.get("gpus_per_node")
        ranks = job.devices if isinstance(job.devices, int) and job.devices > 0 else gpus or 1
        gpus = ranks if gpus is None else gpus
        return {"nodes": job.nodes, "ntasks_per_node": ranks} | ({"gpus_per_node": gpus} if gpus else {})

    def _look(self) -> bool:
        """See which jobs have ended, and stop those that nobody wants any more."""
        if (seen := squeue.look()) is None:
            return False
        over = [handle for handle in self.queued if handle not in seen or seen[handle].over]
        for handle in over:
            self._end(handle, seen.get(handle))
        for handle, job in self.queued.items():
            if handle in seen and handle not in self.told and not self.watch.wanted(job):
                self.told.add(handle)
                # Not SIGTERM: SLURM takes that for the end of the step, and kills it soon after.
                subprocess.run(["scancel", "--signal=INT", seen[handle].id], check=False)
        return bool(over)

    def _end(self, handle: str, seen: squeue.Seen | None) -> None:
        job = self.queued.pop(handle)
        if handle in self.outgrown:
            self._submit([job])
            return
        status = Status.of(self.folder, job)
        word = f"{seen.id} ended: {seen.state}" if seen else "is gone"
        if status.state in ("waiting", "running"):  # it had no time to write
            status.state = "stopped" if seen and seen.state in ("CANCELLED", "PREEMPTED", "TIMEOUT") else "failed"
            status.reason = f"Its SLURM job {word}."
            status.write(self.folder)
        self.watch.ended(job, word)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.stop and time.monotonic() < until:
            time.sleep(0.1)

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        self.stop = signum


def refuse_secrets(texts: Sequence[str]) -> None:
    """Raise UserError for what must not be written into a file: submitit keeps what a job is told in one."""
    for text in texts:
        if (shown := secrets.hidden_in_report(text)) != text:
            raise UserError(
                f"{shown} has a secret in it, which would be written into the files of the jobs.",
                cure="Put it into .env or the environment, which SLURM hands on: 'KEY=${oc.env:NAME}' reads it there.",
            )


def main(order: process.Order, program: str) -> None:
    """Run a job: what each task of a SLURM job does, a rank each."""
    os.chdir(order.here)
    sys.argv[0] = program
    environment.apply(environment.read_dotenv(Path(".env")))
    secrets.learn(dict(os.environ), list(order.job.words))
    if rank() == 0:
        process.run(order)
        return
    try:
        with hydra_errors_as_user_errors(), suppress(Stopped):
            train(order.job.words, order.target)
    except BaseException as error:
        print(secrets.hidden_in_report(f"Rank {rank()}: {error!r}"), file=sys.stderr, flush=True)
        time.sleep(SAYS_WHY)
        sys.exit(1)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
