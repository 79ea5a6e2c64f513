"""launcher=local: so many jobs at a time, each in a process of its own, so that no memory and no state of one reaches
another.

On Linux a process is forked from one that has imported the target (and with it torch, Lightning, …) and
done nothing else: the first seconds of a cold start are shared. Elsewhere it starts cold: macOS and Windows have
libraries that do not survive a fork, or no fork.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from harness.config.jobs import Job, Multirun
from harness.config.names import CONF
from harness.launch import job as process
from harness.launch.gpus import FreeList, visible_gpus
from harness.launch.launcher import Watch


class Running(NamedTuple):
    job: Job
    process: BaseProcess
    gpus: list[str]
    told: bool = False  # to stop, alone


class Launcher:
    """Runs jobs as processes of this machine, `launcher.jobs` at a time."""

    def __init__(self, target: str, sweep: Multirun, watch: Watch) -> None:
        self.target, self.folder, self.watch = target, sweep.folder, watch
        self.at_once = int(sweep.launcher["jobs"])
        self.stop = 0
        self.running: dict[int, Running] = {}  # by its sentinel
        self.gpus = FreeList(visible_gpus())

    def run(self, jobs: Iterator[Job]) -> None:
        """Run all jobs, or until asked to stop: then those that run are waited for, and no other starts."""
        with self._handing_signals_on():
            self._context = self._warm()
            waiting: Job | None = None
            while True:
                while not self.stop and len(self.running) < self.at_once:
                    waiting = waiting or next(jobs, None)
                    if waiting is None or (gpus := self.gpus.take(waiting)) is None:
                        break
                    self._start(waiting, gpus)
                    waiting = None
                if not self.running:
                    return
                for sentinel in connection.wait(list(self.running), timeout=1.0):
                    self._end(self.running.pop(sentinel))  # type: ignore[arg-type]
                self._stop_unwanted()

    def log(self, job: Job) -> str:
        return (self.folder / job.name / "logs" / ("console.log" if self.at_once > 1 else "train.log")).as_posix()

    def _stop_unwanted(self) -> None:
        for sentinel, one in self.running.items():
            if not one.told and not self.watch.wanted(one.job):
                self._send(one.process, signal.SIGTERM)
                self.running[sentinel] = one._replace(told=True)

    def _warm(self) -> Any:
        """Return the way to start processes."""
        if self.at_once > 1 and not self.gpus.all:
            threads = max(1, (os.cpu_count() or 1) // self.at_once)
            os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # else each job takes all cores
        if sys.platform != "linux":
            return multiprocessing.get_context("spawn")
        # The server's path is not ours: what it fails to import, each job imports again, in silence.
        path = [str(CONF.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path))
        # A look for GPUs through CUDA itself would make them useless in every fork.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([self.target.partition(":")[0], process.__name__])
        with ignored(signal.SIGINT, signal.SIGTERM):  # the server inherits it, and outlives a Ctrl-C with its jobs
            forkserver.ensure_running()
        return context

    def _start(self, job: Job, gpus: list[str]) -> None:
        self.watch.starts(job)
        order = process.Order(self.target, job, self.folder, Path.cwd(), gpus, to_file=self.at_once > 1)
        started = self._context.Process(target=process.main, args=(order,), name=job.name)
        started.start()
        self.running[started.sentinel] = Running(job, started, gpus)
        if self.stop:  # asked while it was being started
            self._send(started, self.stop)

    def _end(self, ended: Running) -> None:
        ended.process.join()
        self.gpus.give_back(ended.gpus)
        code = ended.process.exitcode or 0
        self.watch.ended(ended.job, signal.Signals(-code).name if code < 0 else f"exit code {code}")

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal: all jobs get it. A second wish to stop ends them and this process at once."""
        if self.stop:
            for one in self.running.values():
                one.process.kill()
            os._exit(128 + signum)
        for one in list(self.running.values()):
            self._send(one.process, signum)
        if signum in (signal.SIGINT, signal.SIGTERM):
            self.stop = signum

    def _send(self, started: BaseProcess, signum: int) -> None:
        if sys.platform != "win32" and started.is_alive():  # there, Ctrl-C reaches every process of the console
            os.kill(started.pid or 0, signum)

    @contextmanager
    def _handing_signals_on(self) -> Iterator[None]:
        names = ("SIGINT", "SIGTERM", "SIGUSR1")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        before = {number: signal.signal(number, self._asked) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def ignored(*numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
