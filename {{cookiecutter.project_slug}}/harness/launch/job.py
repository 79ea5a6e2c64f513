"""What the process of one job does: train, and write down how it ended."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.cli import report_user_errors
from harness.config import secrets
from harness.config.compose import hydra_errors_as_user_errors
from harness.config.jobs import Job
from harness.errors import Stopped, UserError
from harness.hydra_main import train
from harness.launch.status import Status
from harness.run import folder as run_folder
from harness.run import signals

LONGEST_REASON = 1000  # characters; the log has all of it


@dataclass(frozen=True)
class Order:
    """What a job's process is told."""

    target: str  # `module:function`, which trains
    job: Job
    folder: Path  # of the sweep
    here: Path  # the working directory
    gpus: list[str]
    to_file: bool  # what it prints goes to logs/console.log of its run: other jobs print, too


def main(order: Order) -> None:
    """Run a job: the entry of a process of this machine."""
    _set_up(order)
    run(order)


def run(order: Order) -> None:
    """Train in a process that is set up, and write down how it ended."""
    if order.to_file:
        _print_to(order.folder / order.job.name / "logs" / "console.log")
    os.environ.pop("HYDRA_FULL_ERROR", None)  # the parent has set it for itself, see report_user_errors
    status = Status.of(order.folder, order.job)
    status.state = "running"
    status.write(order.folder)
    with report_user_errors(), _noted(status, order), hydra_errors_as_user_errors():
        train(order.job.words, order.target)


def _set_up(order: Order) -> None:
    """Make of a process of the pool one that trains this job."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C in a terminal reaches a whole group: here it comes from the parent, once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signals.STARTED = time.monotonic()  # a warm process began before its job
    os.chdir(order.here)
    if order.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(order.gpus)
    secrets.learn(dict(os.environ), list(order.job.words))


def _end_with_parent() -> None:
    """Nobody would write down how an orphan ended, nor start it anew: its run goes on from its last checkpoint."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _print_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


@contextmanager
def _noted(status: Status, order: Order) -> Iterator[None]:
    """Write down how the job ended and what came of it."""
    started = time.monotonic()
    try:
        yield
        status.state, status.reason = "finished", ""
    except (Stopped, KeyboardInterrupt) as reason:
        status.state, status.reason = "stopped", getattr(reason, "why", "SIGINT")
        raise
    except UserError as error:
        status.state, status.reason = "failed", secrets.hidden_in_report(str(error))
        raise
    except BaseException as error:
        what = "".join(traceback.format_exception_only(error)).strip()
        status.state, status.reason = "failed", secrets.hidden_in_report(what)
        print(secrets.hidden_in_report(traceback.format_exc()), file=sys.stderr)
        sys.exit(1)
    finally:
        result = run_folder.read(order.folder / status.name).get("result") or {}
        status.step, status.val_loss = result.get("step"), result.get("val_loss")
        status.reason = status.reason[:LONGEST_REASON]
        status.seconds += time.monotonic() - started
        status.write(order.folder)
