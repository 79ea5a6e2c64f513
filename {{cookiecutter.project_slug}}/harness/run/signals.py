"""What the outside asks of this process: to stop (SIGTERM, SIGINT, a time limit), to make room until its cluster
starts it again (SIGUSR2), or to checkpoint now (SIGUSR1).

A handler only notes the wish; training looks at it between two optimizer steps. Before training there is nothing to
save, so a wish to stop ends the process at once, and a second wish always does.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from harness.errors import Stopped

STARTED = time.monotonic()
MAKE_ROOM = "SIGUSR2"  # not SIGUSR1, which NCCL and Lightning may take for themselves


class StopRequest:
    """The requests of one process, each with its reason. `training` is true while a loop promises to look at them."""

    def __init__(self) -> None:
        self.training = False
        self.stop = ""
        self.checkpoint = ""

    def asked(self, signum: int, frame: FrameType | None = None) -> None:
        """Handle a signal."""
        name = signal.Signals(signum).name
        if name == "SIGUSR1":
            self.checkpoint = name
        elif name == self.stop and _comes_twice(name):
            return
        elif self.stop:
            os._exit(128 + signum)  # no finally, no atexit: whoever asks twice means now, and checkpoints survive that
        elif self.training:
            self.stop = name
            # Not by logging: the handler may have interrupted just that.
            at_once = "" if _comes_twice(name) else " To end at once, send it once more."
            os.write(2, f"{name}: stops after this step.{at_once}\n".encode())
        else:
            raise Stopped(name, code=128 + signum)

    @property
    def code(self) -> int:
        """Exit code of the wish to stop, by the shells' custom; 0 without one."""
        return 128 + getattr(signal, self.stop, signal.SIGTERM) if self.stop else 0


requests = StopRequest()


def _comes_twice(name: str) -> bool:
    """Return whether a second signal is no second wish: SLURM signals all processes of a job, and its srun, like
    torchrun, then hands on what it got itself. Both end for good what has not ended after a while."""
    by_slurm = name == "SIGTERM" and "SLURM_JOB_ID" in os.environ
    return name == MAKE_ROOM or by_slurm or "TORCHELASTIC_RUN_ID" in os.environ


def install() -> None:
    """Let `requests` handle the signals. In a thread nothing can be installed, nor does a signal arrive there."""
    if threading.current_thread() is threading.main_thread():
        for number in _signals():
            signal.signal(number, requests.asked)


@contextmanager
def listening() -> Iterator[None]:
    """Handle the signals during a run, from before its data are built, and then as they were handled before."""
    before = {number: signal.getsignal(number) for number in _signals()}
    requests.stop, requests.checkpoint = "", ""
    install()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _signals() -> list[signal.Signals]:
    names = ("SIGTERM", "SIGINT", "SIGUSR1", MAKE_ROOM)
    return [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has neither of the last two
