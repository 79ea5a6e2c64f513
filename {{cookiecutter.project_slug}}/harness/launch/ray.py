"""launcher=ray: jobs as tasks of a Ray cluster, of this machine or one that is there, which gives each its CPUs and
GPUs.

Each task has a worker of its own, and the job a process below that: it ends with the worker.
"""

import importlib.util
import logging
import multiprocessing
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from harness.config.jobs import Job, Multirun
from harness.errors import UserError
from harness.launch import job as process
from harness.launch.gpus import wanted
from harness.launch.launcher import Watch, handling
from harness.run import environment

if importlib.util.find_spec("ray") is None:
    raise UserError("launcher=ray needs ray.", cure="Type: pip install ray -c constraints.txt")

ENDED = 0.5  # seconds between two looks at a job's process


class Launcher:
    """Has a Ray cluster run jobs, at most `launcher.jobs` at a time, as far as its CPUs and GPUs go."""

    def __init__(self, target: str, sweep: Multirun, watch: Watch) -> None:
        self.target, self.folder, self.watch = target, sweep.folder, watch
        self.settings = sweep.launcher
        self.stop = 0
        self.running: dict[Any, Job] = {}  # by Ray's reference to what the task returns
        self.told: set[str] = set()  # names of jobs that were asked to stop

    def run(self, jobs: Iterator[Job]) -> None:
        """Run all jobs, or until asked to stop: then those that run are waited for, and no other starts."""
        self.ray = connected(self.settings.get("address"))
        try:
            with handling(self._asked, "SIGINT", "SIGTERM"):
                while self._start_some(jobs) or self.running:
                    ended, _ = self.ray.wait(list(self.running), timeout=1.0)
                    for reference in ended:
                        self.watch.ended(self.running.pop(reference), self._how(reference))
                    self._stop_unwanted()
        finally:
            self.ray.shutdown()

    def log(self, job: Job) -> str:
        return (self.folder / job.name / "logs" / "console.log").as_posix()

    def _start_some(self, jobs: Iterator[Job]) -> bool:
        """Hand jobs to Ray as long as there is room, and return whether there was one."""
        before = len(self.running)
        all_gpus = int(self.ray.cluster_resources().get("GPU", 0))
        while not self.stop and len(self.running) < self.settings["jobs"] and (job := next(jobs, None)):
            self.watch.starts(job)
            order = process.Order(self.target, job, self.folder, Path.cwd(), [], to_file=True)
            asked = {"num_cpus": self.settings["cpus"], "num_gpus": wanted(job, all_gpus)}
            # max_calls: a worker of its own. A job that was killed is for the same command to go on with.
            task = self.ray.remote(max_calls=1, max_retries=0, **asked)(train)
            self.running[task.remote(order, sys.argv[0])] = job
        return len(self.running) > before

    def _stop_unwanted(self) -> None:
        for reference, job in self.running.items():
            if job.name not in self.told and (self.stop or not self.watch.wanted(job)):
                self.told.add(job.name)
                self.ray.cancel(reference)

    def _how(self, reference: Any) -> str:
        """Return how the process of a task ended."""
        try:
            code = self.ray.get(reference)
        except self.ray.exceptions.TaskCancelledError:  # before it began
            return "SIGTERM"
        except self.ray.exceptions.RayError as error:
            return type(error).__name__
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal. A second wish to stop ends this process at once, and with it what Ray has started."""
        if self.stop:
            os._exit(128 + signum)
        self.stop = signum


def connected(address: str | None) -> Any:
    """Return Ray, connected to the cluster at an address, or to one that is started here and that only this machine can
    reach."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # else it tells its makers, and asks
    here: dict[str, Any] = {} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    if address is None:  # a password for this cluster alone: Ray's own would lie in the home folder
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray  # not sooner: it reads the environment once

    try:
        ray.init(
            address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **({} if address else here)
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"The Ray cluster at {address} cannot be reached" if address else "Ray does not start here"
        cure = "launcher.address=null starts one on this machine." if address else "launcher=local needs no Ray."
        raise UserError(f"{where} ({error}).", cure=cure) from error
    return ray


def train(order: process.Order, program: str) -> int:
    """Run a job in a process of this machine, and return its exit code. When Ray cancels it, it stops at a
    checkpoint."""
    os.chdir(order.here)
    sys.argv = [program]
    environment.apply(environment.read_dotenv(Path(".env")))
    started = multiprocessing.get_context("spawn").Process(target=process.main, args=(order,), name=order.job.name)
    started.start()
    while started.is_alive():
        try:
            started.join(ENDED)
        except KeyboardInterrupt:
            started.terminate()
    return started.exitcode or 0
